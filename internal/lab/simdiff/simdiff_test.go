package simdiff

import (
	"flag"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

var (
	sequences = flag.Int("simdiff.sequences", 4000, "how many random sequences to compare")
	seed      = flag.Uint64("simdiff.seed", 0, "seed of the random sequences; 0 takes the clock")
	only      = flag.Int("simdiff.only", 0, "number of the one protocol to generate")
)

// batchOf makes a batch. Half of the batches have other knobs than the kernel's
// own; where they wait, sequences outlive timeouts.
func batchOf(g *simtest.Generator, e sim.Era, n int, waits, knobs bool) *Batch {
	b := &Batch{Timeouts: e.Timeouts(), Knobs: sim.DefaultKnobs(), Era: e}
	b.Knobs.Acct = waits || knobs
	if k := &b.Knobs; knobs {
		k.TCPLoose = g.R.IntN(3) > 0
		k.TCPBeLiberal = g.R.IntN(3) == 0
		k.TCPIgnoreInvalidRST = g.R.IntN(2) == 0
		k.TCPMaxRetrans = uint8(g.R.IntN(5))
		k.Checksum = g.R.IntN(3) > 0
	}
	for range n {
		b.Sequences = append(b.Sequences, g.Sequence())
	}
	if waits {
		b.Timeouts = shortTimeouts(e)
		b.Waits = make([]time.Duration, g.Steps)
		for range 2 {
			b.Waits[2+g.R.IntN(g.Steps-2)] = 3200 * time.Millisecond
		}
	}
	return b
}

func TestRandom(t *testing.T) {
	lab.Require(t, "conntrack")
	lab.SharedLimits(t)
	compareRandom(t, runningEra(t), *sequences, false)
}

// TestRandomNAT does so across a gateway that masquerades.
func TestRandomNAT(t *testing.T) {
	lab.Require(t, "conntrack")
	lab.SharedLimits(t)
	compareRandom(t, runningEra(t), *sequences/4, true)
}

// runningEra is the era of the running kernel.
func runningEra(t *testing.T) sim.Era {
	t.Helper()
	v, err := ct.ParseKernelVersion(release())
	if err != nil {
		t.Fatal(err)
	}
	return sim.EraFor(v)
}

// compareRandom compares n random sequences with the running kernel.
func compareRandom(t *testing.T, e sim.Era, n int, nat bool) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	g := &simtest.Generator{R: rand.New(rand.NewPCG(s, 1)), Steps: 12, Only: ct.Proto(*only),
		DCCP: !e.From.AtLeast(6, 15)}
	rig := NewRig(t, nat)
	// Batches come in four kinds: with and without waits, with the kernel's own
	// knobs and with others.
	each := min(max(n/4, 250), 10000)
	var sum Report
	for i, left := 0, n; left > 0; i, left = i+1, left-each {
		b := batchOf(g, e, min(left, each), i%2 == 0, i%4 >= 2)
		start := time.Now()
		rep := rig.Compare(b, 5)
		sum.Add(&rep)
		t.Logf("%s, %v", rep.String(), time.Since(start).Round(time.Millisecond))
		for i := range rep.Differences {
			d := &rep.Differences[i]
			if len(sum.Differences) > 15 && i > 2 {
				t.Fail()
				continue
			}
			t.Errorf("seed %d: kernel and model differ\n%s%s", s, d.Sequence, d.Difference.String())
		}
	}
	t.Logf("model %s against kernel %s: %s", e.Label(), release(), sum.String())
}

func release() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}

// TestPlantedBugs plants wrong rules in the model, one at a time, and expects
// each to be noticed.
func TestPlantedBugs(t *testing.T) {
	lab.Require(t, "conntrack")
	lab.SharedLimits(t)
	rig := NewRig(t, false)
	for i, bug := range simtest.Bugs() {
		t.Run(bug, func(t *testing.T) {
			rig.t = t
			g := &simtest.Generator{R: rand.New(rand.NewPCG(uint64(i), 2)), Steps: 12}
			found := 0
			for round := 0; round < 6 && found == 0; round++ {
				// Only a timeout shows what refreshes.
				waits := strings.Contains(bug, "refresh") || round == 5
				b := batchOf(g, runningEra(t), 2500, waits, false)
				b.Era = simtest.WithBug(b.Era, bug)
				diffs := rig.Run(b)
				found = len(diffs)
				if found > 0 {
					s := b.Sequences[diffs[0].Sequence]
					t.Logf("%d of %d sequences show it, such as\n%s%s", found, len(b.Sequences), s, diffs[0].String())
				}
			}
			if found == 0 {
				t.Error("not noticed")
			}
		})
	}
	rig.t = t
}
