package workload

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

const web = `
version: 1
duration: 60s
seed: 7
classes:
  - name: web
    kind: tcp
    arrivals: {rate: 200/s}
    sources: 10.0.0.0/16
    destinations: 192.0.2.1/32
    ports: 443
    lifetime: {shape: exponential, mean: 2s}
    pause: {mean: 500ms}
    round_trip: 20ms
  - name: dns
    kind: udp
    arrivals: {process: constant, rate: 100/s}
    sources: fd00::/112
    destinations: 2001:db8::53/128
    ports: 53
  - name: flood
    kind: syn-flood
    start: 20s
    stop: 30s
    arrivals: {rate: 1000/s}
    sources: 10.2.0.0/15
    destinations: 192.0.2.1/32
    ports: 443
`

func parse(t testing.TB, text string) *Spec {
	t.Helper()
	s, err := Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func table(t testing.TB, maxEntries, buckets int) *sim.Table {
	t.Helper()
	cfg := sim.DefaultConfig(sim.Latest())
	cfg.Max, cfg.Buckets = maxEntries, buckets
	tb, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

// Every packet of connections that nothing disturbs must be valid to the
// model's window tracking, and connections must end as they should.
func TestPacketsAreValid(t *testing.T) {
	g, err := New(parse(t, web), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	tb := table(t, 1<<20, 1<<18)
	var last sim.Time
	err = g.RunUntil(context.Background(), math.MaxInt64, Each(func(at sim.Time, p *sim.Packet) sim.Verdict {
		if at < last-tick {
			t.Fatalf("time went back by %d ns", last-at)
		}
		last = max(last, at)
		r := tb.Packet(at, p)
		if r.Verdict != sim.Accepted {
			t.Fatalf("%s at %d: %+v", r.Verdict, at, *p)
		}
		return r.Verdict
	}))
	if err != nil {
		t.Fatal(err)
	}
	web, dns, flood := g.Outcomes[0], g.Outcomes[1], g.Outcomes[2]
	if web.Started < 11000 || web.Started > 13000 || web.Broken+web.GaveUp > 0 || web.Ended < 11000 {
		t.Errorf("web: %+v", web)
	}
	if dns.Started < 5990 || dns.Started > 6001 || dns.Answered < 5990 {
		t.Errorf("dns: %+v", dns)
	}
	if flood.Started < 9500 || flood.Started > 10500 || flood.Packets != flood.Started {
		t.Errorf("flood: %+v", flood)
	}
	assured, tcp := 0, 0
	for _, f := range tb.All() {
		if f.Orig.Proto == ct.TCP && f.Orig.Src.Is4() && f.Replied() {
			tcp++
			if f.Assured() {
				assured++
			}
		}
	}
	if tcp == 0 || assured < tcp*9/10 {
		t.Errorf("%d of %d answered connections are assured", assured, tcp)
	}
}

// Occupancy of undisturbed traffic obeys Little's law.
func TestLittlesLaw(t *testing.T) {
	const text = `
version: 1
duration: 5m
classes:
  - name: udp
    kind: udp
    arrivals: {rate: 100/s}
    sources: 10.0.0.0/8
    destinations: 192.0.2.1/32
`
	g, err := New(parse(t, text), 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	tb := table(t, 1<<20, 1<<18)
	if err := g.RunUntil(context.Background(), math.MaxInt64, Each(func(at sim.Time, p *sim.Packet) sim.Verdict { return tb.Packet(at, p).Verdict })); err != nil {
		t.Fatal(err)
	}
	n := 0
	for range tb.Dump() {
		n++
	}
	if want := 100 * 30.0; math.Abs(float64(n)-want) > want*0.08 {
		t.Errorf("%d entries, want about %.0f: 100 a second for 30 s each", n, want)
	}
}

func TestReproducible(t *testing.T) {
	sum := func(seed uint64) (h uint64) {
		g, err := New(parse(t, web), seed, 0.3)
		if err != nil {
			t.Fatal(err)
		}
		_ = g.RunUntil(context.Background(), sim.Time(5*time.Second), Each(func(at sim.Time, p *sim.Packet) sim.Verdict {
			h = h*31 + uint64(at) + uint64(p.Tuple.SrcPort) + uint64(p.TCP.Seq)
			return sim.Accepted
		}))
		return h
	}
	if first, second := sum(1), sum(1); first != second {
		t.Error("the same seed gives other packets")
	}
	if sum(1) == sum(2) {
		t.Error("another seed gives the same packets")
	}
}

// A client that is refused tries again, then gives up; nobody answers it.
func TestRefusedClientsRetry(t *testing.T) {
	text := strings.Replace(web, "round_trip: 20ms", "round_trip: 20ms\n    retries: 2", 1)
	g, err := New(parse(t, text), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	_ = g.RunUntil(context.Background(), sim.Time(20*time.Second), Each(func(_ sim.Time, p *sim.Packet) sim.Verdict {
		if p.Tag == 1 && p.TCP.Flags != sim.TCPSyn {
			t.Fatalf("a refused client goes on: %+v", *p)
		}
		return sim.Refused
	}))
	o := g.Outcomes[0]
	if o.GaveUp == 0 || o.Refused < 2*o.Started || o.Answered != 0 {
		t.Errorf("%+v", o)
	}
}

func TestErrorsNameTheField(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"kind: udp", "kind: carrier-pigeon", "classes[1] (dns).kind"},
		{"rate: 200/s", "rate: lots", "not a rate"},
		{"duration: 60s", "duration: -5s", "not a duration"},
		{"version: 1", "version: 9", "version: 9 is not understood"},
		{"mean: 2s", "mean: 2s, sigmaa: 3", "sigmaa"},
		{"shape: exponential", "shape: pareto", "sigma"},
		{"name: dns", "name: web", "name of its own"},
		{"stop: 30s", "stop: 10s", "not after start"},
		{"ports: 53", "ports: 90-80", "neither a port nor a range"},
		{"sources: 10.2.0.0/15", "sources: fd00::/64", "one family"},
		{"sources: 10.2.0.0/15", "sources: 10.2.0.0/99", `"10.2.0.0/99" is not a prefix such as`},
		{"kind: udp", "kind: carrier-pigeon", "line 16: classes[1]"},
		{"duration: 60s", "duration: sixty", "line 3: duration: sixty"},
		{"rate: 200/s", "rate: lots", "line 8: arrivals: {rate: lots}"},
	} {
		_, err := Parse(strings.NewReader(strings.Replace(web, c.from, c.to, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", c.to, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(web)
	f.Add(strings.Replace(web, "200/s", "1e-30/d", 1)) // the next arrival is beyond what the clock holds
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(strings.NewReader(text))
		if err != nil {
			return
		}
		total := 0.0
		for _, c := range s.Classes {
			total += float64(c.Arrivals.Rate) + float64(c.Arrivals.Initial)
		}
		if total > 1e5 {
			return
		}
		g, err := New(s, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		_ = g.RunUntil(context.Background(), sim.Time(50*time.Millisecond), Each(func(sim.Time, *sim.Packet) sim.Verdict { return sim.Accepted }))
	})
}

func BenchmarkGenerate(b *testing.B) {
	s := parse(b, strings.Replace(web, "200/s", "20000/s", 1))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		g, err := New(s, 0, 1)
		if err != nil {
			b.Fatal(err)
		}
		_ = g.RunUntil(context.Background(), sim.Time(5*time.Second), Each(func(sim.Time, *sim.Packet) sim.Verdict { n++; return sim.Accepted }))
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Mpkt/s")
}

func TestMultiply(t *testing.T) {
	s := &Spec{Classes: []Class{{Arrivals: Arrivals{Rate: 10, Low: 2, Initial: 3}}}}
	s.Multiply(2.5)
	if a := s.Classes[0].Arrivals; a.Rate != 25 || a.Low != 5 || a.Initial != 8 {
		t.Errorf("%+v", a)
	}
}

// A client whose handshake is cut off sends the same SYN again.
func TestHandshakeBeginsAgain(t *testing.T) {
	s := &Spec{Version: Version, Seed: 1, Duration: Duration(20 * time.Second), Classes: []Class{{Name: "users", Kind: KindTCP, Retries: 2,
		Arrivals: Arrivals{Rate: 1}, Sources: netip.MustParsePrefix("10.0.0.0/16"), Destinations: netip.MustParsePrefix("192.0.2.1/32"),
		Lifetime: Distribution{Mean: Duration(time.Second)}}}}
	g, err := New(s, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	syn := map[ct.Tuple]uint32{}
	again := 0
	err = g.RunUntil(t.Context(), sim.Time(20*time.Second), Each(func(_ sim.Time, p *sim.Packet) sim.Verdict {
		switch p.TCP.Flags {
		case sim.TCPSyn:
			if seq, ok := syn[p.Tuple]; ok {
				again++
				if seq != p.TCP.Seq {
					t.Errorf("%d, then %d", seq, p.TCP.Seq)
				}
				return sim.Accepted
			}
			syn[p.Tuple] = p.TCP.Seq
		case sim.TCPSyn | sim.TCPAck: // of the first attempt: its entry was evicted
			if back, _ := p.Tuple.Invert(); syn[back] != 0 && again < len(syn) {
				return sim.Invalid
			}
		}
		return sim.Accepted
	}))
	if err != nil || again < 10 {
		t.Errorf("%d of %d began again, %v", again, len(syn), err)
	}
}

// What each kind of single packets leaves in the table, as nf_conntrack has it:
// an ACK of no connection is picked up unless tcp_loose is 0, a reset never.
func TestFloodsOfSinglePackets(t *testing.T) {
	const packets = 500
	for _, c := range []struct {
		kind    Kind
		strict  bool
		proto   ct.Proto
		entries int
		state   ct.State
	}{
		{kind: KindSYNFlood, proto: ct.TCP, entries: packets, state: ct.TCPSynSent},
		{kind: KindUDPFlood, proto: ct.UDP, entries: packets},
		{kind: KindPingFlood, proto: ct.ICMP, entries: packets},
		{kind: KindACKFlood, proto: ct.TCP, entries: packets, state: ct.TCPEstablished},
		{kind: KindACKFlood, strict: true, proto: ct.TCP},
		{kind: KindRSTFlood, proto: ct.TCP},
		{kind: KindSCTPFlood, proto: ct.SCTP, entries: packets},
		{kind: KindGREFlood, proto: ct.GRE, entries: 8}, // as many as addresses
	} {
		t.Run(fmt.Sprintf("%s,strict=%v", c.kind, c.strict), func(t *testing.T) {
			sources := "10.0.0.0/8"
			if c.kind == KindGREFlood {
				sources = "10.0.0.0/29"
			}
			s := &Spec{Version: Version, Seed: 1, Duration: Duration(packets * time.Millisecond), Classes: []Class{{
				Name: "flood", Kind: c.kind, Arrivals: Arrivals{Process: Constant, Rate: 1000},
				Sources: netip.MustParsePrefix(sources), Destinations: netip.MustParsePrefix("192.0.2.1/32"), Ports: Ports{443, 443},
			}}}
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
			if s.Classes[0].IsLegitimate() {
				t.Error("a flood is taken for legitimate")
			}
			g, err := New(s, 1, 1)
			if err != nil {
				t.Fatal(err)
			}
			cfg := sim.DefaultConfig(sim.Latest())
			cfg.Max, cfg.Buckets, cfg.Knobs.TCPLoose = 1<<16, 1<<16, !c.strict
			tb, err := sim.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			want := sim.Accepted
			if c.entries == 0 {
				want = sim.Invalid
			}
			if err := g.RunUntil(t.Context(), math.MaxInt64, Each(func(at sim.Time, p *sim.Packet) sim.Verdict {
				r := tb.Packet(at, p)
				if r.Verdict != want {
					t.Fatalf("%v, want %v: %+v", r.Verdict, want, *p)
				}
				return r.Verdict
			})); err != nil {
				t.Fatal(err)
			}
			entries := 0
			for _, f := range tb.All() {
				entries++
				if f.Orig.Proto != c.proto || f.Replied() || f.Assured() || c.state != 0 && f.State != c.state {
					t.Fatalf("%+v", f)
				}
			}
			// Two of five hundred may have drawn the same addresses and ports.
			if entries > c.entries || entries < c.entries-1 {
				t.Errorf("%d entries, want %d", entries, c.entries)
			}
			if o := g.Outcomes[0]; o.Started < packets-1 || o.Packets != o.Started || g.Pending() != 0 {
				t.Errorf("%+v, %d under way", o, g.Pending())
			}
		})
	}
}
