package sim

import (
	"flag"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/ctwarden/ctwarden/ct"
)

var live = flag.String("sim.live", "65536", "numbers of live flows to benchmark with, separated by commas")

// BenchmarkPacket sends segments of established flows, at random.
func BenchmarkPacket(b *testing.B) {
	for _, s := range strings.Split(*live, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("live="+s, func(b *testing.B) { benchmarkLive(b, n) })
	}
}

func benchmarkLive(b *testing.B, n int) {
	tab := newTable(b, func(c *Config) { c.Max, c.Buckets = n+1, n })
	var p Packet
	for i := range n {
		segment(&p, i, true, TCPSyn, 1, 0)
		tab.Packet(0, &p)
		segment(&p, i, false, TCPSyn|TCPAck, 1, 2)
		tab.Packet(0, &p)
		segment(&p, i, true, TCPAck, 2, 2)
		tab.Packet(0, &p)
	}
	b.ReportAllocs()
	cpu := cpuTime(b)
	b.ResetTimer()
	x := uint64(1)
	var (
		ps [BatchSize]Packet
		at [BatchSize]Time
		rs [BatchSize]Result
	)
	for i := range b.N {
		x = x*6364136223846793005 + 1442695040888963407
		j := i % BatchSize
		segment(&ps[j], int(x>>33)%n, x>>32&1 == 0, TCPAck, 2, 2)
		at[j] = Time(i) * 100
		if j < BatchSize-1 && i < b.N-1 {
			continue
		}
		tab.Packets(at[:j+1], ps[:j+1], rs[:j+1])
		for _, r := range rs[:j+1] {
			if r.Verdict != Accepted {
				b.Fatal(r)
			}
		}
	}
	b.ReportMetric(float64(b.N)/(cpuTime(b)-cpu).Seconds()/1e6, "Mpkt/s")
	b.ReportMetric(float64(tab.bytes())/float64(tab.Count()), "B/flow")
}

// BenchmarkShortFlows opens and closes connections: a steady state in which
// every packet makes, moves or replaces an entry.
func BenchmarkShortFlows(b *testing.B) {
	tab := newTable(b, func(c *Config) { c.Max, c.Buckets = 262144, 262144 })
	var (
		ps [BatchSize]Packet
		at [BatchSize]Time
		rs [BatchSize]Result
	)
	b.ReportAllocs()
	cpu := cpuTime(b)
	for i := range b.N {
		flow, j := i/4, i%BatchSize
		p := &ps[j]
		at[j] = Time(i) * 2000
		switch i % 4 {
		case 0:
			segment(p, flow, true, TCPSyn, 1, 0)
		case 1:
			segment(p, flow, false, TCPSyn|TCPAck, 1, 2)
		case 2:
			segment(p, flow, true, TCPAck, 2, 2)
		case 3:
			segment(p, flow, true, TCPRst, 2, 2)
		}
		if j == BatchSize-1 || i == b.N-1 {
			tab.Packets(at[:j+1], ps[:j+1], rs[:j+1])
		}
	}
	b.ReportMetric(float64(b.N)/(cpuTime(b)-cpu).Seconds()/1e6, "Mpkt/s")
}

// cpuTime is the processor time that this process has used: what others do on
// the machine does not count.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func segment(p *Packet, i int, forward bool, flags uint8, seq, ack uint32) {
	src := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	dst := netip.AddrFrom4([4]byte{192, 0, 2, 1})
	p.Tuple = ct.Tuple{Src: src, Dst: dst, Proto: ct.TCP, SrcPort: 4000, DstPort: 80}
	if !forward {
		p.Tuple = ct.Tuple{Src: dst, Dst: src, Proto: ct.TCP, SrcPort: 80, DstPort: 4000}
	}
	p.TCP = Segment{Seq: seq, Ack: ack, Flags: flags, Window: 60000}
}

// bytes is what the table holds in memory that is in use.
func (t *Table) bytes() uintptr {
	return uintptr(len(t.entries))*(unsafe.Sizeof(entry{})+unsafe.Sizeof(track{})) + uintptr(len(t.heads))*4 +
		uintptr(len(t.sides))*unsafe.Sizeof(side{})
}

func TestBytesAFlow(t *testing.T) {
	const n = 10000
	for _, c := range []struct {
		name  string
		limit float64
		v6    bool
		nat   []NATRule
	}{
		{"IPv4", 128, false, nil},
		{"IPv6", 192, true, nil},
		{"IPv4 with NAT", 192, false, []NATRule{{Kind: Masquerade, To: netip.AddrFrom4([4]byte{203, 0, 113, 1})}}},
	} {
		tab := newTable(t, func(k *Config) { k.Max, k.Buckets, k.NAT = n, n, c.nat })
		for i := range n {
			p := udpPacket(i)
			if c.v6 {
				p.Tuple.Src = netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)})
				p.Tuple.Dst = netip.AddrFrom16([16]byte{0: 0xfd, 1: 1})
			}
			if c.nat != nil { // one address has few ports towards one server
				p.Tuple.Dst = netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
			}
			tab.Packet(0, p)
		}
		if got := float64(tab.bytes()) / n; tab.Count() != n || got > c.limit {
			t.Errorf("%s: %.1f bytes a flow, want at most %.0f (%d flows)", c.name, got, c.limit, tab.Count())
		}
	}
}
