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
// than one newcomer in ten seconds is refused, with a little less more are.
func TestReserve(t *testing.T) {
	v := ct.KernelVersion{Major: 6, Minor: 18}
	for _, perSecond := range []float64{1, 100, 80_000} {
		n := reserve(v, perSecond, 262_144, 262_144)
		refused := func(n int64) float64 {
			return perSecond * (1 - ct.EarlyDropOdds(v, float64(n)/262_144, 262_144, 262_144))
		}
		if refused(n) > 0.1 || refused(n-1) < 0.1 {
			t.Errorf("%g/s: reserve %d refuses %g/s, one less %g/s", perSecond, n, refused(n), refused(n-1))
		}
	}
	if n := reserve(v, 80_000, 5_000, 262_144); n <= 5_000 {
		t.Errorf("5,000 entries in 262,144 buckets: a reserve of %d is said to do", n)
	}
	if n := reserve(v, 0, 5_000, 262_144); n != 0 {
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
