package simulate

import (
	"context"
	"errors"
	"io"
	"math"
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

// Captured is the traffic of packet captures.
type Captured struct {
	Source interface {
		Next(*sim.Packet) (sim.Time, error)
	}
}

var (
	_ Traffic = (*Captured)(nil)
	_ Traffic = (*Replayed)(nil)
)

// Run reads the captures to their end.
func (c *Captured) Run(ctx context.Context, sink workload.Sink, tick func(sim.Time)) error {
	var p sim.Packet
	for n := 0; ; n++ {
		at, err := c.Source.Next(&p)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		sink(at, &p)
		if n%4096 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			tick(at)
		}
	}
}

// Classes returns nil: a capture does not say who is who.
func (*Captured) Classes() []Class { return nil }

// Length is unknown.
func (*Captured) Length() time.Duration { return 0 }

// Outcomes returns nil.
func (*Captured) Outcomes() []workload.Outcome { return nil }

// Replayed repeats packets kept in memory, for standard input that several
// settings are to see.
type Replayed struct {
	Packets []sim.Packet
	Times   []sim.Time
}

// Keep reads a source into memory, at most limit packets.
func Keep(src interface {
	Next(*sim.Packet) (sim.Time, error)
}, limit int) (*Replayed, error) {
	r := &Replayed{}
	for len(r.Packets) < limit {
		var p sim.Packet
		at, err := src.Next(&p)
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		r.Packets, r.Times = append(r.Packets, p), append(r.Times, at)
	}
	return nil, ErrTooMany
}

// ErrTooMany says that a stream is too long to be kept for several settings.
var ErrTooMany = errors.New("the stream holds too many packets to be kept for several settings: write it to a file")

// Run repeats the packets.
func (r *Replayed) Run(ctx context.Context, sink workload.Sink, tick func(sim.Time)) error {
	for i := range r.Packets {
		sink(r.Times[i], &r.Packets[i])
		if i%4096 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			tick(r.Times[i])
		}
	}
	return nil
}

// Classes returns nil.
func (*Replayed) Classes() []Class { return nil }

// Length is from the first packet to the last.
func (r *Replayed) Length() time.Duration {
	if len(r.Times) == 0 {
		return 0
	}
	return time.Duration(min(r.Times[len(r.Times)-1]-r.Times[0], math.MaxInt64))
}

// Outcomes returns nil.
func (*Replayed) Outcomes() []workload.Outcome { return nil }
