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

// BenchmarkSYN is what a bare SYN costs the machine, sending it included:
// without our table, with one that limits others, and with one that refuses
// it. The server refuses the connection, so that no entries pile up.
func BenchmarkSYN(b *testing.B) {
	lab.Require(b)
	p := lab.Server(b)
	g, err := guardtable.Open(p.Server.Name)
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	others := guard.Limit{Seconds: 600}
	for i := range uint32(4096) {
		others.Sources = append(others.Sources, netip.PrefixFrom(lab.Nth(netip.MustParsePrefix("172.16.0.0/12"), i), 32))
	}
	counted := others
	counted.PerSource = 100
	for _, c := range []struct {
		name string
		l    guard.Limit
	}{
		{"no-table", guard.Limit{}},
		{"others-limited", others},
		{"others-counted", counted},
		{"refused", limit(p.Client.Spoof4.String())},
	} {
		b.Run(c.name, func(b *testing.B) {
			if err := g.Limit(c.l); err != nil {
				b.Skip(err)
			}
			for b.Loop() {
				_, err := p.Client.SYNFlood(b.Context(), netip.AddrPortFrom(p.Server.Addr4, 81), p.Client.Spoof4, lab.Load{Packets: 20_000})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/20_000, "ns/packet")
		})
	}
}
