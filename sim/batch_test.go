package sim

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestPacketsTogether: packets that are looked up in advance fare as they do one
// by one, in chains that are long, of flows that resemble each other.
func TestPacketsTogether(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		c := DefaultConfig(eras[rng.IntN(len(eras))])
		c.Max, c.Buckets = 16<<rng.IntN(5), 1<<rng.IntN(5)
		if rng.IntN(3) == 0 {
			c.NAT = []NATRule{{Kind: Masquerade, To: netip.AddrFrom4([4]byte{203, 0, 113, 1})}}
		}
		tab, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		var (
			at      []Time
			ps      []Packet
			results []Result
			now     Time
		)
		strange, wait := rng.IntN(2) == 0, []Time{1e3, 1e6, 1e8, 5e9}[rng.IntN(4)]
		for range 4000 {
			if now += Time(rng.Int64N(int64(wait))); rng.IntN(100) == 0 {
				now += Time(rng.IntN(200)) * second
			}
			p := *udpPacket(rng.IntN(4))
			p.Tuple.SrcPort = uint16(rng.IntN(32))
			if rng.IntN(2) == 0 {
				segment(&p, rng.IntN(64), rng.IntN(2) == 0, [...]uint8{TCPSyn, TCPAck, TCPAck, TCPSyn | TCPAck, TCPRst, TCPFin | TCPAck}[rng.IntN(6)], 1, 1)
			}
			if strange {
				var b [16]byte
				for i := range b {
					b[i] = byte(rng.Uint32() >> rng.IntN(8))
				}
				p = packetFrom(b[:])
			}
			at, ps = append(at, now), append(ps, p)
			results = append(results, tab.Packet(now, &p))
		}
		checkWhole(t, tab)
		checkBatches(t, c, at, ps, results, tab.Counters())
	}
}
