package nslist_test

import (
	"context"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/kernel/nslist"
)

// BenchmarkList reads every namespace that the machine has.
func BenchmarkList(b *testing.B) {
	var n int
	for b.Loop() {
		r, err := nslist.List(context.Background(), nslist.Options{Limit: time.Minute})
		if err != nil {
			b.Fatal(err)
		}
		n = len(r.Namespaces)
	}
	b.ReportMetric(float64(n), "namespaces")
}
