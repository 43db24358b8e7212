package diagnose

import (
	"math"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

func TestPerSource(t *testing.T) {
	for _, tt := range []struct {
		name              string
		entries, distinct uint64
		table             int64
		complete          bool
		want              float64
	}{
		{"complete", 20000, 500, 20000, true, 40},
		// 250,000 entries of 10,000 sources: a sample of 20,000 meets
		// 10,000 × (1 - 0.92^25) = 8,756 of them.
		{"sampled", 20000, 8756, 250000, false, 25},
		{"one each", 20000, 20000, 250000, false, 1},
		{"nothing", 0, 0, 0, true, 0},
	} {
		f := &facts{c: &ct.Census{Entries: tt.entries, DistinctSources: tt.distinct, Complete: tt.complete}, peak: tt.table}
		if got := f.perSource(); math.Abs(got-tt.want) > 0.02*tt.want {
			t.Errorf("%s: %.2f entries a source, want %.0f", tt.name, got, tt.want)
		}
	}
}
