package simulate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/workload"
	"github.com/ctwarden/ctwarden/sim"
)

// live is a table of 30,000 entries: web connections of two minutes, their
// TIME_WAITs, and DNS.
func live() *ct.Snapshot {
	v := ct.KernelVersion{Major: 6, Minor: 18}
	cl := func(p ct.Proto, st ct.State, assured bool, n uint64) ct.Class {
		return ct.Class{ClassKey: ct.ClassKey{Proto: p, State: st, Assured: assured, Replied: true}, Entries: n}
	}
	s := &ct.Snapshot{Host: "gw1", Time: time.Unix(1773457920, 0), Version: v, Timeouts: ct.DefaultTimeouts(v),
		Limits: ct.Limits{Count: ct.Known(30000), Max: ct.Known(65536), Buckets: ct.Known(65536)}}
	s.Census = &ct.Census{Entries: 30000, DistinctSources: 500,
		Classes: []ct.Class{cl(ct.TCP, ct.TCPEstablished, true, 12000), cl(ct.TCP, ct.TCPTimeWait, true, 12000), cl(ct.UDP, 0, false, 6000)},
		Ports:   []ct.Heavy{{Proto: ct.TCP, Port: 443, Entries: 24000}, {Proto: ct.UDP, Port: 53, Entries: 6000}}}
	s.Rates = &ct.Rates{Interval: 60 * time.Second, Panel: true, CountStart: ct.Known(29400), CountEnd: ct.Known(30000),
		BirthsByClass: []ct.ClassRate{{ClassKey: ct.ClassKey{Proto: ct.TCP, State: ct.TCPEstablished, Replied: true}, PerSecond: 100}, {ClassKey: ct.ClassKey{Proto: ct.UDP, Replied: true}, PerSecond: 200}}}
	return s
}

// What is fitted, run through the model, gives the table it was fitted to.
func TestFitGivesTheTableBack(t *testing.T) {
	spec, notes, err := Fit(live(), 10*time.Minute)
	if err != nil || len(notes) == 0 {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := spec.Write(&b); err != nil {
		t.Fatal(err)
	}
	again, err := workload.Parse(&b)
	if err != nil {
		t.Fatalf("what was written cannot be read: %v\n%s", err, b.String())
	}
	g, err := workload.New(again, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	tb, err := sim.New(setting(t, "max=65536,buckets=65536").Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.RunUntil(context.Background(), math.MaxInt64, workload.Each(func(at sim.Time, p *sim.Packet) sim.Verdict { return tb.Packet(at, p).Verdict })); err != nil {
		t.Fatal(err)
	}
	alive := 0 // a dump leaves out what has expired, as the fixture does
	for range tb.Dump() {
		alive++
	}
	if math.Abs(float64(alive)-30000) > 0.1*30000 {
		t.Errorf("the fitted workload keeps %d entries, the table had 30,000", alive)
	}
	if _, _, err := Fit(&ct.Snapshot{}, time.Minute); !errors.Is(err, ErrNoTable) {
		t.Errorf("an empty reading: %v", err)
	}
}

func TestPredict(t *testing.T) {
	f, err := Predict(live())
	if err != nil {
		t.Fatal(err)
	}
	if f.Net != 10 || math.Abs(f.FullIn-3553.6) > 1 {
		t.Errorf("net %.1f/s, full in %.1f s", f.Net, f.FullIn)
	}
	var b bytes.Buffer
	if err := f.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.String(), "At the present growth of 10.0 entries a second the table is full in 59 min.") {
		t.Errorf("first line:\n%s", b.String())
	}
	for _, p := range f.Parts {
		if p.Timeout == "tcp_timeout_time_wait" && (p.Entries != 12000 || p.Halved != 6000) {
			t.Errorf("%+v", p)
		}
	}
	for _, fl := range f.Floods {
		if fl.Kind == "spoofed SYN" && fl.PerSecond == 100000 && (fl.FullAfter < 0.3 || fl.FullAfter > 0.4) {
			t.Errorf("%+v", fl)
		}
	}
}

// Half-open entries that nobody answers live for two minutes, others for long: the
// share of the arrivals is not that of the entries.
func TestFitTellsTheUnansweredApart(t *testing.T) {
	s := live()
	s.Census.DistinctDestinations = 300
	s.Census.Entries += 12_000
	s.Limits.Count = ct.Known(42_000)
	s.Census.Classes = append(s.Census.Classes, ct.Class{ClassKey: ct.ClassKey{Proto: ct.TCP, State: ct.TCPSynSent}, Entries: 12_000})
	s.Rates.BirthsByClass = append(s.Rates.BirthsByClass,
		ct.ClassRate{ClassKey: ct.ClassKey{Proto: ct.TCP, State: ct.TCPSynSent}, PerSecond: 100},
		ct.ClassRate{ClassKey: ct.ClassKey{Proto: ct.SCTP}, PerSecond: 3})
	spec, notes, err := Fit(s, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	c := spec.Classes[0]
	if c.Unanswered != 0.5 || time.Duration(c.Lifetime.Mean) != 2*time.Minute || c.Destinations.Bits() != 23 {
		t.Errorf("%+v", c)
	}
	if !strings.Contains(strings.Join(notes, "\n"), "sctp is left out: 3.0 new entries a second") {
		t.Errorf("%q", notes)
	}
}

// A table full of assured entries and one flood: early drop does not find the
// flood's as if it were alone.
func TestPredictKnowsWhatFillsTheTable(t *testing.T) {
	s := live() // 24,000 of 30,000 are assured
	s.Limits.Max, s.Limits.Buckets = ct.Known(30_300), ct.Known(30_300)
	f, err := Predict(s)
	if err != nil {
		t.Fatal(err)
	}
	alone := ct.EarlyDropOdds(s.Version, 1, 30_300, 30_300)
	mixed := ct.EarlyDropOdds(s.Version, 1-24_000.0/30_300, 30_300, 30_300)
	if want := fmt.Sprintf("%.0f %% of newcomers get in", 100*mixed); mixed > alone-0.01 || !strings.Contains(f.Floods[0].Then, want) {
		t.Errorf("%q, want %s", f.Floods[0].Then, want)
	}
	// Room for 300, and half-open entries count for 60 s and up to 60 s more.
	if got := f.Survived[0].PerSecond; got != 300.0/120 {
		t.Errorf("survives %.2f SYNs a second", got)
	}
}
