package bench

import (
	"path/filepath"
	"testing"

	"github.com/ctwarden/ctwarden/internal/kernel/hugepages"
	"github.com/ctwarden/ctwarden/sim"
)

// BenchmarkCapture takes a capture of 65,536 live flows through the model. Its
// profile is what the program is compiled by: make pgo.
func BenchmarkCapture(b *testing.B) {
	const flows = 65_536
	file := filepath.Join(b.TempDir(), "flows.pcap")
	packets, err := generate(file, flows)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		cfg := sim.DefaultConfig(sim.Latest())
		cfg.Max, cfg.Buckets, cfg.Seed = flows+flows/8, flows, 1
		cfg.Memory = hugepages.Advise
		table, err := sim.New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		c, err := read(file, table)
		if err != nil || c.Packets != packets {
			b.Fatalf("%d of %d packets: %v", c.Packets, packets, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(packets), "ns/packet")
}
