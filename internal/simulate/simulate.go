// Package simulate runs traffic through the model of connection tracking under
// several settings and compares what comes out. It is pure: traffic and
// settings in, results out.
package simulate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
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
	Values string // what differs from the base, as key=value,...
	Config sim.Config
}

// Options of a comparison.
type Options struct {
	// Samples is how many points of a run are kept; 600 if zero.
	Samples int
	// Workers is how many settings run at once; the number of CPUs if zero.
	Workers int
	// Scale is the part of the traffic that is simulated, on a table that is as
	// much smaller; 0 is all of it. Figures of results are those of all of it.
	// The makers of traffic thin it themselves.
	Scale float64
	// Progress is told how far a setting has come; it may be called from several
	// goroutines at once.
	Progress func(setting int, p Progress)
	// Memory is [sim.Config]'s.
	Memory func([]byte)
}

// Progress of a run.
type Progress struct {
	Share   float64 // 0 to 1, negative where the length is not known
	Packets uint64
	Passed  time.Duration // of the traffic
}

// Point is the table at one time.
type Point struct {
	At      float64 `json:"at_seconds"`
	Count   int     `json:"count"`
	Refused uint64  `json:"refused"`    // packets so far
	Early   uint64  `json:"early_drop"` // entries so far
	// States are the entries by kind, in the order of StateNames, for one point
	// in a few.
	States []int `json:"states,omitempty"`
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
	Name      string  `json:"name"`
	Values    string  `json:"values"` // what differs from the base, as key=value,...
	Era       string  `json:"era"`
	Max       int     `json:"max"`
	Buckets   int     `json:"buckets"`
	Packets   uint64  `json:"packets"`
	Seconds   float64 `json:"seconds"`
	Scale     float64 `json:"scale"` // below 1: so much was simulated, and figures multiplied
	Peak      int     `json:"peak"`
	P50       int     `json:"p50"`
	P95       int     `json:"p95"`
	P99       int     `json:"p99"`
	FullAt    float64 `json:"full_at_seconds"` // -1 if it never filled
	Refused   uint64  `json:"refused"`
	Invalid   uint64  `json:"invalid"`
	Lost      uint64  `json:"lost"`
	EarlyDrop uint64  `json:"early_drop"`
	LegitDrop uint64  `json:"early_drop_legitimate"` // of them; 0 for captures
	GCEvicted uint64  `json:"gc_evicted"`
	Memory    int64   `json:"memory_bytes"` // of the kernel, at the peak
	// RefusedFrom are the sources of most refused packets, where the traffic has
	// no classes.
	RefusedFrom []Refusee     `json:"refused_sources,omitempty"`
	Classes     []ClassResult `json:"classes,omitempty"`
	Points      []Point       `json:"points"`
	Counters    ct.Counters   `json:"counters"`
}

// Refusee is a source that was refused.
type Refusee struct {
	Source  netip.Addr `json:"source"`
	Packets uint64     `json:"packets"` // at most
}

// mostRefusees is how many are named.
const mostRefusees = 5

// LegitimateServed is the share of legitimate connections that were answered and
// not broken later, 0 to 1, and whether the traffic says which are legitimate.
func (r *Result) LegitimateServed() (float64, bool) {
	var started, lost uint64
	for _, c := range r.Classes {
		if c.Legitimate {
			started += c.Started
			lost += c.GaveUp + c.Broken
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

// complete fills in what was left out.
func (o Options) complete() Options {
	if o.Samples == 0 {
		o.Samples = 600
	}
	if o.Workers == 0 {
		o.Workers = runtime.NumCPU()
	}
	if o.Progress == nil {
		o.Progress = func(int, Progress) {}
	}
	if o.Scale == 0 {
		o.Scale = 1
	}
	return o
}

// Compare runs every setting over its own copy of the traffic, several at
// once. Results come in the order of the settings.
func Compare(ctx context.Context, settings []Setting, traffic func() (Traffic, error), o Options) ([]Result, error) {
	o = o.complete()
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
				results[i], err = run(ctx, settings[i], t, o, func(p Progress) { o.Progress(i, p) })
			}
			if err != nil {
				errs[i] = fmt.Errorf("simulate %q: %w", settings[i].Name, err)
			}
		}()
	}
	wg.Wait()
	return results, errors.Join(errs...)
}

func percentile(sorted []int, q float64) int {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func seconds(t sim.Time) float64 { return float64(t) / 1e9 }
