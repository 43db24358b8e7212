package guardtable_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/guardtable"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// BenchmarkChange is what a guard waits for a change of its table.
func BenchmarkChange(b *testing.B) {
	lab.Require(b)
	h := lab.NewHost(b, "bench")
	g, err := guardtable.Open(h.Name)
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	for _, n := range []int{1, 100, 4096} {
		l := guard.Limit{Seconds: 60}
		for i := range uint32(n) {
			l.Sources = append(l.Sources, netip.PrefixFrom(lab.Nth(netip.MustParsePrefix("10.0.0.0/8"), i), 32))
		}
		b.Run(fmt.Sprintf("limit/%d", n), func(b *testing.B) {
			for b.Loop() {
				if err := g.Limit(l); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	if err := g.Limit(guard.Limit{}); err != nil {
		b.Fatal(err)
	}
	b.Run("timeouts", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if err := g.SetTimeouts(timeouts(int32(ct.TimeoutTCPSynSent), int32(15+i%100))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("intact", func(b *testing.B) {
		for b.Loop() {
			if err := g.Intact(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("dropped", func(b *testing.B) {
		for b.Loop() {
			if _, err := g.Dropped(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
