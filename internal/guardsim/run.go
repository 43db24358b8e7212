// Package guardsim runs the policy of the guard against the model of
// connection tracking and generated traffic: for tests, and for users who want
// to see what it would do before they let it. It is pure: the same workload
// and seed give the same run.
package guardsim

import (
	"context"
	"fmt"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/workload"
	"github.com/ctwarden/ctwarden/sim"
)

// Setup is a machine, its traffic and its guard.
type Setup struct {
	Machine sim.Config
	Traffic *workload.Spec
	Guard   guard.Config
	// Around is what the guard knows of the machine; Version, Timeouts and
	// EntryBytes are filled in from Machine where they are not set.
	Around guard.Surroundings
	// AvailableBytes is the memory of the machine, 8 GiB if 0.
	AvailableBytes int64
	// Foreign, if not nil, is called before each reading with the time and the
	// table: somebody else who changes things.
	Foreign func(time.Duration, *sim.Table)
	// Start is when the guard is started.
	Start time.Duration
	// Progress, if not nil, is told the share done, 0 to 1.
	Progress func(float64)
	// Tail is how long the machine is watched after the traffic has ended.
	Tail time.Duration
}

// Event is a line of the log.
type Event struct {
	At   time.Duration
	Text string
}

// Result of a run.
type Result struct {
	Log       []Event
	Incidents []*guard.Incident
	Classes   []Class
	Refused   uint64
	EarlyDrop uint64
	Peak      int
	Actions   int
	MaxAtEnd  int
	Deferred  int64
}

// Class is what became of a class of traffic.
type Class struct {
	Name       string
	Legitimate bool
	workload.Outcome
}

// Served is the share of a class's connections that were answered, 0 to 1.
func (c *Class) Served() float64 {
	if c.Started == 0 {
		return 1
	}
	return 1 - float64(c.GaveUp)/float64(c.Started)
}

// entryBytes is the price of an entry with the least extension block.
const entryBytes = 256 + 128

// run is one under way.
type run struct {
	s        *Setup
	table    *sim.Table
	gen      *workload.Generator
	policy   *guard.Policy
	now      time.Duration
	last     guard.Decision
	prefix   []limitedPrefix
	nets     guard.Limit
	defaults ct.Timeouts
	thin     *thinning
	res      Result
}

// Run plays the traffic and lets the guard act.
func Run(ctx context.Context, s Setup) (*Result, error) {
	r := &run{s: &s, defaults: s.Machine.Timeouts}
	if s.AvailableBytes == 0 {
		s.AvailableBytes = 8 << 30
	}
	var err error
	if r.table, err = sim.New(s.Machine); err != nil {
		return nil, err
	}
	if r.gen, err = workload.New(s.Traffic, 0, 1); err != nil {
		return nil, err
	}
	a := s.Around
	if a.Timeouts == (ct.Timeouts{}) {
		a.Timeouts = s.Machine.Timeouts
	}
	if a.EntryBytes == 0 {
		a.EntryBytes = entryBytes
	}
	r.policy = guard.New(s.Guard, a)
	end := time.Duration(s.Traffic.Duration) + s.Tail
	for r.now < end {
		if s.Progress != nil {
			s.Progress(float64(r.now) / float64(end))
		}
		if err := r.advance(ctx); err != nil {
			return nil, err
		}
	}
	r.finish()
	return &r.res, nil
}

// advance goes to the next reading and acts on it.
func (r *run) advance(ctx context.Context) error {
	step := r.last.Next
	if step <= 0 {
		step = 100 * time.Millisecond
	}
	r.now += step
	if err := r.gen.RunUntil(ctx, sim.Time(r.now), r.sink); err != nil {
		return err
	}
	r.table.Advance(sim.Time(r.now))
	if r.s.Foreign != nil {
		r.s.Foreign(r.now, r.table)
	}
	r.res.Peak = max(r.res.Peak, r.table.Count())
	r.goOn()
	if r.now < r.s.Start {
		return nil
	}
	r.last = r.policy.Step(r.reading(r.last.WantTable, r.last.WantMemory || r.res.Log == nil))
	for _, n := range r.last.Notes {
		r.res.Log = append(r.res.Log, Event{r.now, n})
	}
	if r.last.Ended != nil {
		r.res.Incidents = append(r.res.Incidents, r.last.Ended)
	}
	for _, a := range r.last.Actions {
		r.res.Actions++
		r.res.Log = append(r.res.Log, Event{r.now, fmt.Sprintf("%s, because %s", &a, a.Why)})
		r.do(a)
	}
	return nil
}

// sink gives packets to the table, unless our own rules stop them before.
func (r *run) sink(at []sim.Time, ps []sim.Packet, verdicts []sim.Verdict) {
	for i := range ps {
		if len(r.prefix) > 0 && r.stops(&ps[i]) {
			verdicts[i] = sim.Refused
			continue
		}
		verdicts[i] = r.table.Packet(at[i], &ps[i]).Verdict
	}
}

func (r *run) finish() {
	c := r.table.Counters()
	r.res.Refused, r.res.EarlyDrop = uint64(c.Drop), uint64(c.EarlyDrop)
	r.res.MaxAtEnd, r.res.Deferred = r.table.Max(), r.policy.Deferred()
	for i := range r.s.Traffic.Classes {
		k := &r.s.Traffic.Classes[i]
		r.res.Classes = append(r.res.Classes, Class{k.Name, k.IsLegitimate(), r.gen.Outcomes[i]})
	}
}

// Summary is one line: how the legitimate fared.
func (r *Result) Summary() string {
	var started, lost uint64
	for i := range r.Classes {
		if c := &r.Classes[i]; c.Legitimate {
			started, lost = started+c.Started, lost+c.GaveUp
		}
	}
	served := 100.0
	if started > 0 {
		served = 100 * (1 - float64(lost)/float64(started))
	}
	return fmt.Sprintf("%.2f %% of %d legitimate connections served, %d packets refused, at most %d entries", served, started, r.Refused, r.Peak)
}

// String prints the log and the figures.
func (r *Result) String() string {
	var b []byte
	for _, e := range r.Log {
		b = fmt.Appendf(b, "%8.1fs  %s\n", e.At.Seconds(), e.Text)
	}
	b = fmt.Appendf(b, "\nrefused %d, early drop %d, peak %d, max at the end %d, actions %d\n", r.Refused, r.EarlyDrop, r.Peak, r.MaxAtEnd, r.Actions)
	for i := range r.Classes {
		c := &r.Classes[i]
		b = fmt.Appendf(b, "%s: %d started, %.2f %% served, %d broken\n", c.Name, c.Started, 100*c.Served(), c.Broken)
	}
	for _, i := range r.Incidents {
		b = fmt.Appendf(b, "incident: %s, %s, %.0f s, %d on probation, %d acquitted, %d went, %d sources limited\n", i.Worst, i.Class, i.Seconds,
			i.Figures.OnProbation, i.Figures.Acquitted, i.Figures.Evicted, i.Figures.SourcesLimited)
	}
	return string(b)
}
