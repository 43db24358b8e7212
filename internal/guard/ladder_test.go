package guard

import (
	"math"
	"slices"
	"testing"
)

func TestLadder(t *testing.T) {
	for _, c := range []struct {
		before, ceiling int64
		want            []int64
	}{
		{1000, 3375, []int64{1500, 2250, 3375}},
		{1000, 3374, []int64{1500, 2250}},
		{1001, 2300, []int64{1502, 2253}},
		{1, 5, []int64{2, 3, 5}},
		{0, 1000, nil},
		{4096, 4096, nil},
	} {
		if got := Ladder(c.before, c.ceiling); !slices.Equal(got, c.want) {
			t.Errorf("Ladder(%d, %d) = %v, want %v", c.before, c.ceiling, got, c.want)
		}
	}
	whole, part := Ladder(4096, math.MaxInt32), Ladder(4096, 100_000)
	if len(part) == 0 || !slices.Equal(whole[:len(part)], part) {
		t.Errorf("a lower ceiling gives other values: %v, %v", part, whole)
	}
}
