package simdiff

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// pressure is a full table of which a share is assured, and new flows that
// come upon it.
type pressure struct {
	max, buckets, newcomers int
	assured                 float64
}

func (p pressure) String() string {
	return fmt.Sprintf("max %d, %d buckets, %3.0f %% assured", p.max, p.buckets, 100*p.assured)
}

// toll is what the newcomers cost.
type toll struct{ refused, evicted, lost float64 }

// resident is the nth entry of the full table.
func resident(n int, assured bool) *ct.Flow {
	f := &ct.Flow{Orig: ct.Tuple{Src: netip.AddrFrom4([4]byte{10, 64, byte(n >> 8), byte(n)}),
		Dst: netip.AddrFrom4([4]byte{172, 20, byte(n >> 16), 1}), Proto: ct.UDP, SrcPort: 5000, DstPort: 53},
		TimeoutSeconds: 3600, Fields: ct.HasTimeout}
	f.Reply, _ = f.Orig.Invert()
	if assured {
		f.Status = ct.StatusSeenReply | ct.StatusAssured
	}
	return f
}

func newcomer(n int) sim.Packet {
	return sim.Packet{Tuple: ct.Tuple{Src: netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}),
		Dst: netip.AddrFrom4([4]byte{172, 16, 0, 1}), Proto: ct.UDP, SrcPort: 6000, DstPort: 53}}
}

// inModel plays the pressure in the model.
func (p pressure) inModel(t *testing.T, e sim.Era, seed uint64) toll {
	c := sim.DefaultConfig(e)
	c.Max, c.Buckets, c.Seed = p.max, p.buckets, seed
	table, err := sim.New(c)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; table.Count() < p.max; n++ {
		_, _ = table.Insert(resident(n, table.Count() < int(p.assured*float64(p.max))), 0)
	}
	before := table.Counters()
	for n := range p.newcomers {
		q := newcomer(n)
		table.Packet(0, &q)
	}
	return tollOf(table.Counters().Sub(before))
}

func tollOf(c ct.Counters) toll {
	return toll{refused: float64(c.Drop), evicted: float64(c.EarlyDrop), lost: float64(c.InsertFailed)}
}

// inKernel plays the pressure in the running kernel.
func (p pressure) inKernel(r *Rig) toll {
	r.empty()
	for n := 0; ; {
		have := r.tracker.Count()
		if have >= p.max {
			break
		}
		b := r.conn.NewBatch()
		for i := range p.max - have {
			// A chain that is full already refuses the entry; another takes
			// its place in the next round.
			_ = b.Create(resident(n, have+i < int(p.assured*float64(p.max))))
			n++
		}
		_ = b.Flush()
	}
	before := r.counters()
	w := r.wires[0]
	for n := range p.newcomers {
		q := newcomer(n)
		w.frames[w.n] = simtest.AppendFrame(w.frames[w.n][:0], w.eth, &q, nil, simtest.NoDefect, 0)
		if w.n++; w.n == chunkFrames || n == p.newcomers-1 {
			if err := w.flush(); err != nil {
				r.t.Fatal(err)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	time.Sleep(20 * time.Millisecond)
	return tollOf(r.counters().Sub(before))
}

// TestPressure compares refusals, evictions and lost insertions of full tables
// with the spread of the model's. The kernel's toll is the middle one of three
// runs: garbage collection may help in one of them.
func TestPressure(t *testing.T) {
	lab.Require(t, "conntrack")
	limits := lab.ExclusiveLimits(t)
	rig := NewRig(t, false)
	const max, newcomers, seeds = 8192, 2000, 24
	e := runningEra(t)
	for _, buckets := range []int{max / 16, max / 4, max, max * 4, max * 16} {
		for _, assured := range []float64{0, 0.5, 0.9, 0.99, 1} {
			p := pressure{max: max, buckets: buckets, newcomers: newcomers, assured: assured}
			rig.empty()
			limits.SetBuckets(buckets)
			limits.SetMax(max)
			var runs, model []toll
			for range 3 {
				runs = append(runs, p.inKernel(rig))
			}
			for seed := range uint64(seeds) {
				model = append(model, p.inModel(t, e, seed))
			}
			for _, m := range []struct {
				name string
				of   func(toll) float64
			}{
				{"refused", func(x toll) float64 { return x.refused }},
				{"evicted", func(x toll) float64 { return x.evicted }},
				{"lost", func(x toll) float64 { return x.lost }},
			} {
				mean, sd := spread(model, m.of)
				got := middle(runs, m.of)
				if math.Abs(got-mean) > 4.5*sd+3 {
					t.Errorf("%s: %s %.0f in the kernel, %.1f ± %.1f in the model", p, m.name, got, mean, sd)
				} else {
					t.Logf("%s: %s %.0f in the kernel, %.1f ± %.1f in the model", p, m.name, got, mean, sd)
				}
			}
		}
	}
	rig.empty()
}

func spread(list []toll, of func(toll) float64) (mean, sd float64) {
	for _, x := range list {
		mean += of(x) / float64(len(list))
	}
	for _, x := range list {
		sd += (of(x) - mean) * (of(x) - mean) / float64(len(list)-1)
	}
	return mean, math.Sqrt(sd)
}

func middle(list []toll, of func(toll) float64) float64 {
	var v []float64
	for _, x := range list {
		v = append(v, of(x))
	}
	slices.Sort(v)
	return v[len(v)/2]
}
