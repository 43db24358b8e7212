package guard

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/notrack"
)

func enforcing(edit func(*Config), s Surroundings) *Policy {
	c := DefaultConfig()
	c.Enforce = true
	if edit != nil {
		edit(&c)
	}
	s.Version = ct.KernelVersion{Major: 6, Minor: 18}
	return New(c, s)
}

func reading(at time.Duration, count, limit int64) Reading {
	return Reading{At: at, Count: count, Max: limit, Buckets: limit, HasMemory: true, AvailableBytes: 8 << 30, TotalBytes: 16 << 30}
}

// A guard that takes over a raised limit can raise it further.
func TestTakeoverCanRaise(t *testing.T) {
	p := enforcing(nil, Surroundings{MaxOurs: true, MaxBefore: 20_000, EntryBytes: 384})
	ladder := Ladder(20_000, 1<<30)
	r := reading(0, 15_000, ladder[1])
	p.Step(r)
	if p.exhausted(&r) {
		t.Errorf("nothing is left above %d: %v", r.Max, p.Ladder())
	}
	if p.Deferred() != 20_000 {
		t.Errorf("goes back to %d", p.Deferred())
	}
}

// A new ceiling holds from the next reading on.
func TestCeilingIsReloaded(t *testing.T) {
	p := enforcing(nil, Surroundings{MaxOurs: true, EntryBytes: 384})
	p.Step(reading(0, 100, 20_000))
	c := p.cfg
	c.MaxCeiling = 30_000
	p.SetConfig(c)
	p.Step(reading(tick, 100, 20_000))
	for _, v := range p.Ladder() {
		if v > 30_000 {
			t.Errorf("%d is above the ceiling", v)
		}
	}
}

// The budget of an incident is whole when the next one begins.
func TestBudgetIsOfAnIncident(t *testing.T) {
	p := enforcing(nil, Surroundings{})
	r := reading(time.Hour, 19_000, 20_000)
	p.thins.total = p.cfg.EntriesPerIncident
	if got := p.thins.budget(p, r.At); got != 0 {
		t.Fatalf("%d left of a budget that is spent", got)
	}
	p.move(&r, Emergency, "of the test")
	if got := p.thins.budget(p, r.At); got != min(p.cfg.EntriesPerMinute, p.cfg.EntriesPerIncident) {
		t.Errorf("%d in a new incident", got)
	}
}

// crowd is a table that two proven sources fill, one of them beside a protected
// address.
func crowd() *Table {
	c := &ct.Census{Entries: 20_000, DistinctSources: 1_000}
	for _, a := range []string{"198.51.100.7/32", "2001:db8::1/128"} {
		c.Sources = append(c.Sources, ct.Heavy{Prefix: netip.MustParsePrefix(a), Entries: 9_000, Assured: 9_000})
	}
	for i := range 50 {
		a := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		c.Sources = append(c.Sources, ct.Heavy{Prefix: netip.PrefixFrom(a, 32), Entries: 20, Assured: 20})
	}
	return &Table{Census: c}
}

// Whoever shares a /64 with a protected address is not limited with it.
func TestProtectedNeighbour(t *testing.T) {
	p := enforcing(nil, Surroundings{Protected: []netip.Prefix{netip.MustParsePrefix("2001:db8::2/128")}})
	r := reading(time.Hour, 20_000, 20_000)
	r.Table = crowd()
	p.take(&r)
	list, _ := p.demands(&r)
	if len(list) != 51 || list[0].source != netip.MustParsePrefix("198.51.100.7/32") {
		t.Errorf("%d sources, first %v", len(list), list[0])
	}
}

// Where no source may be touched, no probation is everybody's.
func TestNoSourcesMayBeTouched(t *testing.T) {
	for _, most := range []int{0, 10} {
		p := enforcing(func(c *Config) { c.SourcesPerIncident = most }, Surroundings{})
		p.limit.before, p.limit.ours = 5_000, 20_000 // an attack is over, and its entries are still there
		p.level = Pressure
		r := reading(time.Hour, 20_000, 20_000)
		r.Table = crowd()
		p.take(&r)
		for range 2 { // what one reading shows may be the beginning of something
			p.history.learn(&ct.Census{Entries: 1000, Sources: []ct.Heavy{{Prefix: netip.MustParsePrefix("203.0.113.1/32"), Entries: 1000, Assured: 1000}}}, 1000)
		}
		o := p.foresee(&r)
		a := p.cut(&r, &o)
		if most == 0 && a != nil {
			t.Errorf("%s", a)
		}
		if most > 0 && (a == nil || len(a.Thin.Sources) == 0) {
			t.Errorf("with %d sources: %v", most, a)
		}
	}
}

// The path of those who administer the machine goes with the table that holds
// it, and not with a failure of something else.
func TestPathOutlivesFailures(t *testing.T) {
	p := enforcing(nil, Surroundings{})
	p.manage.specs = "in eth0 10.0.0.0/8 tcp 22"
	failed := Result{Action: Action{Kind: KindLimit, Limit: &Limit{PerSource: 5}}, Err: errTest}
	p.Done(failed)
	if p.manage.specs == "" {
		t.Error("forgotten because a cap failed")
	}
	failed.TableLost = true
	p.Done(failed)
	if p.manage.specs != "" {
		t.Error("remembered after the table went")
	}
}

type testError string

func (e testError) Error() string { return string(e) }

const errTest = testError("of the test")

// What cannot be seen in the midst of an attack takes the path away from nobody;
// what stands against it does.
func TestPathStaysInTheDark(t *testing.T) {
	const path = "server tcp 22 from 192.0.2.0/24"
	for name, c := range map[string]struct {
		level  Level
		manage []notrack.Judgement
		goes   bool
	}{
		"nobody listens, in calm":   {Calm, nil, true},
		"nobody listens, under way": {Emergency, nil, false},
		"not proven, under way":     {Emergency, []notrack.Judgement{{Specs: []string{path}, Verdict: notrack.NotProven}}, false},
		"refuted, under way":        {Emergency, []notrack.Judgement{{Specs: []string{path}, Verdict: notrack.Refuted}}, true},
	} {
		p := enforcing(func(c *Config) { c.NoTrack = Allow }, Surroundings{Manage: c.manage, Untrack: true})
		p.manage.specs, p.level = path, c.level
		r := reading(time.Hour, 100, 20_000)
		if a := p.path(&r); (a != nil) != c.goes {
			t.Errorf("%s: %v", name, a)
		}
	}
}
