package sim_test

import (
	"fmt"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// A flood of spoofed SYNs meets a table that others fill: nobody is refused,
// because the flood's own entries give way.
func Example() {
	era, _ := sim.EraByName("6.18")
	c := sim.DefaultConfig(era)
	c.Max, c.Buckets = 1000, 1024
	table, err := sim.New(c)
	if err != nil {
		fmt.Println(err)
		return
	}
	p := sim.Packet{Tuple: ct.Tuple{Dst: netip.MustParseAddr("192.0.2.1"), Proto: ct.TCP, SrcPort: 1024, DstPort: 80}}
	p.TCP = sim.Segment{Flags: sim.TCPSyn, Window: 64240}
	for i := range 20000 {
		p.Tuple.Src = netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		table.Packet(sim.Time(i)*1e5, &p)
	}
	n := table.Counters()
	fmt.Printf("full: %v, refused: %d, early drop at work: %v\n", table.Count() > 980, n.Drop, n.EarlyDrop > 18000)
	// Output: full: true, refused: 0, early drop at work: true
}
