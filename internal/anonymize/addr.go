// Package anonymize replaces addresses, host names and user names so that what
// depends on their relations stays true: the same is mapped to the same, and
// addresses that share a prefix share one of the same length afterwards.
package anonymize

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"net/netip"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// Mapper maps under one key. Who has the key can undo the mapping; who has not
// can tell prefixes that are equal, and nothing else. It is not safe for
// concurrent use.
type Mapper struct {
	prf   cipher.Block
	pad   [aes.BlockSize]byte
	addrs map[netip.Addr]netip.Addr
	names map[string]string
	count map[string]int
}

// New returns a mapper with a random key of KeySize bytes.
func New(key [KeySize]byte) *Mapper {
	block, err := aes.NewCipher(key[:16])
	if err != nil {
		panic(err) // the length is right
	}
	m := &Mapper{prf: block, addrs: map[netip.Addr]netip.Addr{}, names: map[string]string{}, count: map[string]int{}}
	block.Encrypt(m.pad[:], key[16:])
	return m
}

// special are the blocks that mean something in themselves. Addresses stay in
// theirs, and none is moved into another's, so that private stays private and
// public stays public. Those marked keep are not changed at all.
var special = []struct {
	netip.Prefix
	keep bool
}{
	{netip.MustParsePrefix("0.0.0.0/8"), true},
	{netip.MustParsePrefix("10.0.0.0/8"), false},
	{netip.MustParsePrefix("100.64.0.0/10"), false},
	{netip.MustParsePrefix("127.0.0.0/8"), true},
	{netip.MustParsePrefix("169.254.0.0/16"), false},
	{netip.MustParsePrefix("172.16.0.0/12"), false},
	{netip.MustParsePrefix("192.168.0.0/16"), false},
	{netip.MustParsePrefix("224.0.0.0/3"), true},
	{netip.MustParsePrefix("::/3"), true}, // unspecified, loopback
	{netip.MustParsePrefix("4000::/2"), true},
	{netip.MustParsePrefix("8000::/2"), true},
	{netip.MustParsePrefix("c000::/3"), true},
	{netip.MustParsePrefix("e000::/4"), true},
	{netip.MustParsePrefix("f000::/5"), true},
	{netip.MustParsePrefix("f800::/6"), true},
	{netip.MustParsePrefix("fc00::/7"), false},
	{netip.MustParsePrefix("fe00::/9"), true},
	{netip.MustParsePrefix("fe80::/64"), false},
	{netip.MustParsePrefix("ff00::/8"), true},
}

// Addr maps an address bit by bit: a bit is flipped or not as a keyed function
// of the bits before it says (Xu, Fan, Ammar and Moon, 2002). Where one of the
// two ways from a bit leads to a special block and not both are inside it, the
// bit stays.
func (m *Mapper) Addr(a netip.Addr) netip.Addr {
	if a.Is4In6() {
		b := m.Addr(a.Unmap()).As4()
		return netip.AddrFrom16(netip.AddrFrom4(b).As16())
	}
	zone := a.Zone()
	a = a.WithZone("")
	if to, ok := m.addrs[a]; ok {
		return to.WithZone(zone)
	}
	to := m.walk(a)
	m.addrs[a] = to
	return to.WithZone(zone)
}

func (m *Mapper) walk(a netip.Addr) netip.Addr {
	in := a.AsSlice()
	out := append([]byte(nil), in...)
	for bit := range a.BitLen() {
		if free(a, bit) && m.flip(in, bit) {
			out[bit/8] ^= 0x80 >> (bit % 8)
		}
	}
	to, _ := netip.AddrFromSlice(out)
	return to
}

// free reports whether a bit may be flipped: no special block begins below
// either way, other than one that holds both.
func free(a netip.Addr, bit int) bool {
	here, err := a.Prefix(bit)
	if err != nil {
		return false
	}
	for _, s := range special {
		if s.Addr().Is4() != a.Is4() || !s.Overlaps(here) {
			continue
		}
		if s.Bits() > bit || s.keep {
			return false
		}
	}
	return true
}

// flip is the keyed function of the first n bits.
func (m *Mapper) flip(addr []byte, n int) bool {
	block := m.pad
	copy(block[:n/8], addr)
	if n%8 > 0 {
		mask := byte(0xff) << (8 - n%8)
		block[n/8] = addr[n/8]&mask | m.pad[n/8]&^mask
	}
	// The number of bits, and the family, so that no two questions are one.
	length := binary.BigEndian.Uint16(block[14:]) ^ uint16(n) ^ uint16(len(addr))<<8
	var lengthPad [aes.BlockSize]byte
	binary.BigEndian.PutUint16(lengthPad[:], length)
	m.prf.Encrypt(block[:], block[:])
	for i := range block {
		block[i] ^= lengthPad[i]
	}
	m.prf.Encrypt(block[:], block[:])
	return block[0]&0x80 != 0
}

// Prefix maps a prefix as Addr does the addresses inside it.
func (m *Mapper) Prefix(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(m.Addr(p.Addr()), p.Bits()).Masked()
}
