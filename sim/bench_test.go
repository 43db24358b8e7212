package sim

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// BenchmarkPacket sends segments of established flows, at random.
func BenchmarkPacket(b *testing.B) {
	for _, n := range []int{1 << 16, 1 << 20} {
		b.Run(fmt.Sprintf("live=%d", n), func(b *testing.B) {
			tab := newTable(b, func(c *Config) { c.Max, c.Buckets = n+1, n })
			var p Packet
			set := func(i uint32, forward bool, flags uint8, seq, ack uint32) {
				src := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
				dst := netip.AddrFrom4([4]byte{192, 0, 2, 1})
				p.Tuple = ct.Tuple{Src: src, Dst: dst, Proto: ct.TCP, SrcPort: 4000, DstPort: 80}
				if !forward {
					p.Tuple = ct.Tuple{Src: dst, Dst: src, Proto: ct.TCP, SrcPort: 80, DstPort: 4000}
				}
				p.TCP = Segment{Seq: seq, Ack: ack, Flags: flags, Window: 60000}
			}
			for i := range uint32(n) {
				set(i, true, TCPSyn, 1, 0)
				tab.Packet(0, &p)
				set(i, false, TCPSyn|TCPAck, 1, 2)
				tab.Packet(0, &p)
				set(i, true, TCPAck, 2, 2)
				tab.Packet(0, &p)
			}
			b.ReportAllocs()
			b.ResetTimer()
			x := uint32(1)
			for i := range b.N {
				x = x*1664525 + 1013904223
				set(x>>8&uint32(n-1), x&1 == 0, TCPAck, 2, 2)
				if r := tab.Packet(Time(i)*100, &p); r.Verdict != Accepted {
					b.Fatal(r)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mpkt/s")
		})
	}
}
