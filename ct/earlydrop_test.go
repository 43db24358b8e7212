package ct

import (
	"math"
	"testing"
)

// The first three rows were measured on 6.18: 26.7 % and 2.0 % of the packets
// were admitted, and none of a flood was refused with 1,536 buckets.
func TestEarlyDropOdds(t *testing.T) {
	v618 := KernelVersion{6, 18, 0}
	for _, tt := range []struct {
		name           string
		v              KernelVersion
		unassured      float64
		count, buckets int64
		want           float64
	}{
		{"all disposable in far too many buckets", v618, 1, 5000, 262144, 0.263},
		{"all disposable, few buckets", v618, 1, 5000, 1536, 1},
		{"mostly assured, buckets = max", v618, 0.0012, 262144, 262144, 0.019},
		{"none disposable", v618, 0, 5000, 1536, 0},
		{"4.19 looks at one bucket", KernelVersion{4, 19, 0}, 1, 65536, 65536, 0.865},
		{"3.10 looks at eight entries", KernelVersion{3, 10, 0}, 0.5, 65536, 16384, 0.996},
		{"fewer buckets than looks", v618, 1, 10, 4, 1},
		{"empty", v618, 1, 0, 1536, 0},
	} {
		got := EarlyDropOdds(tt.v, tt.unassured, tt.count, tt.buckets)
		if math.Abs(got-tt.want) > 0.001 {
			t.Errorf("%s: odds %.4f, want %.3f", tt.name, got, tt.want)
		}
	}
}
