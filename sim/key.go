package sim

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

// addr is an address as two big-endian words; IPv4 has only the low 32 bits.
type addr struct{ hi, lo uint64 }

// key is one direction of a flow, packed for hashing and comparison.
type key struct {
	src, dst addr
	// ports: source in the upper half. ICMP: identifier in the upper half,
	// then type and code.
	ports uint32
	// meta: zone in the upper half, then family, then protocol.
	meta uint32
}

const metaIPv6 = 1 << 8

func meta(p ct.Proto, v6 bool, zone uint16) uint32 {
	m := uint32(p) | uint32(zone)<<16
	if v6 {
		m |= metaIPv6
	}
	return m
}

func (k *key) proto() ct.Proto { return ct.Proto(k.meta) }
func (k *key) v6() bool        { return k.meta&metaIPv6 != 0 }
func (k *key) zone() uint16    { return uint16(k.meta >> 16) }

// withZone returns the key in another zone.
func (k key) withZone(z uint16) key {
	k.meta = k.meta&0xffff | uint32(z)<<16
	return k
}

func packAddr(a netip.Addr) addr {
	if a.Is4() {
		return addr{lo: packAddr4(a)}
	}
	b := a.As16()
	return addr{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func packAddr4(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

func (a addr) unpack(v6 bool) netip.Addr {
	if !v6 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(a.lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return netip.AddrFrom16(b)
}

// pack turns a tuple into a key, leaving out what the era's tracker of the
// protocol does not use.
func (t *Table) pack(k *key, tu *ct.Tuple, zone uint16) {
	if v4 := tu.Src.Is4(); v4 && tu.Dst.Is4() {
		k.src, k.dst = addr{lo: packAddr4(tu.Src)}, addr{lo: packAddr4(tu.Dst)}
		k.meta = meta(tu.Proto, false, zone)
	} else {
		k.src, k.dst = packAddr(tu.Src), packAddr(tu.Dst)
		k.meta = meta(tu.Proto, !v4, zone)
	}
	switch tu.Proto {
	case ct.TCP, ct.UDP, ct.SCTP, ct.GRE:
		k.ports = uint32(tu.SrcPort)<<16 | uint32(tu.DstPort)
	case ct.ICMP, ct.ICMPv6:
		k.ports = uint32(tu.ICMPID)<<16 | uint32(tu.ICMPType)<<8 | uint32(tu.ICMPCode)
	default:
		k.ports = 0
		if t.rules.tracks(tu.Proto) {
			k.ports = uint32(tu.SrcPort)<<16 | uint32(tu.DstPort)
		}
	}
}

func (k *key) unpack() ct.Tuple {
	tu := ct.Tuple{Src: k.src.unpack(k.v6()), Dst: k.dst.unpack(k.v6()), Proto: k.proto()}
	if tu.Proto.IsICMP() {
		tu.ICMPID, tu.ICMPType, tu.ICMPCode = uint16(k.ports>>16), uint8(k.ports>>8), uint8(k.ports)
	} else {
		tu.SrcPort, tu.DstPort = uint16(k.ports>>16), uint16(k.ports)
	}
	return tu
}

// noAnswer marks ICMP types that have no answer.
const noAnswer = 0xff

// icmpAnswers and icmp6Answers are the invmap tables of the kernel's ICMP
// trackers; those of ICMPv6 begin at type 128.
var (
	icmpAnswers  = [...]uint8{8, noAnswer, noAnswer, noAnswer, noAnswer, noAnswer, noAnswer, noAnswer, 0, noAnswer, noAnswer, noAnswer, noAnswer, 14, 13, 16, 15, 18, 17}
	icmp6Answers = [...]uint8{129, 128, noAnswer, noAnswer, noAnswer, noAnswer, noAnswer, noAnswer, noAnswer, noAnswer, noAnswer, 140, 139}
)

func icmpAnswer(p ct.Proto, typ uint8) uint8 {
	if p == ct.ICMP {
		if int(typ) < len(icmpAnswers) {
			return icmpAnswers[typ]
		}
	} else if typ >= 128 && int(typ)-128 < len(icmp6Answers) {
		return icmp6Answers[typ-128]
	}
	return noAnswer
}

// invertPorts returns the port part of the answer's key (nf_ct_invert_tuple).
func (k *key) invertPorts() (ports uint32, ok bool) {
	p := k.proto()
	if p != ct.ICMP && p != ct.ICMPv6 {
		return bits.RotateLeft32(k.ports, 16), true
	}
	a := icmpAnswer(p, uint8(k.ports>>8))
	return k.ports&0xffff00ff | uint32(a)<<8, a != noAnswer
}

// invert returns the key of the answer without NAT.
func (k *key) invert() (r key, ok bool) {
	r.src, r.dst, r.meta = k.dst, k.src, k.meta
	r.ports, ok = k.invertPorts()
	return r, ok
}

// answeredBy reports whether r is the key of the answer without NAT.
func (k *key) answeredBy(r *key) bool {
	ports, _ := k.invertPorts()
	return r.src == k.dst && r.dst == k.src && r.ports == ports && r.meta == k.meta
}

// ends and what are how an entry without a side record keeps an IPv4 key of the
// original direction.
func (k *key) ends() uint64 { return k.src.lo<<32 | k.dst.lo }
func (k *key) what() uint64 { return pair(k.ports, k.meta) }

// hash is a keyed hash of a key. The kernel's is siphash (5.15) or jhash with a
// secret; all that matters is that chains come out at random.
func (t *Table) hash(k *key) uint32 {
	hi, lo := bits.Mul64(k.src.lo^t.secret[0], k.dst.lo^uint64(k.ports)<<32^t.secret[1])
	h := hi ^ lo
	if k.v6() {
		hi, lo = bits.Mul64(k.src.hi^t.secret[2]^h, k.dst.hi^t.secret[3])
		h = hi ^ lo
	}
	hi, lo = bits.Mul64(h^uint64(k.meta)^t.secret[2], t.secret[3])
	return uint32(hi ^ lo)
}

// bucket scales a hash to the table (reciprocal_scale).
func (t *Table) bucket(h uint32) uint32 {
	return uint32(uint64(h) * uint64(len(t.heads)) >> 32)
}
