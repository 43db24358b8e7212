package ctnl

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

var netnsCount atomic.Int32

// newNetns makes a namespace that is removed with the test, and returns its
// name. Without root it skips, or fails where CI=true.
func newNetns(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the kernel")
	}
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	name := fmt.Sprintf("ctw-engine-%d-%d", os.Getpid(), netnsCount.Add(1))
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { run(t, "ip", "netns", "del", name) })
	return name
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func dial(t testing.TB, netns string) *Conn {
	t.Helper()
	c, err := Dial(Options{Netns: netns})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// flowN returns the nth of a family of plain TCP flows.
func flowN(n int) ct.Flow {
	o := ct.Tuple{
		Src:   netip.AddrFrom4([4]byte{10, byte(n >> 24), byte(n >> 16), byte(n >> 8)}),
		Dst:   netip.AddrFrom4([4]byte{192, 0, 2, 1}),
		Proto: ct.TCP, SrcPort: 1024 + uint16(n&0xff), DstPort: 443,
	}
	r, _ := o.Invert()
	return ct.Flow{
		Orig: o, Reply: r, Status: ct.StatusSeenReply | ct.StatusAssured,
		State: ct.TCPEstablished, Fields: ct.HasProtoInfo, TimeoutSeconds: 3600,
	}
}

func fill(t testing.TB, c *Conn, n int) {
	t.Helper()
	b := c.NewBatch()
	b.Refused = func(e *EntryError) { t.Errorf("create: %v", e) }
	for i := range n {
		f := flowN(i)
		if err := b.Create(&f); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestFillDumpStats(t *testing.T) {
	c := dial(t, newNetns(t))
	const n = 10_000
	fill(t, c, n)
	seen := make(map[ct.Tuple]bool)
	s, err := c.Dump(t.Context(), Query{}, func(f *ct.Flow) error {
		if f.StateName() != "ESTABLISHED" || !f.Assured() || !f.Replied() || f.Fields&ct.HasUnknown != 0 {
			t.Errorf("flow %+v", *f)
		}
		seen[f.Orig] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Entries != n || len(seen) != n || s.CountBefore != n || s.Short() != 0 {
		t.Errorf("%+v, %d different", s, len(seen))
	}
	stats, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	var sum ct.Counters
	for _, s := range stats {
		sum.Add(s.Counters)
	}
	if sum.Insert != n {
		t.Errorf("counters %+v", sum)
	}
	panel, err := c.Dump(t.Context(), Query{Limit: 100}, func(*ct.Flow) error { return nil })
	if err != nil || panel.Entries != 100 || !panel.Stopped {
		t.Errorf("panel %+v, %v", panel, err)
	}
}
