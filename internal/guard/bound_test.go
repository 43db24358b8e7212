package guard

import (
	"math"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

func TestCeiling(t *testing.T) {
	c := DefaultConfig()
	c.MemoryShare = 0.1
	if got := Ceiling(&c, 1000, 400, 4_000_000, 1); got != 1000 {
		t.Errorf("a tenth of 4 MB holds %d entries of 400 B, want what stands: 1000", got)
	}
	if got := Ceiling(&c, 100, 400, 40_000_000, 2); got != 5000 {
		t.Errorf("two namespaces share a tenth of 40 MB: %d entries each, want 5000", got)
	}
	c.MaxCeiling = 3000
	if got := Ceiling(&c, 100, 400, 40_000_000, 1); got != 3000 {
		t.Errorf("ceiling %d, want the configured 3000", got)
	}
}

// TestReserve compares with the odds that the reserve is made of: with it fewer
// newcomers are refused than may be, with a little less more are.
func TestReserve(t *testing.T) {
	v := ct.KernelVersion{Major: 6, Minor: 18}
	const limit = 262_144
	for _, few := range []float64{fewRefusals, almostNone} {
		for _, perSecond := range []float64{1, 100, 80_000} {
			n := reserve(v, perSecond, few, limit, limit/2)
			refused := func(n int64) float64 {
				return perSecond * (1 - ct.EarlyDropOdds(v, float64(n)/limit, limit, limit/2))
			}
			if refused(n) > few || refused(n-1) < few {
				t.Errorf("%g/s: reserve %d refuses %g/s, one less %g/s, and %g are allowed", perSecond, n, refused(n), refused(n-1), few)
			}
		}
	}
	if n := reserve(v, 80_000, fewRefusals, 5_000, 262_144); n != noReserve {
		t.Errorf("5,000 entries in 262,144 buckets: a reserve of %d is said to do", n)
	}
	if n := reserve(v, 80_000, almostNone, 20_000, 20_000); n != noReserve {
		t.Errorf("20,000 entries in 20,000 buckets: a reserve of %d is said to keep nearly everything out of chance's hands", n)
	}
	if n := reserve(v, 0, fewRefusals, 5_000, 262_144); n != 0 {
		t.Errorf("no newcomers need a reserve of %d", n)
	}
}

func TestMaxMin(t *testing.T) {
	for _, tc := range []struct {
		demands  []int64
		capacity int64
		want     int64
	}{
		{[]int64{1, 2, 3}, 100, math.MaxInt64},
		{[]int64{100, 100, 1}, 101, 50},
		{[]int64{10, 10, 10, 1000}, 60, 30},
		{[]int64{1000}, 10, 10},
	} {
		if got := maxMin(tc.demands, tc.capacity); got != tc.want {
			t.Errorf("maxMin(%v, %d) = %d, want %d", tc.demands, tc.capacity, got, tc.want)
		}
	}
}
