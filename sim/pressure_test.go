package sim

import (
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

func udpPacket(n int) *Packet {
	return &Packet{Tuple: ct.Tuple{Src: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}),
		Dst: netip.MustParseAddr("192.0.2.1"), Proto: ct.UDP, SrcPort: 1000, DstPort: 53}}
}

// fill puts n UDP entries into the table, the first assured of them assured.
func fill(t *testing.T, tab *Table, n, assured int) {
	t.Helper()
	for i := range n {
		f := ct.Flow{Orig: udpPacket(1<<20 + i).Tuple, TimeoutSeconds: 3600}
		f.Reply, _ = f.Orig.Invert()
		if i < assured {
			f.Status = ct.StatusSeenReply | ct.StatusAssured
		}
		if _, err := tab.Insert(&f, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExpiredEntriesCount(t *testing.T) {
	tab := newTable(t, nil)
	for i := range 100 {
		tab.Packet(0, udpPacket(i))
	}
	tab.Advance(29 * second)
	if n := tab.Count(); n != 100 {
		t.Errorf("count %d before the timeout, want 100", n)
	}
	// The pass that comes within a minute of the timeout takes them.
	tab.Advance(31*second + 61*second)
	if n := tab.Count(); n != 0 {
		t.Errorf("count %d a minute after the timeout, want 0", n)
	}
	tab.Packet(100*second, udpPacket(1))
	tab.Advance(131 * second)
	if s := tab.Tally(); s.Expired > s.Entries {
		t.Errorf("%d of %d expired", s.Expired, s.Entries)
	}
	for range tab.Dump() {
		t.Error("a dump shows an expired entry")
	}
	if n := tab.Count(); n != 0 {
		t.Errorf("count %d after a dump, want 0", n)
	}
}

func TestLongIdleTimeIsCheap(t *testing.T) {
	for _, e := range Eras() {
		tab := newTable(t, func(c *Config) { c.Era, c.Timeouts = e, e.Timeouts() })
		fill(t, tab, 10, 0)
		tab.Advance(365 * 86400 * second / 10)
		if n := tab.Count(); n != 0 {
			t.Errorf("%s: count %d a month later", e.Name, n)
		}
	}
}

// TestEarlyDropOdds compares the share of new flows that a full table admits
// with what the search of eight buckets promises.
func TestEarlyDropOdds(t *testing.T) {
	for _, c := range []struct {
		share   float64
		buckets int
	}{{0, 4096}, {0.5, 4096}, {0.98, 4096}, {1, 4096}, {0, 65536}, {0.5, 65536}, {0.9, 512}} {
		admitted, tried := 0, 0
		for seed := range uint64(20) {
			tab := newTable(t, func(k *Config) { k.Buckets, k.Seed = c.buckets, seed })
			assured := int(c.share * 4096)
			fill(t, tab, 4096, assured)
			for i := range 10 {
				tried++
				if tab.Packet(0, udpPacket(i)).Verdict == Accepted {
					admitted++
				}
			}
		}
		want := 1 - math.Exp(-16*(1-c.share)*4096/float64(c.buckets))
		got := float64(admitted) / float64(tried)
		if sd := math.Sqrt(want*(1-want)/float64(tried)) + 0.01; math.Abs(got-want) > 4*sd {
			t.Errorf("assured %.2f, %d buckets: %.3f admitted, want %.3f", c.share, c.buckets, got, want)
		}
	}
}

func TestRefusalIsLoggedWithinTheLimit(t *testing.T) {
	var lines []string
	tab := newTable(t, func(c *Config) {
		c.Log = func(_ Time, s string) { lines = append(lines, s) }
		c.Knobs.Netns = 4026532245
	})
	fill(t, tab, 4096, 4096)
	for i := range 500 {
		if r := tab.Packet(Time(i)*second/1000, udpPacket(i)); r.Verdict != Refused {
			t.Fatalf("packet %d: %+v", i, r)
		}
	}
	tab.Packet(6*second, udpPacket(1))
	if len(lines) != 12 || lines[10] != "net_ratelimit: 490 callbacks suppressed" ||
		!strings.Contains(lines[11], "table full in netns 4026532245, dropping packet") {
		t.Errorf("logged %d lines: %q", len(lines), lines[max(0, len(lines)-2):])
	}
	if c := tab.Counters(); c.Drop != 501 || c.EarlyDrop != 0 {
		t.Errorf("drop %d, early_drop %d; want 501 and 0", c.Drop, c.EarlyDrop)
	}
}

func TestGarbageEvictsOnce(t *testing.T) {
	tab := newTable(t, func(c *Config) { c.Buckets = 512 })
	fill(t, tab, 4096, 0)
	for i := range 2000 {
		p := tcpPacket(true, TCPRst, 1, 0)
		p.Tuple.SrcPort = uint16(i)
		if r := tab.Packet(0, p); r.Verdict != Invalid {
			t.Fatalf("packet %d: %+v", i, r)
		}
	}
	if c := tab.Counters(); c.Invalid != 2000 || c.EarlyDrop == 0 || c.EarlyDrop > 40 {
		t.Errorf("invalid %d, early_drop %d; want 2000 and one bucket's worth", c.Invalid, c.EarlyDrop)
	}
}

func TestGCRelievesAfterARefusal(t *testing.T) {
	tab := newTable(t, func(c *Config) { c.Buckets = 65536 })
	fill(t, tab, 4096, 4000)
	refused := 0
	for i := range 50 {
		if tab.Packet(0, udpPacket(i)).Verdict == Refused {
			refused++
		}
	}
	if refused == 0 {
		t.Fatal("nothing was refused")
	}
	tab.Advance(61 * second)
	if n := tab.Count(); n != 4000 {
		t.Errorf("count %d after a pass, want the 4000 assured", n)
	}
}

func TestChainLimit(t *testing.T) {
	tab := newTable(t, func(c *Config) { c.Buckets, c.Max = 4, 0 })
	lost := 0
	for i := range 400 {
		if tab.Packet(0, udpPacket(i)).Verdict == Lost {
			lost++
		}
	}
	c := tab.Counters()
	if lost == 0 || int(c.ChainTooLong) != lost || int(c.InsertFailed) != lost || c.Drop != 0 {
		t.Errorf("%d lost, chaintoolong %d, insert_failed %d, drop %d", lost, c.ChainTooLong, c.InsertFailed, c.Drop)
	}
	if tab.Count() != 400-lost {
		t.Errorf("count %d, want %d", tab.Count(), 400-lost)
	}
}

func TestClash(t *testing.T) {
	syn := tcpPacket(true, TCPSyn, 1, 0)
	tab := newTable(t, nil)
	a, b := tab.In(0, syn), tab.In(0, syn)
	if tab.Count() != 2 {
		t.Errorf("count %d with two packets in flight, want 2", tab.Count())
	}
	if r := tab.Confirm(0, a); !r.Created {
		t.Errorf("the first: %+v", r)
	}
	if r := tab.Confirm(0, b); r.Verdict != Lost {
		t.Errorf("the second of TCP: %+v", r)
	}
	u := udpPacket(1)
	a, b = tab.In(0, u), tab.In(0, u)
	first, second := tab.Confirm(0, a), tab.Confirm(0, b)
	if !first.Created || second.Verdict != Accepted || second.Entry != first.Entry {
		t.Errorf("UDP: %+v and %+v", first, second)
	}
	if c := tab.Counters(); c.Drop != 1 || c.InsertFailed != 1 || c.ClashResolve != 1 {
		t.Errorf("counters %+v", c)
	}
	if tab.Count() != 2 {
		t.Errorf("count %d, want 2", tab.Count())
	}
}

func TestResizeKeepsEntries(t *testing.T) {
	tab := newTable(t, nil)
	for i := range 1000 {
		tab.Packet(0, udpPacket(i))
	}
	tab.SetBuckets(77)
	for i := range 1000 {
		if r := tab.Packet(0, udpPacket(i)); r.Created {
			t.Fatalf("flow %d is forgotten", i)
		}
	}
	if tab.Count() != 1000 {
		t.Errorf("count %d, want 1000", tab.Count())
	}
}

func TestEvents(t *testing.T) {
	alive := map[ID]bool{}
	causes := map[Cause]int{}
	tab := newTable(t, func(c *Config) {
		c.Max = 100
		c.Events = func(e Event) {
			if e.Kind == EventNew {
				alive[e.Entry] = true
				return
			}
			if !alive[e.Entry] {
				t.Errorf("entry %d dies without having lived", e.Entry)
			}
			delete(alive, e.Entry)
			causes[e.Cause]++
		}
	})
	for i := range 3000 {
		tab.Packet(Time(i)*second/10, udpPacket(i))
		if len(alive) != tab.Count() {
			t.Fatalf("%d alive, count %d", len(alive), tab.Count())
		}
	}
	if causes[CauseExpired] == 0 || causes[CauseEarlyDrop] == 0 {
		t.Errorf("causes %v", causes)
	}
}

func TestZones(t *testing.T) {
	tab := newTable(t, nil)
	send := func(forward bool, zone uint16, dir ZoneDir) Result {
		p := tcpPacket(forward, TCPSyn, 1, 0)
		if !forward {
			p = tcpPacket(false, TCPSyn|TCPAck, 1, 2)
		}
		p.Zone, p.ZoneDir = zone, dir
		return tab.Packet(0, p)
	}
	if !send(true, 5, ZoneBoth).Created || !send(true, 6, ZoneOrig).Created {
		t.Fatal("zones do not keep flows apart")
	}
	// The answers to both would be the same in zone 0.
	if r := send(true, 0, ZoneBoth); r.Verdict != Lost {
		t.Errorf("a flow whose answer is another's: %+v", r)
	}
	if r := send(false, 0, ZoneBoth); r.Verdict != Accepted || !r.Reply {
		t.Errorf("the answer outside the zone of one direction: %+v", r)
	}
	if r := send(false, 5, ZoneBoth); r.Verdict != Accepted || !r.Reply {
		t.Errorf("the answer in its zone: %+v", r)
	}
	if r := send(false, 9, ZoneBoth); r.Verdict != Invalid {
		t.Errorf("an answer in a zone of its own: %+v", r)
	}
}

func TestNATChoosesAnotherPort(t *testing.T) {
	out := netip.MustParseAddr("203.0.113.1")
	tab := newTable(t, func(c *Config) {
		c.NAT = []NATRule{{Kind: Masquerade, To: out, Src: netip.MustParsePrefix("10.0.0.0/8")}}
	})
	ports := map[uint16]bool{}
	var f ct.Flow
	for i := range 200 {
		r := tab.Packet(0, udpPacket(i))
		if r.Verdict != Accepted || !tab.Flow(r.Entry, &f) {
			t.Fatalf("packet %d: %+v", i, r)
		}
		if f.Reply.Dst != out || ports[f.Reply.DstPort] {
			t.Fatalf("flow %d: %s", i, f.Reply)
		}
		ports[f.Reply.DstPort] = true
		back := &Packet{Tuple: f.Reply}
		if b := tab.Packet(0, back); b.Entry != r.Entry || !b.Reply {
			t.Fatalf("the answer to flow %d: %+v", i, b)
		}
	}
	if !ports[1000] || len(ports) != 200 {
		t.Errorf("%d ports, the old one among them: %v", len(ports), ports[1000])
	}
	if tab.Counters().Found == 0 {
		t.Error("found counts no collision")
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	tab := newTable(t, func(c *Config) { c.Max = 1000 })
	i := 0
	p := udpPacket(0)
	for range 5000 {
		i++
		tab.Packet(Time(i)*second/1000, udpPacket(i))
	}
	n := testing.AllocsPerRun(5000, func() {
		i++
		p.Tuple.Src = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		tab.Packet(Time(i)*second/1000, p)
	})
	if n != 0 {
		t.Errorf("%.2f allocations a packet", n)
	}
}
