package simulate

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/census"
	"github.com/ctwarden/ctwarden/sim"
)

// runner gathers the figures of one run.
type runner struct {
	table   *sim.Table
	max     int // the table's
	o       Options
	classes []Class
	length  time.Duration // 0 if unknown
	tell    func(Progress)
	r       Result
	refused [256]uint64
	early   [256]uint64
	who     *census.Census // of packets that were refused; nil before the first, and with classes
	flow    ct.Flow        // one of them
	results [sim.BatchSize]sim.Result
	every   sim.Time
	next    sim.Time
	first   sim.Time
	started bool
	last    sim.Time
}

func newRunner(s Setting, t Traffic, o Options, tell func(Progress)) (*runner, error) {
	rn := &runner{o: o, classes: t.Classes(), length: t.Length(), tell: tell, every: sim.Time(time.Second)}
	if rn.length > 0 {
		rn.every = max(sim.Time(rn.length)/sim.Time(o.Samples), 1)
	}
	cfg := thinned(s.Config, o.Scale)
	cfg.Events, cfg.Memory = rn.event, o.Memory
	var err error
	rn.table, err = sim.New(cfg)
	rn.max = cfg.Max
	rn.r = Result{Name: s.Name, Values: s.Values, Era: cfg.Era.Label(), Max: s.Config.Max, Buckets: s.Config.Buckets, FullAt: -1, Scale: o.Scale}
	return rn, err
}

func run(ctx context.Context, s Setting, t Traffic, o Options, tell func(Progress)) (Result, error) {
	rn, err := newRunner(s, t, o, tell)
	if err != nil {
		return Result{}, err
	}
	if err = t.Run(ctx, rn.packets, rn.tick); err != nil && !errors.Is(err, io.EOF) {
		return Result{}, err
	}
	return rn.finish(t), nil
}

// tick is called as the time of the traffic passes.
func (rn *runner) tick(at sim.Time) {
	rn.sample(at)
	if len(rn.r.Points) >= 4*rn.o.Samples {
		rn.halve()
	}
	p := Progress{Share: -1, Packets: rn.r.Packets}
	if rn.started {
		p.Passed = time.Duration(max(at-rn.first, 0))
	}
	if rn.length > 0 {
		p.Share = min(1, float64(p.Passed)/float64(rn.length))
	}
	rn.tell(p)
}

// packets is the traffic's sink.
func (rn *runner) packets(at []sim.Time, ps []sim.Packet, verdicts []sim.Verdict) {
	if !rn.started {
		rn.first, rn.next, rn.started = at[0], at[0], true
	}
	for len(ps) > 0 {
		n := 0
		for n < len(ps) && at[n] < rn.next {
			n++
		}
		if n == 0 {
			rn.sample(at[0])
			continue
		}
		rn.track(at[:n], ps[:n], verdicts[:n])
		at, ps, verdicts = at[n:], ps[n:], verdicts[n:]
	}
}

func (rn *runner) track(at []sim.Time, ps []sim.Packet, verdicts []sim.Verdict) {
	results := rn.results[:len(ps)]
	rn.table.Packets(at, ps, results)
	for i := range results {
		v := results[i].Verdict
		verdicts[i] = v
		switch v {
		case sim.Refused:
			rn.r.Refused++
			rn.refused[ps[i].Tag]++
			if len(rn.classes) == 0 {
				rn.note(&ps[i])
			}
		case sim.Invalid:
			rn.r.Invalid++
		case sim.Lost:
			rn.r.Lost++
		}
		rn.last = max(rn.last, at[i])
	}
	rn.r.Packets += uint64(len(ps))
	if rn.r.FullAt < 0 && rn.max > 0 && rn.table.Peak() >= rn.max {
		rn.r.FullAt = seconds(rn.last - rn.first)
	}
}

// note keeps who was refused.
func (rn *runner) note(p *sim.Packet) {
	if rn.who == nil {
		rn.who = census.New(census.Options{})
	}
	rn.flow.Orig = p.Tuple
	rn.who.Add(&rn.flow)
}

func (rn *runner) event(e sim.Event) {
	if e.Kind != sim.EventDestroy {
		return
	}
	switch e.Cause {
	case sim.CauseEarlyDrop:
		rn.r.EarlyDrop++
		rn.early[e.Tag]++
	case sim.CauseGC:
		rn.r.GCEvicted++
	}
}

func (rn *runner) sample(at sim.Time) {
	if !rn.started || at < rn.next {
		return
	}
	rn.table.Advance(at)
	pt := Point{At: seconds(at - rn.first), Count: rn.table.Count(), Refused: rn.r.Refused, Early: rn.r.EarlyDrop}
	// Counting states walks the whole table: once in a while will do.
	if len(rn.r.Points)%statesEvery == 0 {
		pt.States = countStates(rn.table)
	}
	rn.r.Points = append(rn.r.Points, pt)
	rn.next += (at-rn.next)/rn.every*rn.every + rn.every
}

// halve drops every other point of traffic whose length nobody knew.
func (rn *runner) halve() {
	kept := rn.r.Points[:0]
	for i, p := range rn.r.Points {
		if i%2 == 0 {
			kept = append(kept, p)
		}
	}
	rn.r.Points = kept
	rn.every *= 2
}

func (rn *runner) finish(t Traffic) Result {
	r := rn.r
	r.Seconds = seconds(rn.last - rn.first)
	r.Peak = rn.table.Peak()
	r.Counters = rn.table.Counters()
	counts := make([]int, len(r.Points))
	for i, p := range r.Points {
		counts[i] = p.Count
	}
	slices.Sort(counts)
	r.P50, r.P95, r.P99 = percentile(counts, 0.50), percentile(counts, 0.95), percentile(counts, 0.99)
	outcomes := t.Outcomes()
	for i, c := range rn.classes {
		cr := ClassResult{Class: c, RefusedPackets: rn.refused[i+1], EarlyDropped: rn.early[i+1]}
		if i < len(outcomes) {
			cr.Outcome = outcomes[i]
		}
		if c.Legitimate {
			r.LegitDrop += cr.EarlyDropped
		}
		r.Classes = append(r.Classes, cr)
	}
	if rn.who != nil {
		for _, h := range rn.who.Result().Sources {
			if len(r.RefusedFrom) < mostRefusees && h.Prefix.IsSingleIP() {
				r.RefusedFrom = append(r.RefusedFrom, Refusee{h.Prefix.Addr(), h.Entries})
			}
		}
	}
	if rn.o.Scale < 1 {
		r.enlarge(rn.o.Scale, rn.max)
	}
	r.Memory = int64(r.Peak)*entryBytes + int64(r.Buckets)*bucketBytes
	return r
}
