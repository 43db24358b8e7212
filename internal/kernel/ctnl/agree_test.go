package ctnl_test

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ti-mo/conntrack"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// zoo returns entries of every protocol and state, in both families, with
// every kind of status, translation, mark and zone.
func zoo() []ct.Flow {
	var all []ct.Flow
	for _, v4 := range []bool{true, false} {
		tuple := func(p ct.Proto) ct.Tuple { return zooTuple(len(all), p, v4) }
		for s := range ct.NumTCPStates {
			f := flow(tuple(ct.TCP), s)
			f.TCP = ct.TCPInfo{WScaleOrig: 7, WScaleReply: 14, FlagsOrig: 0x23, FlagsReply: 0x23}
			all = append(all, f)
		}
		for s := range ct.SCTPHeartbeatAcked { // the last, which newer kernels lack
			f := flow(tuple(ct.SCTP), s)
			f.SCTP = ct.SCTPInfo{VTagOrig: 0xdeadbeef, VTagReply: 7}
			all = append(all, f)
		}
		for _, p := range []ct.Proto{ct.UDP, ct.UDPLite, ct.GRE, ct.DCCP, 50, 0xfe} {
			f := flow(tuple(p), 0)
			f.Fields = 0
			all = append(all, f)
		}
		icmp, typ := ct.ICMP, uint8(8)
		if !v4 {
			icmp, typ = ct.ICMPv6, 128
		}
		echo := tuple(icmp)
		echo.ICMPType, echo.ICMPID = typ, 4711
		all = append(all, flow(echo, 0))
		for _, change := range []func(*ct.Flow){
			func(f *ct.Flow) { f.Status = 0 },
			func(f *ct.Flow) { f.Status = ct.StatusSeenReply },
			func(f *ct.Flow) { f.Status |= ct.StatusFixedTimeout },
			func(f *ct.Flow) { f.Mark = 0xfedcba98 },
			func(f *ct.Flow) { f.Zone = 65535 },
			func(f *ct.Flow) { f.ZoneOrig = 3 },
			func(f *ct.Flow) { f.ZoneReply = 4 },
			func(f *ct.Flow) { f.TimeoutSeconds = 432_000 },
			func(f *ct.Flow) { f.Helper, f.Fields = "ftp", f.Fields|ct.HasHelper },
			func(f *ct.Flow) { f.Labels[1], f.Fields = 0x80, f.Fields|ct.HasLabels },
			snat, dnat, func(f *ct.Flow) { snat(f); dnat(f) },
			func(f *ct.Flow) { f.Reply.Dst = f.Reply.Dst.Next() }, // as another's NAT would look
		} {
			f := flow(tuple(ct.TCP), ct.TCPEstablished)
			change(&f)
			all = append(all, f)
		}
	}
	return all
}

func zooTuple(n int, p ct.Proto, v4 bool) ct.Tuple {
	t := ct.Tuple{Proto: p}
	if v4 {
		t.Src, t.Dst = netip.AddrFrom4([4]byte{10, 1, 0, byte(n)}), netip.AddrFrom4([4]byte{192, 0, 2, 1})
	} else {
		t.Src = netip.AddrFrom16([16]byte{0xfd, 15: byte(n)})
		t.Dst = netip.MustParseAddr("2001:db8::1")
	}
	if p.HasPorts() && p != ct.DCCP || p == ct.GRE {
		t.SrcPort, t.DstPort = 30_000+uint16(n), 80
	}
	return t
}

func snat(f *ct.Flow) {
	f.Status |= ct.StatusSrcNAT
	f.Reply.Dst, f.Reply.DstPort = f.Reply.Dst.Next(), 61_000
}

func dnat(f *ct.Flow) {
	f.Status |= ct.StatusDstNAT
	f.Reply.Src, f.Reply.SrcPort = f.Reply.Src.Next(), 8080
}

// line prints an entry as conntrack -L -o extended,id,timestamp does.
func line(f *ct.Flow, now time.Time) string {
	name, l3, l3num := f.Orig.Proto.String(), "ipv4", 2
	if name[0] >= '0' && name[0] <= '9' {
		name = "unknown"
	}
	if !f.Orig.Is4() {
		l3, l3num = "ipv6", 10
	}
	b := fmt.Sprintf("%-8s %d %-8s %d %d ", l3, l3num, name, f.Orig.Proto, f.TimeoutSeconds)
	if s := f.StateName(); s != "" {
		b += s + " "
	}
	dir := func(t ct.Tuple, which string, zone uint16, c ct.DirCounters) {
		b += t.String() + " "
		if zone != 0 {
			b += fmt.Sprintf("zone-%s=%d ", which, zone)
		}
		if f.Has(ct.HasCounters) {
			b += fmt.Sprintf("packets=%d bytes=%d ", c.Packets, c.Bytes)
		}
	}
	dir(f.Orig, "orig", f.ZoneOrig, f.OrigCounters)
	if !f.Replied() {
		b += "[UNREPLIED] "
	}
	dir(f.Reply, "reply", f.ZoneReply, f.ReplyCounters)
	if f.Assured() {
		b += "[ASSURED] "
	}
	b += fmt.Sprintf("mark=%d ", f.Mark)
	if f.Has(ct.HasZone) {
		b += fmt.Sprintf("zone=%d ", f.Zone)
	}
	if f.Has(ct.HasTimestamp) {
		b += fmt.Sprintf("delta-time=%d ", now.Unix()-f.StartNanos/1e9)
	}
	if f.Helper != "" {
		b += "helper=" + f.Helper + " "
	}
	return b + fmt.Sprintf("use=%d id=%d", f.Use, f.ID)
}

var approximate = regexp.MustCompile(`^(\S+ +\d+ \S+ +\d+) (\d+) (.*?)(delta-time=\d+ )?(helper=\S+ )?(use=\d+ )?(id=\d+)$`)

// exact takes out of a line what changes by itself: the timeout, which is
// returned, the age, and the references.
func exact(t *testing.T, line string) (text string, timeout int) {
	t.Helper()
	m := approximate.FindStringSubmatch(strings.TrimSpace(line))
	if m == nil {
		t.Fatalf("line %q", line)
	}
	timeout, err := strconv.Atoi(m[2])
	if err != nil {
		t.Fatal(err)
	}
	return m[1] + " " + m[3] + m[5] + m[7], timeout
}

// TestAgreesWithConntrack compares every entry of the zoo with what conntrack
// reads, with accounting and timestamps off and on.
func TestAgreesWithConntrack(t *testing.T) {
	for _, on := range []string{"0", "1"} {
		t.Run("accounting="+on, func(t *testing.T) {
			h, c := newTable(t, "conntrack")
			h.SetSysctl("net.netfilter.nf_conntrack_acct", on)
			h.SetSysctl("net.netfilter.nf_conntrack_timestamp", on)
			want := fillZoo(t, h, c)
			before := time.Now()
			all, s := dump(t, c, ctnl.Query{Unknown: func(f *ct.Flow, u ctnl.Unknown) {
				t.Errorf("unknown attribute %+v of %s", u, f.Orig)
			}})
			if len(all) != want || s.Duplicates != 0 {
				t.Fatalf("%d entries of %d, %+v", len(all), want, s)
			}
			agreeWithConntrack(t, h, all, before)
			agreeWithTiMo(t, h, all, before)
		})
	}
}

// fillZoo makes the zoo, with rules that make labels and helpers possible.
func fillZoo(t *testing.T, h *lab.Host, c *ctnl.Conn) int {
	t.Helper()
	h.NFT(`table inet t {
	chain c {
		type filter hook input priority 0
		ct state new ct label set 5
	}
}`)
	all := zoo()
	create(t, c, all...)
	// Some that have seen packets.
	err := h.Do(func() error {
		for _, to := range []string{"127.0.0.1:9", "[::1]:9"} {
			conn, err := net.Dial("udp", to)
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.Write(make([]byte, 100))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return len(all) + 2
}

// slack is by how many seconds timeouts may differ that were read one after the
// other, the first at the earliest then.
func slack(then time.Time) int { return 1 + int((time.Since(then)+time.Second-1)/time.Second) }

func agreeWithConntrack(t *testing.T, h *lab.Host, all []ct.Flow, before time.Time) {
	t.Helper()
	theirs := make(map[string]int) // line → timeout
	for _, fam := range []string{"ipv4", "ipv6"} {
		out := h.Exec("sh", "-c", "conntrack -L -f "+fam+" -o extended,id,timestamp 2>/dev/null")
		for l := range strings.Lines(out) {
			text, timeout := exact(t, l)
			theirs[text] = timeout
		}
	}
	most := slack(before)
	for i := range all {
		text, timeout := exact(t, line(&all[i], time.Now()))
		their, ok := theirs[text]
		if !ok || timeout-their < 0 || timeout-their > most {
			t.Errorf("only ours (%d, theirs %d): %s", timeout, their, text)
		}
		delete(theirs, text)
	}
	for text := range theirs {
		t.Errorf("only theirs: %s", text)
	}
}

// agreeWithTiMo compares what conntrack does not print, with a library that
// decodes it.
func agreeWithTiMo(t *testing.T, h *lab.Host, all []ct.Flow, before time.Time) {
	t.Helper()
	var theirs []conntrack.Flow
	err := h.Do(func() error {
		c, err := conntrack.Dial(nil)
		if err != nil {
			return err
		}
		defer c.Close()
		theirs, err = c.Dump(nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	most := uint32(slack(before))
	byID := make(map[uint32]*conntrack.Flow)
	for i := range theirs {
		byID[theirs[i].ID] = &theirs[i]
	}
	for i := range all {
		f := &all[i]
		x := byID[f.ID]
		if x == nil {
			t.Errorf("ti-mo lacks %s", f.Orig)
			continue
		}
		labels := x.Labels
		if labels == nil {
			labels = make([]byte, 16)
		}
		if [16]byte(labels) != f.Labels || uint32(x.Status) != uint32(f.Status) || f.TimeoutSeconds-x.Timeout > most ||
			x.SynProxy.ISN != f.SynProxy.ISN || x.Helper.Name != f.Helper {
			t.Errorf("ours %+v\ntheirs %+v", f, x)
		}
		if f.Has(ct.HasTimestamp) != !x.Timestamp.Start.IsZero() ||
			f.Has(ct.HasTimestamp) && x.Timestamp.Start.UnixNano() != f.StartNanos {
			t.Errorf("%s: timestamps %v, %d", f.Orig, x.Timestamp.Start, f.StartNanos)
		}
		if p := x.ProtoInfo.TCP; p != nil && (p.State != uint8(f.State) ||
			p.OriginalWindowScale != f.TCP.WScaleOrig || p.ReplyWindowScale != f.TCP.WScaleReply ||
			uint8(p.OriginalFlags>>8) != f.TCP.FlagsOrig || uint8(p.ReplyFlags>>8) != f.TCP.FlagsReply) {
			t.Errorf("ours %+v\ntheirs %+v", f.TCP, p)
		}
		if p := x.ProtoInfo.SCTP; p != nil && (p.State != uint8(f.State) || p.VTagOriginal != f.SCTP.VTagOrig || p.VTagReply != f.SCTP.VTagReply) {
			t.Errorf("ours %+v\ntheirs %+v", f.SCTP, p)
		}
		if f.OrigCounters.Packets != x.CountersOrig.Packets || f.OrigCounters.Bytes != x.CountersOrig.Bytes {
			t.Errorf("ours %+v\ntheirs %+v", f.OrigCounters, x.CountersOrig)
		}
		if f.Orig.Proto == ct.GRE && (x.TupleOrig.Proto.SourcePort != f.Orig.SrcPort || x.TupleOrig.Proto.DestinationPort != f.Orig.DstPort) {
			t.Errorf("keys of %s, theirs %+v", f.Orig, x.TupleOrig.Proto)
		}
	}
}

// TestCreatedAsAsked compares the entries that exist with those that were
// asked for.
func TestCreatedAsAsked(t *testing.T) {
	h, c := newTable(t)
	before := time.Now()
	fillZoo(t, h, c)
	want := make(map[ct.Tuple]ct.Flow)
	for _, f := range zoo() {
		want[f.Orig] = f
	}
	all, _ := dump(t, c, ctnl.Query{})
	most := uint32(slack(before))
	for _, f := range all {
		w, ok := want[f.Orig]
		if !ok {
			continue
		}
		asked := ct.StatusSeenReply | ct.StatusAssured | ct.StatusFixedTimeout | ct.StatusNAT
		if f.Reply != w.Reply || f.State != w.State && f.Has(ct.HasProtoInfo) || f.Mark != w.Mark || f.Labels != w.Labels || f.Helper != w.Helper ||
			f.Zone != w.Zone || f.ZoneOrig != w.ZoneOrig || f.ZoneReply != w.ZoneReply || f.Status&asked != w.Status&asked ||
			f.TimeoutSeconds+most < w.TimeoutSeconds {
			t.Errorf("is    %+v\nasked %+v", f, w)
		}
	}
}
