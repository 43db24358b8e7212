package simulate

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/ctwarden/ctwarden/internal/workload"
	"github.com/ctwarden/ctwarden/sim"
)

// Generated is the traffic of a workload file.
type Generated struct {
	Spec  *workload.Spec
	Seed  uint64
	Scale float64 // 1 is all of it

	last *workload.Generator
}

var _ Traffic = (*Generated)(nil)

// Run makes the packets.
func (g *Generated) Run(ctx context.Context, sink workload.Sink, tick func(sim.Time)) error {
	gen, err := workload.New(g.Spec, g.Seed, g.Scale)
	if err != nil {
		return err
	}
	g.last = gen
	step := max(sim.Time(g.Length())/1000, sim.Time(time.Millisecond))
	for at := step; ; at += step {
		if err := gen.RunUntil(ctx, at, sink); err != nil {
			return err
		}
		tick(min(at, sim.Time(g.Length())))
		if at >= sim.Time(g.Length()) {
			return nil
		}
	}
}

// Classes are those of the workload.
func (g *Generated) Classes() []Class {
	out := make([]Class, len(g.Spec.Classes))
	for i := range g.Spec.Classes {
		c := &g.Spec.Classes[i]
		out[i] = Class{Name: c.Name, Legitimate: c.IsLegitimate()}
	}
	return out
}

// Length is that of the workload.
func (g *Generated) Length() time.Duration { return time.Duration(g.Spec.Duration) }

// Outcomes are those of the last run.
func (g *Generated) Outcomes() []workload.Outcome {
	if g.last == nil {
		return nil
	}
	return g.last.Outcomes
}

// Source yields packets in the order of their times; io.EOF ends them.
type Source interface {
	Next(*sim.Packet) (sim.Time, error)
}

// Captured is the traffic of packet captures.
type Captured struct {
	Source Source
	// Share, if not nil, tells how much of the source has been read, 0 to 1.
	Share func() float64
}

var _ Traffic = (*Captured)(nil)

// Run reads the captures to their end. Where the run is called off, the traffic
// ends there.
func (c *Captured) Run(ctx context.Context, sink workload.Sink, tick func(sim.Time)) error {
	b := new(batch)
	for n := 0; ; n++ {
		more, err := b.fill(c.Source)
		if err != nil {
			return err
		}
		if b.n > 0 {
			sink(b.at[:b.n], b.packets[:b.n], b.verdicts[:b.n])
		}
		if !more {
			return nil
		}
		if n%128 == 0 {
			tick(b.at[b.n-1])
			if ctx.Err() != nil {
				return nil //nolint:nilerr // being called off ends the traffic, and is no failure of it
			}
		}
	}
}

// batch is a number of packets that are read, then simulated.
type batch struct {
	n        int
	at       [sim.BatchSize]sim.Time
	packets  [sim.BatchSize]sim.Packet
	verdicts [sim.BatchSize]sim.Verdict
}

// fill reads until the batch is full; more is false at the source's end.
func (b *batch) fill(src Source) (more bool, err error) {
	for b.n = 0; b.n < len(b.at); b.n++ {
		b.at[b.n], err = src.Next(&b.packets[b.n])
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// Classes returns nil: a capture does not say who is who.
func (*Captured) Classes() []Class { return nil }

// Length is unknown.
func (*Captured) Length() time.Duration { return 0 }

// Outcomes returns nil.
func (*Captured) Outcomes() []workload.Outcome { return nil }
