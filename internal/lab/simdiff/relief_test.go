package simdiff

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

var reliefRuns = flag.Int("simdiff.relief", 0, "how often to watch a full table for two minutes on the running kernel")

// relief is a full table of a mixture upon which new flows come for as long as
// garbage collection needs to help.
type relief struct {
	max, buckets int
	// Shares of the residents: assured for good, assured but closing, and of
	// the rest some that run out at once. What is left is not assured.
	assured, closing, expired float64
	perSecond                 int // newcomers
}

func (c relief) String() string {
	return fmt.Sprintf("max %d, %d buckets, %.0f %% assured, %.0f %% closing, %.0f %% expired, %d new a second",
		c.max, c.buckets, 100*c.assured, 100*c.closing, 100*c.expired, c.perSecond)
}

// reliefSeconds is how long a run is watched: two periods of collection.
const reliefSeconds = 125

// watched is what a run shows.
type watched struct {
	count          [reliefSeconds]float64 // by second
	refused, early float64
}

// reliefMeasures are the figures that are compared.
var reliefMeasures = []struct {
	name string
	of   func(*watched) float64
}{
	{"occupancy, mean", func(w *watched) float64 { return w.mean(0, reliefSeconds) }},
	{"occupancy, seconds 0-30", func(w *watched) float64 { return w.mean(0, 30) }},
	{"occupancy, seconds 30-60", func(w *watched) float64 { return w.mean(30, 60) }},
	{"occupancy, seconds 60-90", func(w *watched) float64 { return w.mean(60, 90) }},
	{"occupancy, seconds 90-125", func(w *watched) float64 { return w.mean(90, reliefSeconds) }},
	{"lowest occupancy", func(w *watched) float64 {
		low := w.count[0]
		for _, n := range w.count {
			low = min(low, n)
		}
		return low
	}},
	{"first relief, seconds", func(w *watched) float64 {
		for i, n := range w.count {
			if n < 0.985*w.count[0] {
				return float64(i)
			}
		}
		return reliefSeconds
	}},
	{"refused", func(w *watched) float64 { return w.refused }},
	{"evicted by packets", func(w *watched) float64 { return w.early }},
}

func (w *watched) mean(from, to int) (m float64) {
	for _, n := range w.count[from:to] {
		m += n / float64(to-from)
	}
	return m
}

// resident is the nth entry of the full table.
func (c relief) resident(n int) *ct.Flow {
	f := resident(n, false)
	f.TimeoutSeconds = 3600
	switch share := float64(n) / float64(c.max); {
	case share < c.assured:
		f.Status = ct.StatusSeenReply | ct.StatusAssured
	case share < c.assured+c.closing:
		f.Orig.Proto, f.Reply.Proto = ct.TCP, ct.TCP
		f.State = ct.TCPTimeWait
		f.Status = ct.StatusSeenReply | ct.StatusAssured
		f.Fields |= ct.HasProtoInfo
	case share < c.assured+c.closing+c.expired:
		f.TimeoutSeconds = 1
	}
	return f
}

// settle is how long the short-lived residents get to run out.
const settle = 3 * time.Second

func (c relief) inModel(t *testing.T, e sim.Era, seed uint64) (w watched) {
	config := sim.DefaultConfig(e)
	config.Max, config.Buckets, config.Seed = c.max, c.buckets, seed
	table, err := sim.New(config)
	if err != nil {
		t.Fatal(err)
	}
	for n := range c.max {
		_, _ = table.Insert(c.resident(n), 0)
	}
	before := table.Counters()
	at := sim.Time(settle)
	for n := range reliefSeconds * c.perSecond {
		table.Advance(at)
		if n%c.perSecond == 0 {
			w.count[n/c.perSecond] = float64(table.Count())
		}
		q := newcomer(n)
		table.Packet(at, &q)
		at += sim.Time(time.Second) / sim.Time(c.perSecond)
	}
	d := table.Counters().Sub(before)
	w.refused, w.early = float64(d.Drop), float64(d.EarlyDrop)
	return w
}

func (c relief) inKernel(r *Rig, limits *lab.Limits, phase time.Duration) (w watched) {
	r.empty()
	limits.SetBuckets(c.buckets)
	limits.SetMax(c.max)
	for end := time.Now().Add(phase); time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond) // on an idle machine collection waits
	}
	b := r.conn.NewBatch()
	for n := range c.max {
		if err := b.Create(c.resident(n)); err != nil {
			r.t.Fatal(err)
		}
	}
	_ = b.Flush() // a chain may be full
	start := time.Now().Add(settle)
	before := r.counters()
	wire := r.wires[0]
	for n := range reliefSeconds * c.perSecond {
		time.Sleep(time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(c.perSecond))))
		if n%c.perSecond == 0 {
			w.count[n/c.perSecond] = float64(r.tracker.Count())
		}
		q := newcomer(n)
		wire.frames[0] = simtest.AppendFrame(wire.frames[0][:0], wire.eth, &q, nil, simtest.NoDefect, 0)
		wire.n = 1
		if err := wire.flush(); err != nil {
			r.t.Fatal(err)
		}
	}
	d := r.counters().Sub(before)
	w.refused, w.early = float64(d.Drop), float64(d.EarlyDrop)
	return w
}

// reliefCases cover shares of assured entries from none to all, and few and
// many buckets.
func reliefCases(scaled bool) []relief {
	const max = 4096
	all := []relief{
		{max: max, buckets: max * 8, assured: 0.8, closing: 0.1, expired: 0.02, perSecond: 20},
		{max: max, buckets: max, assured: 1, perSecond: 20},
		{max: max, buckets: max * 16, assured: 0, closing: 0, expired: 0.05, perSecond: 20},
		{max: max, buckets: max * 4, assured: 0.5, closing: 0.5, perSecond: 10},
		{max: max, buckets: max / 4, assured: 0.95, closing: 0.03, expired: 0.02, perSecond: 40},
		{max: max, buckets: max * 16, assured: 0.25, closing: 0.25, expired: 0.1, perSecond: 5},
	}
	if scaled {
		return all[:1]
	}
	return all
}

// TestRelief watches full tables of the running kernel over two periods of
// garbage collection each.
func TestRelief(t *testing.T) {
	if *reliefRuns == 0 {
		t.Skip("takes minutes; make sim-diff has it, and CI the guests")
	}
	lab.Require(t, "conntrack")
	compareRelief(t, runningEra(t), reliefCases(false), *reliefRuns)
}

// TestGuestRelief does so in virtual time.
func TestGuestRelief(t *testing.T) {
	scaled := *sequences < 2000
	runs := 6
	if scaled {
		runs = 3
	}
	compareRelief(t, runningEra(t), reliefCases(scaled), runs)
}

// compareRelief compares the means of some runs of the kernel with the model's.
// They may differ by four standard errors and half a percent of the table.
func compareRelief(t *testing.T, e sim.Era, cases []relief, runs int) {
	limits := lab.ExclusiveLimits(t)
	rig := NewRig(t, false)
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 5))
	const seeds = 60
	for _, c := range cases {
		var kernel, model []watched
		for range runs {
			// Collection is met at any point of its period.
			kernel = append(kernel, c.inKernel(rig, limits, time.Duration(rng.IntN(120000))*time.Millisecond))
		}
		for seed := range uint64(seeds) {
			model = append(model, c.inModel(t, e, seed))
		}
		for _, m := range reliefMeasures {
			km, ks := spreadOf(kernel, m.of)
			mm, ms := spreadOf(model, m.of)
			sd := max(ks, ms)
			within := 4*sd*math.Sqrt(1/float64(runs)+1/float64(seeds)) + 0.005*float64(c.max)
			line := fmt.Sprintf("%s: %s %.1f ± %.1f in %d runs of the kernel, %.1f ± %.1f in the model", c, m.name, km, ks, runs, mm, ms)
			if math.Abs(km-mm) > within {
				t.Error(line)
			} else {
				t.Log(line)
			}
		}
	}
	rig.empty()
}

func spreadOf(list []watched, of func(*watched) float64) (mean, sd float64) {
	for i := range list {
		mean += of(&list[i]) / float64(len(list))
	}
	for i := range list {
		d := of(&list[i]) - mean
		sd += d * d / float64(max(len(list)-1, 1))
	}
	return mean, math.Sqrt(sd)
}
