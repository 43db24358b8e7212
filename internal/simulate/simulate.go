// Package simulate runs traffic through the model of connection tracking under
// several settings and compares what comes out. It is pure: traffic and
// settings in, results out.
package simulate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/workload"
	"github.com/ctwarden/ctwarden/sim"
)

// Traffic makes a fresh run of the same packets for each setting.
type Traffic interface {
	// Run calls sink with every packet, in order. tick is called with the time
	// of the traffic as it passes.
	Run(ctx context.Context, sink workload.Sink, tick func(sim.Time)) error
	// Classes names the classes by tag, from 1 on; empty for captures.
	Classes() []Class
	// Length is the length of the traffic, 0 if unknown.
	Length() time.Duration
	// Outcomes are those of the last Run of this value, by class.
	Outcomes() []workload.Outcome
}

// Class of traffic, as results name it.
type Class struct {
	Name       string `json:"name"`
	Legitimate bool   `json:"legitimate"`
}

// Setting is one configuration to run.
type Setting struct {
	Name   string
	Config sim.Config
}

// Options of a comparison.
type Options struct {
	// Samples is how many points of a run are kept; 600 if zero.
	Samples int
	// Workers is how many settings run at once; the number of CPUs if zero.
	Workers int
	// Progress is told the setting and the share done, 0 to 1; it may be
	// called from several goroutines at once.
	Progress func(setting int, done float64)
}

// Point is the table at one time.
type Point struct {
	At       float64 `json:"at_seconds"`
	Count    int     `json:"count"`
	Refused  uint64  `json:"refused"`    // packets so far
	Early    uint64  `json:"early_drop"` // entries so far
	States   []int   `json:"-"`          // by StateNames, for one point in a few
	HasState bool    `json:"-"`
}

// ClassResult is what happened to one class.
type ClassResult struct {
	Class
	workload.Outcome
	RefusedPackets uint64 `json:"refused_packets"`
	EarlyDropped   uint64 `json:"early_dropped"`
}

// Result is one run.
type Result struct {
	Name      string        `json:"name"`
	Era       string        `json:"era"`
	Max       int           `json:"max"`
	Buckets   int           `json:"buckets"`
	Packets   uint64        `json:"packets"`
	Seconds   float64       `json:"seconds"`
	Peak      int           `json:"peak"`
	P50       int           `json:"p50"`
	P95       int           `json:"p95"`
	P99       int           `json:"p99"`
	FullAt    float64       `json:"full_at_seconds"` // -1 if it never filled
	Refused   uint64        `json:"refused"`
	Invalid   uint64        `json:"invalid"`
	Lost      uint64        `json:"lost"`
	EarlyDrop uint64        `json:"early_drop"`
	LegitDrop uint64        `json:"early_drop_legitimate"` // of them; 0 for captures
	GCEvicted uint64        `json:"gc_evicted"`
	Memory    int64         `json:"memory_bytes"` // of the kernel, at the peak
	Classes   []ClassResult `json:"classes,omitempty"`
	Points    []Point       `json:"points"`
	Counters  ct.Counters   `json:"counters"`
}

// LegitimateServed is the share of legitimate connections that were answered,
// 0 to 1, and whether the traffic says which are legitimate.
func (r *Result) LegitimateServed() (float64, bool) {
	var started, lost uint64
	for _, c := range r.Classes {
		if c.Legitimate {
			started += c.Started
			lost += c.GaveUp
		}
	}
	if started == 0 {
		return 0, false
	}
	return 1 - float64(lost)/float64(started), true
}

// Entry and bucket prices of the kernel: struct nf_conn in its slab, the least
// extension block, a bucket head.
const (
	entryBytes  = 256 + 128
	bucketBytes = 8
)

// Compare runs every setting over its own copy of the traffic, several at
// once. Results come in the order of the settings.
func Compare(ctx context.Context, settings []Setting, traffic func() (Traffic, error), o Options) ([]Result, error) {
	if o.Samples == 0 {
		o.Samples = 600
	}
	if o.Workers == 0 {
		o.Workers = runtime.NumCPU()
	}
	if o.Progress == nil {
		o.Progress = func(int, float64) {}
	}
	results := make([]Result, len(settings))
	errs := make([]error, len(settings))
	var wg sync.WaitGroup
	gate := make(chan struct{}, o.Workers)
	for i := range settings {
		wg.Add(1)
		gate <- struct{}{}
		go func() {
			defer func() { <-gate; wg.Done() }()
			t, err := traffic()
			if err == nil {
				results[i], err = run(ctx, settings[i], t, o, func(done float64) { o.Progress(i, done) })
			}
			if err != nil {
				errs[i] = fmt.Errorf("simulate %q: %w", settings[i].Name, err)
			}
		}()
	}
	wg.Wait()
	return results, errors.Join(errs...)
}

// runner gathers the figures of one run.
type runner struct {
	table   *sim.Table
	classes []Class
	r       Result
	refused [256]uint64
	early   [256]uint64
	every   sim.Time
	next    sim.Time
	first   sim.Time
	started bool
	last    sim.Time
}

func run(ctx context.Context, s Setting, t Traffic, o Options, progress func(float64)) (Result, error) {
	rn := &runner{classes: t.Classes(), every: sim.Time(time.Second)}
	length := t.Length()
	if length > 0 {
		rn.every = max(sim.Time(length)/sim.Time(o.Samples), 1)
	}
	cfg := s.Config
	cfg.Events = rn.event
	table, err := sim.New(cfg)
	if err != nil {
		return Result{}, err
	}
	rn.table = table
	rn.r = Result{Name: s.Name, Era: cfg.Era.Label(), Max: cfg.Max, Buckets: cfg.Buckets, FullAt: -1}
	err = t.Run(ctx, rn.packet, func(at sim.Time) {
		rn.sample(at)
		if length > 0 && rn.started {
			progress(min(1, float64(at-rn.first)/float64(length)))
		}
		if len(rn.r.Points) >= 4*o.Samples {
			rn.thin()
		}
	})
	if err != nil && !errors.Is(err, io.EOF) {
		return Result{}, err
	}
	progress(1)
	return rn.finish(t), nil
}

func (rn *runner) packet(at sim.Time, p *sim.Packet) sim.Verdict {
	if !rn.started {
		rn.first, rn.next, rn.started = at, at, true
	}
	if at >= rn.next {
		rn.sample(at)
	}
	rn.last = max(rn.last, at)
	res := rn.table.Packet(at, p)
	rn.r.Packets++
	switch res.Verdict {
	case sim.Refused:
		rn.r.Refused++
		rn.refused[p.Tag]++
	case sim.Invalid:
		rn.r.Invalid++
	case sim.Lost:
		rn.r.Lost++
	}
	if n := rn.table.Count(); n > rn.r.Peak {
		rn.r.Peak = n
	}
	if rn.r.FullAt < 0 && rn.r.Max > 0 && rn.table.Count() >= rn.r.Max {
		rn.r.FullAt = seconds(at - rn.first)
	}
	return res.Verdict
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
		pt.States, pt.HasState = countStates(rn.table), true
	}
	rn.r.Points = append(rn.r.Points, pt)
	for rn.next <= at {
		rn.next += rn.every
	}
}

// thin halves the points of traffic whose length nobody knew.
func (rn *runner) thin() {
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
	r.Counters = rn.table.Counters()
	r.Memory = int64(r.Peak)*entryBytes + int64(r.Buckets)*bucketBytes
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
	return r
}

func percentile(sorted []int, q float64) int {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func seconds(t sim.Time) float64 { return float64(t) / 1e9 }
