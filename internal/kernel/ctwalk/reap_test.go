package ctwalk_test

import (
	"net/netip"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/ctwalk"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestReaper makes entries of which half have expired as they are born. Looking
// for all of them removes that half and finds the other.
func TestReaper(t *testing.T) {
	lab.Require(t)
	const each = 1000
	h := lab.NewHost(t, "reap")
	h.Track()
	c, err := ctnl.Dial(ctnl.Options{Netns: h.Path()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all, err := ctwalk.OpenReapers(1, h.Path(), 0)
	if err != nil {
		t.Fatal(err)
	}
	r := all[0]
	defer r.Close()
	flows := expiring(each)
	live := len(flows) / 2
	before := count(t, h, c, flows)
	// The kernel may come first, and making entries removes some on its way.
	for tries := 0; before < live+each/10; tries++ {
		if tries == 10 {
			t.Fatalf("%d entries of %d: the kernel removes them sooner than this test", before, len(flows))
		}
		before = count(t, h, c, flows)
	}
	found := reap(t, r, flows)
	for i := range flows {
		if alive := flows[i].TimeoutSeconds > 0; found[i] != alive {
			t.Fatalf("%s: found %v, alive %v", flows[i].Orig, found[i], alive)
		}
	}
	t.Logf("%d entries, of which %d live", before, live)
	if n := h.Count(); n != live {
		t.Errorf("%d entries are left, want %d", n, live)
	}
	if r.Add(ct.Tuple{Src: flows[0].Orig.Src, Dst: flows[0].Orig.Dst, Proto: ct.ICMP}) {
		t.Error("an echo can be looked for")
	}
	if err := r.Run(func(int) { t.Error("found nothing") }); err != nil {
		t.Error(err)
	}
}

// expiring returns flows of every kind that can be looked for, every other with
// no time left.
func expiring(each int) (flows []ct.Flow) {
	for i := range 2 * each {
		var o ct.Tuple
		o.Proto, o.SrcPort, o.DstPort = ct.TCP, uint16(1024+i), 443
		if i/2%2 == 1 {
			o.Proto = ct.UDP
		}
		o.Src, o.Dst = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
		if i/4%2 == 1 {
			o.Src, o.Dst = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
		}
		reply, _ := o.Invert()
		f := ct.Flow{Orig: o, Reply: reply, Status: ct.StatusSeenReply | ct.StatusAssured, TimeoutSeconds: uint32(600 * (i % 2))}
		if o.Proto == ct.TCP {
			f.State, f.Fields = ct.TCPEstablished, ct.HasProtoInfo
		}
		flows = append(flows, f)
	}
	return flows
}

// count makes those entries that are not there and returns how many there are.
func count(t *testing.T, h *lab.Host, c *ctnl.Conn, flows []ct.Flow) int {
	t.Helper()
	b := c.NewBatch()
	for i := range flows {
		if err := b.Create(&flows[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	return h.Count()
}

func reap(t *testing.T, r *ctwalk.Reaper, flows []ct.Flow) []bool {
	t.Helper()
	found := make([]bool, len(flows))
	begun := 0
	run := func(end int) {
		if err := r.Run(func(i int) { found[begun+i] = true }); err != nil {
			t.Fatal(err)
		}
		begun = end
	}
	for i := range flows {
		if !r.Add(flows[i].Orig) {
			t.Fatalf("%s cannot be looked for", flows[i].Orig)
		}
		if r.Full() {
			run(i + 1)
		}
	}
	run(len(flows))
	return found
}
