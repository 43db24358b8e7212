package census

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// buckets is a table as the kernel walks it.
type buckets struct {
	rng  *rand.Rand
	list [][]ct.Flow
	next uint32
	n    int
}

func newBuckets(n int, seed uint64) *buckets {
	return &buckets{rng: rand.New(rand.NewPCG(seed, 2)), list: make([][]ct.Flow, n)}
}

func (b *buckets) add(n int, state ct.State) {
	for range n {
		b.next++
		b.n++
		f := ct.Flow{ID: b.next, State: state, TimeoutSeconds: 431999, Fields: ct.HasTimeout | ct.HasProtoInfo | ct.HasID,
			Orig: ct.Tuple{Proto: ct.TCP, Src: netip.AddrFrom4([4]byte{10, byte(b.next >> 16), byte(b.next >> 8), byte(b.next)}),
				Dst: netip.AddrFrom4([4]byte{192, 0, 2, 1}), DstPort: 80}}
		f.Reply, _ = f.Orig.Invert()
		i := b.rng.IntN(len(b.list))
		b.list[i] = append([]ct.Flow{f}, b.list[i]...) // the kernel puts new ones first
	}
}

// kill removes a share of the entries, and lets seconds pass over the others
// except for a share that is renewed.
func (b *buckets) pass(kill, renew float64, seconds uint32) (died int) {
	for i, l := range b.list {
		keep := l[:0]
		for _, f := range l {
			switch {
			case b.rng.Float64() < kill:
				died++
				continue
			case b.rng.Float64() >= renew:
				f.TimeoutSeconds -= seconds
			}
			keep = append(keep, f)
		}
		b.list[i] = keep
	}
	b.n -= died
	return died
}

func (b *buckets) walk(fn func(*ct.Flow) bool) {
	for _, l := range b.list {
		for i := range l {
			if !fn(&l[i]) {
				return
			}
		}
	}
}

func TestPanelRates(t *testing.T) {
	for name, c := range map[string]struct {
		entries, panel int
		kill, renew    float64
		births         int
	}{
		"whole table":   {5000, 20000, 0.1, 0.3, 700},
		"quiet":         {100000, 10000, 0, 0, 0},
		"churn":         {100000, 10000, 0.4, 0.5, 40000},
		"flood":         {100000, 10000, 0, 1, 150000},
		"all replaced":  {100000, 10000, 1, 0, 100000},
		"it runs empty": {100000, 10000, 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			const elapsed = 2 * time.Second
			b := newBuckets(1<<17, 7)
			b.add(c.entries, ct.TCPEstablished)
			p := NewPanel(c.panel, 3)
			b.walk(p.First)
			r := ct.Rates{CountStart: ct.Known(int64(b.n))}
			died := b.pass(c.kill, c.renew, 2)
			b.add(c.births, ct.TCPSynSent)
			r.CountEnd = ct.Known(int64(b.n))
			grew := float64(b.n) / float64(c.entries)
			b.walk(func(f *ct.Flow) bool { p.Second(f, elapsed); return !p.Enough(grew) })
			p.Rates(&r, elapsed)
			if !r.Panel {
				t.Fatal("no rates")
			}
			// Five standard errors of what a panel of this size can tell.
			part := math.Min(1, float64(c.panel)/float64(c.entries))
			within := func(what string, got, want, count float64) {
				t.Helper()
				if math.Abs(got-want) > 5*math.Sqrt(count*part)/part/elapsed.Seconds()+1 {
					t.Errorf("%s: %.1f, in truth %.1f", what, got, want)
				}
			}
			within("births", r.BirthsPerSecond, float64(c.births)/2, float64(c.births))
			within("deaths", r.DeathsPerSecond, float64(died)/2, float64(died))
			if died < c.entries && math.Abs(r.Rearmed-c.renew) > 0.05 {
				t.Errorf("renewed %.3f, in truth %.3f", r.Rearmed, c.renew)
			}
			if c.births > 0 && (len(r.BirthsByClass) != 1 || r.BirthsByClass[0].State != ct.TCPSynSent || r.MeanLifetime <= 0) {
				t.Errorf("births by class %+v, lifetime %v", r.BirthsByClass, r.MeanLifetime)
			}
		})
	}
}

func TestPanelTakesDuplicatesOnce(t *testing.T) {
	p := NewPanel(10, 1)
	b := newBuckets(1, 1)
	b.add(3, ct.TCPEstablished)
	b.walk(p.First)
	b.walk(p.First)
	if p.Len() != 3 {
		t.Errorf("%d members", p.Len())
	}
	b.walk(func(f *ct.Flow) bool { p.Second(f, time.Second); p.Second(f, time.Second); return true })
	var r ct.Rates
	p.Rates(&r, time.Second)
	if r.BirthsPerSecond != 0 || r.DeathsPerSecond != 0 {
		t.Errorf("%+v", r)
	}
}

func TestPanelOfNothing(t *testing.T) {
	p := NewPanel(10, 1)
	var r ct.Rates
	p.Rates(&r, time.Second)
	if !r.Panel || r.BirthsPerSecond != 0 {
		t.Errorf("%+v", r)
	}
	p.Rates(&r, 0)
}
