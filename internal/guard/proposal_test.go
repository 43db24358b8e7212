package guard

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/notrack"
)

// flooding steps a policy through a SYN flood that the table holds no room for:
// a gateway whose limit is not the guard's.
func flooding(t *testing.T, edit func(*Config, *Surroundings)) (*Policy, []string) {
	t.Helper()
	c := DefaultConfig()
	s := Surroundings{Version: ct.KernelVersion{Major: 6, Minor: 18}, Fragile: true,
		SynProxy: &SynProxyFacts{Module: true, Timestamps: true, Listening: []uint16{22, 443}, Unproven: []string{"that no rule translates"}}}
	edit(&c, &s)
	p := New(c, s)
	var notes []string
	for i := range 60 {
		at := time.Duration(i) * 100 * time.Millisecond
		n := int64(min(1000+2000*i, 20_000))
		r := Reading{At: at, Count: n, Max: 20_000, Buckets: 20_480}
		r.Counters.EarlyDrop = uint32(1000 * i)
		census := &ct.Census{Entries: 10_000, Classes: []ct.Class{{ClassKey: ct.ClassKey{Proto: ct.TCP, State: ct.TCPSynRecv}, Entries: 9000},
			{ClassKey: ct.ClassKey{Proto: ct.TCP, State: ct.TCPEstablished, Replied: true, Assured: true}, Entries: 1000}}}
		r.Table = &Table{Census: census, HalfOpen: map[uint16]uint64{443: 8900, 80: 100}}
		notes = append(notes, p.Step(r).Notes...)
	}
	return p, notes
}

func TestSynProxyIsProposed(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*Config, *Surroundings)
		note string // "" for not a word
	}{
		"right":         {func(*Config, *Surroundings) {}, "SYNPROXY is proposed: early drop removes"},
		"not fragile":   {func(_ *Config, s *Surroundings) { s.Fragile = false }, "SYNPROXY is not proposed: early drop and cookies deal with this flood"},
		"nobody there":  {func(_ *Config, s *Surroundings) { s.SynProxy.Listening = []uint16{22} }, "SYNPROXY is not proposed: nothing on this machine listens on port 443"},
		"never":         {func(c *Config, _ *Surroundings) { c.SynProxy = Never }, ""},
		"nothing known": {func(_ *Config, s *Surroundings) { s.SynProxy = nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, notes := flooding(t, c.edit)
			said := 0
			for _, n := range notes {
				if strings.Contains(n, "SYNPROXY") {
					said++
					if !strings.HasPrefix(n, c.note) {
						t.Errorf("said %q", n)
					}
				}
			}
			if want := min(len(c.note), 1); said != want {
				t.Errorf("said %d times, want %d:\n%s", said, want, strings.Join(notes, "\n"))
			}
			i := p.Unfinished()
			if i == nil || (len(i.Proposals) == 1) != (c.note != "") {
				t.Fatalf("incident %+v", i)
			}
			if name != "right" {
				return
			}
			o := i.Proposals[0]
			if !o.Right || len(o.Price) == 0 || len(o.Do) == 0 || len(o.Undo) == 0 || len(o.Unproven) != 1 || o.Used {
				t.Errorf("%+v", o)
			}
		})
	}
}

var manage = []notrack.Judgement{{Specs: []string{"server tcp 22 from 192.0.2.0/24"}, Verdict: notrack.Proven, Risks: []string{"a risk"}}}

// TestPathBeforeTracking goes through peace, an attack and peace again.
func TestPathBeforeTracking(t *testing.T) {
	c := DefaultConfig()
	c.Enforce, c.NoTrack = true, Allow
	c.Manage = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	p := New(c, Surroundings{Version: ct.KernelVersion{Major: 6, Minor: 18}, Manage: manage, Untrack: true})
	at := time.Duration(0)
	step := func(count int64) (did []Action) {
		at += 100 * time.Millisecond
		d := p.Step(Reading{At: at, Count: count, Max: 10_000, Buckets: 10_240})
		for _, a := range d.Actions {
			p.Done(Result{Action: a, At: at})
			if a.Kind == KindUntrack {
				did = append(did, a)
			}
		}
		return did
	}
	did := step(100)
	if len(did) != 1 || did[0].Undo || did[0].Untrack.Specs != "server tcp 22 from 192.0.2.0/24" {
		t.Fatalf("in peace: %+v", did)
	}
	if did := step(100); len(did) != 0 {
		t.Errorf("once more: %+v", did)
	}
	if l := p.Proposals(); len(l) != 1 || !l[0].Used || len(l[0].Price) != 1 {
		t.Errorf("%+v", l)
	}
	// Not during an incident, though the proof grows.
	more := []notrack.Judgement{{Specs: []string{"server tcp 22 from 192.0.2.0/24", "server tcp 2222 from 192.0.2.0/24"}, Verdict: notrack.Proven}}
	p.SetSurroundings(Surroundings{Version: ct.KernelVersion{Major: 6, Minor: 18}, Manage: more, Untrack: true})
	for range 5 {
		if did := step(9900); len(did) != 0 {
			t.Errorf("during the attack: %+v", did)
		}
	}
	if p.Level() == Calm {
		t.Fatal("it is calm")
	}
	// What is no longer proven goes at once.
	refuted := []notrack.Judgement{{Specs: manage[0].Specs, Verdict: notrack.Refuted,
		Checks: []notrack.Check{{What: "the rules accept it untracked", Verdict: notrack.Refuted, Why: "a policy drops"}}}}
	p.SetSurroundings(Surroundings{Version: ct.KernelVersion{Major: 6, Minor: 18}, Manage: refuted, Untrack: true})
	if did := step(9900); len(did) != 1 || !did[0].Undo || !strings.Contains(did[0].Why, "a policy drops") {
		t.Errorf("without its proof: %+v", did)
	}
	p.SetSurroundings(Surroundings{Version: ct.KernelVersion{Major: 6, Minor: 18}, Manage: manage, Untrack: true})
	for range 3 {
		if did := step(9900); len(did) != 0 {
			t.Errorf("during the attack: %+v", did)
		}
	}
	for range 600 {
		did = append(did, step(100)...)
	}
	if len(did) != 2 || did[1].Undo {
		t.Errorf("when it is over: %+v", did)
	}
	list := p.Undo(Reading{At: at, Count: 100, Max: 10_000})
	if len(list) != 1 || list[0].Kind != KindUntrack || !list[0].Undo {
		t.Errorf("at the end: %+v", list)
	}
}

func TestPathIsOnlyProposed(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"propose": func(c *Config) { c.Enforce = true },
		"observe": func(c *Config) { c.NoTrack = Allow },
		"never":   func(c *Config) { c.Enforce, c.NoTrack = true, Never },
	} {
		c := DefaultConfig()
		edit(&c)
		p := New(c, Surroundings{Version: ct.KernelVersion{Major: 6, Minor: 18}, Manage: manage, Untrack: true})
		var notes []string
		for i := range 700 {
			d := p.Step(Reading{At: time.Duration(i) * 100 * time.Millisecond, Count: 10, Max: 10_000, Buckets: 10_240})
			if len(d.Actions)+len(d.Would) > 0 {
				t.Fatalf("%s: %+v %+v", name, d.Actions, d.Would)
			}
			notes = append(notes, d.Notes...)
		}
		if want := map[bool]int{true: 0, false: 1}[name == "never"]; len(notes) != want || len(p.Proposals()) != want {
			t.Errorf("%s: %q", name, notes)
		}
	}
}
