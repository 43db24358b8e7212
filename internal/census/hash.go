package census

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

// key is what is counted: an address or a prefix (an IPv4 one in its mapped
// form), or protocol and port.
type key struct{ hi, lo uint64 }

func addrKey(a netip.Addr) key {
	b := a.As16()
	return key{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func portKey(p ct.Proto, port uint16) key { return key{0, uint64(p)<<16 | uint64(port)} }

func (k key) is4() bool { return k.hi == 0 && k.lo>>32 == 0xffff }

// network cuts an address down to its /24 or /64.
func (k key) network() key {
	if k.is4() {
		return key{0, k.lo &^ 0xff}
	}
	return key{k.hi, 0}
}

func (k key) addr() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], k.hi)
	binary.BigEndian.PutUint64(b[8:], k.lo)
	return netip.AddrFrom16(b).Unmap()
}

// hasher is a keyed hash: who chooses addresses must not be able to choose
// where they are counted.
type hasher struct{ a, b uint64 }

func newHasher(seed uint64) hasher {
	s := splitmix(seed)
	return hasher{s.next(), s.next()}
}

func (h hasher) sum(k key) uint64 {
	hi, lo := bits.Mul64(k.hi^h.a, k.lo^h.b)
	hi, lo = bits.Mul64(hi^lo^h.b, h.a|1)
	return hi ^ lo
}

// splitmix is the generator of that name by Steele, Lea and Flood: a small,
// repeatable source of chance.
type splitmix uint64

func (s *splitmix) next() uint64 {
	*s += 0x9e3779b97f4a7c15
	z := uint64(*s)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// unit returns a number in (0, 1).
func (s *splitmix) unit() float64 { return (float64(s.next()>>11) + 0.5) / (1 << 53) }
