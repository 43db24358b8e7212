package ctwalk

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
)

// TupleQuery chooses by a tuple. Zero values match all; ports take part with
// HasSrcPort and HasDstPort where Proto is TCP or UDP.
type TupleQuery struct {
	Src, Dst               netip.Prefix
	Proto                  ct.Proto
	SrcPort, DstPort       uint16
	HasSrcPort, HasDstPort bool
}

// bits writes the query as the bits of struct nf_conntrack_tuple that matter,
// and their values.
func (q *TupleQuery) bits(l *tupleLayout, mask, value []byte) {
	q.prefix(q.Src, l.src, l.family, mask, value)
	q.prefix(q.Dst, l.dst, l.family, mask, value)
	if q.Proto == 0 {
		return
	}
	mask[l.proto], value[l.proto] = 0xff, byte(q.Proto)
	if q.Proto != ct.TCP && q.Proto != ct.UDP {
		return
	}
	port := func(at int, n uint16) {
		binary.BigEndian.PutUint16(mask[at:], 0xffff)
		binary.BigEndian.PutUint16(value[at:], n)
	}
	if q.HasSrcPort {
		port(l.srcPort, q.SrcPort)
	}
	if q.HasDstPort {
		port(l.dstPort, q.DstPort)
	}
}

func (*TupleQuery) prefix(p netip.Prefix, at, family int, mask, value []byte) {
	if !p.IsValid() {
		return
	}
	a := p.Masked().Addr()
	n := uint16(unix.AF_INET6)
	if a.Is4() {
		n = unix.AF_INET
	}
	native.PutUint16(mask[family:], 0xffff)
	native.PutUint16(value[family:], n)
	copy(value[at:], a.AsSlice())
	for i := range p.Bits() {
		mask[at+i/8] |= 0x80 >> (i % 8)
	}
}
