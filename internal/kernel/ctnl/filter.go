package ctnl

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
)

// Filter chooses entries. Its zero value matches all. Every condition is given
// to the kernel where one exists that understands it, because an entry that
// the kernel leaves out costs less than half of one that it sends; and every
// condition is checked again here, because a kernel ignores without a word
// what it does not know.
type Filter struct {
	// Family is unix.AF_INET, unix.AF_INET6, or 0 for both. Any kernel.
	Family uint8
	// Mark and MarkMask match entries with mark & MarkMask == Mark, where
	// MarkMask is not 0. In the kernel from 3.6.
	Mark, MarkMask uint32
	// Status and StatusMask match entries with status & StatusMask == Status,
	// where StatusMask is not 0. In the kernel from 5.15.
	Status, StatusMask ct.Status
	// Zone matches, with HasZone, entries of this zone, be it that of both
	// directions or of one. In the kernel from 6.8.
	Zone    uint16
	HasZone bool
	// Orig and Reply match the tuples. In the kernel from 5.8, for IPv4
	// addresses, the protocol, and ports of TCP and UDP.
	Orig, Reply TupleFilter
}

// TupleFilter chooses by one direction's tuple. Fields at their zero value
// match all; ports take part with HasSrcPort and HasDstPort.
type TupleFilter struct {
	Src, Dst netip.Addr
	// SrcNet and DstNet match addresses in them. In the kernel where the table is
	// walked, ctnetlink compares single addresses only.
	SrcNet, DstNet         netip.Prefix
	Proto                  ct.Proto
	SrcPort, DstPort       uint16
	HasSrcPort, HasDstPort bool
}

// IsZero reports whether the filter matches everything.
func (q *Filter) IsZero() bool { return *q == Filter{} }

// Match reports whether an entry passes.
func (q *Filter) Match(f *ct.Flow) bool {
	switch {
	case q.Family != 0 && q.Family != family(f.Orig):
	case f.Mark&q.MarkMask != q.Mark&q.MarkMask:
	case f.Status&q.StatusMask != q.Status&q.StatusMask:
	case q.HasZone && q.Zone != f.Zone|f.ZoneOrig|f.ZoneReply: // at most one is set
	case !q.Orig.match(&f.Orig) || !q.Reply.match(&f.Reply):
	default:
		return true
	}
	return false
}

func (q *TupleFilter) match(t *ct.Tuple) bool {
	switch {
	case q.Src.IsValid() && q.Src != t.Src:
	case q.Dst.IsValid() && q.Dst != t.Dst:
	case q.SrcNet.IsValid() && !q.SrcNet.Contains(t.Src):
	case q.DstNet.IsValid() && !q.DstNet.Contains(t.Dst):
	case q.Proto != 0 && q.Proto != t.Proto:
	case q.HasSrcPort && q.SrcPort != t.SrcPort:
	case q.HasDstPort && q.DstPort != t.DstPort:
	default:
		return true
	}
	return false
}

// srcNet and dstNet are what addresses must lie in, be it a single one.
func (q *TupleFilter) srcNet() netip.Prefix { return narrower(q.Src, q.SrcNet) }
func (q *TupleFilter) dstNet() netip.Prefix { return narrower(q.Dst, q.DstNet) }

func narrower(a netip.Addr, p netip.Prefix) netip.Prefix {
	if a.IsValid() {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return p
}

// encode appends the conditions as attributes of a dump request.
func (q *Filter) encode(e *encoder) {
	if q.MarkMask != 0 {
		e.u32(ctaMark, q.Mark&q.MarkMask)
		e.u32(ctaMarkMask, q.MarkMask)
	}
	if q.StatusMask != 0 {
		e.u32(ctaStatus, uint32(q.Status&q.StatusMask))
		e.u32(ctaStatusMask, uint32(q.StatusMask))
	}
	if q.HasZone {
		e.u16(ctaZone, q.Zone)
	}
	fam := q.kernelFamily()
	orig, reply := q.Orig.kernelFields(fam), q.Reply.kernelFields(fam)
	if orig|reply == 0 {
		return
	}
	if orig != 0 {
		q.Orig.encode(e, ctaTupleOrig, orig)
	}
	if reply != 0 {
		q.Reply.encode(e, ctaTupleReply, reply)
	}
	n := e.nest(ctaFilter)
	e.host32(ctaFilterOrigFlags, orig)
	e.host32(ctaFilterReplyFlags, reply)
	e.unnest(n)
}

// kernelFamily is the family to put into the request: the one asked for, or
// the one that the addresses imply. CTA_FILTER is refused without.
func (q *Filter) kernelFamily() uint8 {
	if q.Family != 0 {
		return q.Family
	}
	for _, a := range []netip.Addr{q.Orig.Src, q.Orig.Dst, q.Reply.Src, q.Reply.Dst} {
		switch {
		case a.Is4():
			return unix.AF_INET
		case a.IsValid():
			return unix.AF_INET6
		}
	}
	return 0
}

// kernelFields are the CTA_FILTER_F_* of the conditions that the kernel can be
// trusted with. IPv6 addresses are not among them: in many kernels from 5.8 on
// ctnetlink_filter_match_tuple takes the result of ipv6_addr_cmp for its
// opposite, and leaves out the very entries that match. A family is required,
// and ports require a protocol.
func (q *TupleFilter) kernelFields(fam uint8) (fields uint32) {
	if fam == unix.AF_INET && q.Src.Is4() {
		fields |= filterIPSrc
	}
	if fam == unix.AF_INET && q.Dst.Is4() {
		fields |= filterIPDst
	}
	if fam == 0 || q.Proto == 0 {
		return fields
	}
	fields |= filterProtoNum
	if q.Proto == ct.TCP || q.Proto == ct.UDP {
		if q.HasSrcPort {
			fields |= filterSrcPort
		}
		if q.HasDstPort {
			fields |= filterDstPort
		}
	}
	return fields
}

func (q *TupleFilter) encode(e *encoder, typ uint16, fields uint32) {
	all := e.nest(typ)
	if fields&(filterIPSrc|filterIPDst) != 0 {
		ip := e.nest(ctaTupleIP)
		e.address(ctaIPv4Src, q.Src)
		e.address(ctaIPv4Dst, q.Dst)
		e.unnest(ip)
	}
	if fields&filterProtoNum != 0 {
		proto := e.nest(ctaTupleProto)
		e.u8(ctaProtoNum, uint8(q.Proto))
		if fields&filterSrcPort != 0 {
			e.u16(ctaProtoSrcPort, q.SrcPort)
		}
		if fields&filterDstPort != 0 {
			e.u16(ctaProtoDstPort, q.DstPort)
		}
		e.unnest(proto)
	}
	e.unnest(all)
}

func (e *encoder) address(typ uint16, a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		e.bytes(typ, b[:])
	}
}
