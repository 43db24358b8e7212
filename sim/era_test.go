package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// bench is one table with two hosts that talk.
type eraBench struct {
	*Table
	at Time
}

func newEraBench(t *testing.T, e Era, change func(*Config)) *eraBench {
	t.Helper()
	c := DefaultConfig(e)
	c.Max, c.Buckets, c.Knobs.HZ = 0, 64, 1000
	if change != nil {
		change(&c)
	}
	tab, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return &eraBench{Table: tab, at: second}
}

// tcp sends a segment; seconds pass before it.
func (b *eraBench) tcp(wait Time, forward bool, flags uint8, seq, ack uint32, change ...func(*Segment)) Result {
	p := tcpPacket(forward, flags, seq, ack)
	for _, f := range change {
		f(&p.TCP)
	}
	return b.send(wait, p)
}

func (b *eraBench) send(wait Time, p *Packet) Result {
	b.at += wait * second
	return b.Packet(b.at, p)
}

// handshake opens a connection: the client's next number is 1001, the
// server's 5001.
func (b *eraBench) handshake() {
	b.tcp(0, true, TCPSyn, 1000, 0)
	b.tcp(0, false, TCPSyn|TCPAck, 5000, 1001)
	b.tcp(0, true, TCPAck, 1001, 5001)
}

// only returns the one flow.
func (b *eraBench) only() (f ct.Flow) {
	for _, g := range b.All() {
		f = *g
	}
	return f
}

func (b *eraBench) plain(proto ct.Proto, forward bool) *Packet {
	p := &Packet{Tuple: ct.Tuple{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"),
		Proto: proto, SrcPort: 4000, DstPort: 53}}
	if proto == ct.GRE || proto == 200 {
		p.Tuple.SrcPort, p.Tuple.DstPort = 0, 0
	}
	if !forward {
		p.Tuple, _ = p.Tuple.Invert()
	}
	return p
}

// clash lets two packets of a protocol be under way at once and returns what
// becomes of the second.
func (b *eraBench) clash(first, second *Packet) Verdict {
	f, g := b.In(b.at, first), b.In(b.at, second)
	b.Confirm(b.at, f)
	return b.Confirm(b.at, g).Verdict
}

// eraRules are what differs between eras, as behaviour. Where says in which of
// 4.19, 5.10, 5.15, 6.1, 6.12, 6.18 and latest it is seen: + or -.
var eraRules = []struct {
	name, where string
	seen        func(t *testing.T, e Era) bool
}{
	{"buckets are 262144 on more than 4 GiB", "--+++++", func(_ *testing.T, e Era) bool { return e.DefaultBuckets() == 262144 }},
	{"streams of UDP last 120 s, not 180", "-++++++", func(_ *testing.T, e Era) bool {
		to := e.Timeouts()
		v, _ := to.Get(ct.TimeoutUDPStream)
		return v == 120
	}},
	{"an SCTP association lasts 210 s, not five days", "-++++++", func(_ *testing.T, e Era) bool {
		to := e.Timeouts()
		v, _ := to.Get(ct.TimeoutSCTPEstablished)
		return v == 210
	}},
	{"the stream timeout of UDP needs two seconds", "-++++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		for _, forward := range []bool{true, false, true} {
			b.send(0, b.plain(ct.UDP, forward))
		}
		return b.only().TimeoutSeconds == 30
	}},
	{"ASSURED of UDP needs two seconds", "-++++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		for _, forward := range []bool{true, false, true} {
			b.send(0, b.plain(ct.UDP, forward))
		}
		early := b.only().Status
		b.send(3, b.plain(ct.UDP, true))
		return early&ct.StatusAssured == 0 && b.only().Status&ct.StatusAssured != 0
	}},
	{"no limit of chains", "++-----", func(t *testing.T, e Era) bool { return longestChain(t, e) == 400 }},
	{"chains of 8 to 31", "--+----", func(t *testing.T, e Era) bool { n := longestChain(t, e); return n > 8 && n <= 34 }},
	{"chains of 50 to 79", "---++++", func(t *testing.T, e Era) bool { n := longestChain(t, e); return n > 50 && n <= 82 }},
	{"collection goes round in 16 s at most", "+------", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, func(c *Config) { c.Buckets = 1024 })
		for i := range 50 {
			b.send(0, udpPacket(i))
		}
		b.Advance(b.at + (30+18)*second)
		gone := b.Count() == 0
		for seed := range uint64(8) { // the phase is random
			b = newEraBench(t, e, func(c *Config) { c.Seed, c.Buckets = seed, 1024 })
			b.send(0, udpPacket(1))
			b.Advance(b.at + (30+18)*second)
			gone = gone && b.Count() == 0
		}
		return gone
	}},
	{"collection comes every two minutes", "-+-----", func(t *testing.T, e Era) bool {
		latest := Time(0)
		for seed := range uint64(40) {
			b := newEraBench(t, e, func(c *Config) { c.Seed, c.Buckets = seed, 1024 })
			b.send(0, udpPacket(1))
			for b.Count() > 0 {
				b.at += second
				b.Advance(b.at)
				latest = max(latest, b.at)
			}
		}
		return latest > 100*second && latest < 160*second
	}},
	{"a clash of UDP with translation is survived", "-++++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, func(c *Config) {
			c.NAT = []NATRule{{Kind: DNAT, To: netip.MustParseAddr("10.0.0.3")}}
		})
		// The rules change between the two: each gets another server.
		f := b.In(b.at, b.plain(ct.UDP, true))
		b.nat.rules[0].To = netip.MustParseAddr("10.0.0.4")
		g := b.In(b.at, b.plain(ct.UDP, true))
		b.Confirm(b.at, f)
		return b.Confirm(b.at, g).Verdict == Accepted && b.Count() == 2
	}},
	{"a clash of GRE is survived", "--+++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		return b.clash(b.plain(ct.GRE, true), b.plain(ct.GRE, true)) == Accepted
	}},
	{"a clash of a protocol without tracker is survived", "--+++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		return b.clash(b.plain(200, true), b.plain(200, true)) == Accepted
	}},
	{"two hosts that begin at once become one flow of UDP", "----+++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		return b.clash(b.plain(ct.UDP, true), b.plain(ct.UDP, false)) == Accepted
	}},
	{"a clash of ICMP is survived", "------+", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		p := b.plain(ct.ICMP, true)
		p.Tuple.SrcPort, p.Tuple.DstPort, p.Tuple.ICMPType = 0, 0, 8
		return b.clash(p, p) == Accepted
	}},
	{"DNAT to a range of ports begins anywhere", "-+++---", func(t *testing.T, e Era) bool {
		first := true
		for seed := range uint64(4) {
			b := newEraBench(t, e, func(c *Config) {
				c.Seed = seed
				c.NAT = []NATRule{{Kind: DNAT, Proto: ct.TCP, To: netip.MustParseAddr("10.0.0.3"), Ports: PortRange{8000, 8999}}}
			})
			b.tcp(0, true, TCPSyn, 1000, 0)
			first = first && b.only().Reply.SrcPort == 8000
		}
		return !first
	}},
	{"a clash of TCP loses a packet", "+++++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		return b.clash(tcpPacket(true, TCPSyn, 1, 0), tcpPacket(true, TCPSyn, 1, 0)) == Lost
	}},
	{"reopening a connection counts as invalid", "+------", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		b.handshake()
		b.tcp(0, true, TCPFin|TCPAck, 1001, 5001)
		b.tcp(0, false, TCPFin|TCPAck, 5001, 1002)
		b.tcp(0, true, TCPAck, 1002, 5002)
		if r := b.tcp(0, true, TCPSyn, 9000, 0); !r.Created {
			t.Errorf("%s: not reopened: %+v", e.Name, r)
		}
		return b.Counters().Invalid == 1
	}},
	{"a SYN sent again does not refresh", "-++++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		b.tcp(0, true, TCPSyn, 1000, 0)
		b.tcp(10, true, TCPSyn, 1000, 0)
		return b.only().TimeoutSeconds == 110
	}},
	{"a reset is not checked while closing", "--+++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		b.handshake()
		b.tcp(0, true, TCPFin|TCPAck, 1001, 5001)
		b.tcp(0, false, TCPAck, 5001, 1002)
		return b.tcp(0, false, TCPRst, 77, 0).Verdict == Accepted
	}},
	{"tcp_ignore_invalid_rst is there", "--+++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, func(c *Config) { c.Knobs.TCPIgnoreInvalidRST = true })
		b.handshake()
		b.tcp(0, true, TCPAck, 1001, 5001, payload(100))
		b.tcp(0, false, TCPAck, 5001, 1101)
		return b.tcp(0, true, TCPRst, 5, 0).Verdict == Accepted || b.tcp(0, false, TCPRst, 4990, 0).Verdict == Accepted
	}},
	{"a SYN/ACK with a later number starts its side afresh", "--+++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		b.tcp(0, true, TCPSyn, 1000, 0)
		b.tcp(0, false, TCPSyn, 5000, 0)
		b.tcp(0, true, TCPSyn|TCPAck, 1000, 5001)
		return b.tcp(0, true, TCPSyn|TCPAck, 3000, 5001).Verdict == Accepted
	}},
	{"a little beyond the window is ignored, not invalid", "---++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		b.handshake()
		return b.tcp(0, true, TCPAck, 2002, 5001).Verdict == Accepted
	}},
	{"invalid FINs from both sides cut the timeout", "---++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		b.handshake()
		b.tcp(0, true, TCPFin|TCPAck, 1<<30, 5001)
		b.tcp(0, false, TCPFin|TCPAck, 1<<30, 1001)
		return b.only().TimeoutSeconds <= 300
	}},
	// Before 5.15 anything newer from the client was believed in SYN_SENT.
	{"the reset that answers a challenge ACK in SYN_SENT is believed", "++-++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		b.tcp(0, true, TCPSyn, 1000, 0)
		b.tcp(0, false, TCPAck, 7000, 90000)
		b.tcp(0, true, TCPRst, 90000, 0)
		return b.only().State == ct.TCPClose
	}},
	{"a reset that keeps the state leaves the timeout of CLOSE", "++++-+-", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		b.handshake()
		b.tcp(0, false, TCPAck, 5001, 1001, payload(10))
		b.tcp(0, true, TCPAck, 1001, 5011)
		b.tcp(0, true, TCPRst, 1011, 0)
		f := b.only()
		if f.State != ct.TCPEstablished {
			t.Errorf("%s: state %s", e.Name, f.StateName())
		}
		return f.TimeoutSeconds == 10
	}},
	{"a second path of SCTP becomes ESTABLISHED", "-++++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		for i, forward := range []bool{true, false} {
			p := b.plain(ct.SCTP, forward)
			p.SCTP = SCTPPacket{VTag: 7, Chunks: []SCTPChunk{{Type: []uint8{sctpHeartbeat, sctpHeartbeatAck}[i], Length: 8}}}
			b.send(0, p)
		}
		return b.only().State == ct.SCTPEstablished
	}},
	{"DCCP is tracked", "+++++--", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		p := b.plain(ct.DCCP, true)
		b.send(0, p)
		f := b.only()
		return f.State == ct.DCCPRequest && f.TimeoutSeconds == 240 && f.Orig.DstPort == 53
	}},
	{"UDP-Lite is tracked", "++++++-", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		b.send(0, b.plain(ct.UDPLite, true))
		f := b.only()
		return f.TimeoutSeconds == 30 && f.Orig.DstPort == 53
	}},
	{"ICMPv6 redirects relate to a flow", "--+++++", func(t *testing.T, e Era) bool {
		b := newEraBench(t, e, nil)
		host, router := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fe80::1")
		flow := ct.Tuple{Src: host, Dst: netip.MustParseAddr("fd00::2"), Proto: ct.UDP, SrcPort: 9, DstPort: 9}
		b.send(0, &Packet{Tuple: flow})
		r := b.send(0, &Packet{Tuple: ct.Tuple{Src: router, Dst: host, Proto: ct.ICMPv6, ICMPType: icmp6Redirect}, Inner: flow})
		return r.Verdict == Accepted && r.Info == InfoRelated
	}},
	{"clash_resolve is counted", "-++++++", func(t *testing.T, e Era) bool {
		return newEraBench(t, e, nil).Counters().Has&ct.CounterClashResolve != 0
	}},
	{"chaintoolong is counted", "--+++++", func(t *testing.T, e Era) bool {
		return newEraBench(t, e, nil).Counters().Has&ct.CounterChainTooLong != 0
	}},
	{"the log names the namespace", "-----++", func(t *testing.T, e Era) bool {
		var line string
		b := newEraBench(t, e, func(c *Config) {
			c.Max, c.Knobs.Netns = 10, 4026531999
			c.Log = func(_ Time, s string) { line = s }
		})
		fill(t, b.Table, 10, 10)
		b.send(0, udpPacket(1))
		if !strings.Contains(line, "table full") {
			t.Errorf("%s logged %q", e.Name, line)
		}
		return strings.Contains(line, "in netns 4026531999")
	}},
	{"early drop searches eight buckets", "+++++++", func(t *testing.T, e Era) bool {
		return admitted(t, e) > 0.2
	}},
}

func payload(n uint32) func(*Segment) { return func(s *Segment) { s.PayloadLen = n } }

// longestChain is how many entries fit into one bucket, of 400.
func longestChain(t *testing.T, e Era) int {
	b := newEraBench(t, e, func(c *Config) { c.Buckets = 1 })
	for i := range 400 {
		b.send(0, udpPacket(i))
	}
	// Both directions stand in the one chain.
	if n := b.Count() * 2; n < 400 {
		return n
	}
	return 400
}

// admitted is the share of new flows that find something to evict, with one
// entry to sixteen buckets: 1-exp(-1) if eight are searched, 0.12 if one is.
func admitted(t *testing.T, e Era) float64 {
	n, tried := 0, 200
	for seed := range uint64(tried) {
		b := newEraBench(t, e, func(c *Config) { c.Max, c.Buckets, c.Seed = 64, 1024, seed })
		fill(t, b.Table, 64, 0)
		if b.send(0, udpPacket(1)).Verdict == Accepted {
			n++
		}
	}
	return float64(n) / float64(tried)
}

// TestEras shows that every difference between eras that the model carries is
// there in the eras that have it and in no other.
func TestEras(t *testing.T) {
	for _, r := range eraRules {
		var got strings.Builder
		for _, e := range Eras() {
			got.WriteByte("-+"[b2i(r.seen(t, e))])
		}
		if got.String() != r.where {
			t.Errorf("%s: in %q, want %q", r.name, got.String(), r.where)
		}
	}
}

// TestErasAreData: each era is the same code with other rules, those that no
// kernel confirmed are labelled, and names and versions find them.
func TestErasAreData(t *testing.T) {
	var labels []string
	for _, e := range Eras() {
		labels = append(labels, e.Label())
		if f, err := EraByName(e.Name); err != nil || f.From != e.From {
			t.Errorf("%s: %v", e.Name, err)
		}
		if f := EraFor(e.From); f.Name != e.Name {
			t.Errorf("kernel %v is of era %s, want %s", e.From, f.Name, e.Name)
		}
	}
	want := []string{"4.19 (from source)", "5.10", "5.15 (from source)", "6.1", "6.12", "6.18", "latest"}
	if !slices.Equal(labels, want) {
		t.Errorf("%q, want %q", labels, want)
	}
	for v, want := range map[string]string{"4.18.0": "4.19", "5.4.0": "4.19", "5.14.21": "5.10", "5.15.0": "5.15",
		"6.6.30": "6.1", "6.14.0": "6.12", "6.17.1": "6.12", "6.18.2": "6.18", "7.3.4": "latest"} {
		k, err := ct.ParseKernelVersion(v)
		if err != nil {
			t.Fatal(err)
		}
		if e := EraFor(k); e.Name != want {
			t.Errorf("kernel %s is of era %s, want %s", v, e.Name, want)
		}
	}
	if _, err := EraByName("3.2"); err == nil || !strings.Contains(fmt.Sprint(err), "6.18") {
		t.Errorf("an unknown era: %v", err)
	}
}
