package ctnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
)

// encoder appends messages to b.
type encoder struct{ b []byte }

// begin starts a message. nfgen_version 0 is right everywhere: only a request
// that this package cannot build (a deletion without tuple) reads it.
func (e *encoder) begin(subsys, kind uint8, flags uint16, seq uint32, family uint8) (start int) {
	start = len(e.b)
	e.b = append(e.b, make([]byte, hdrLen+genLen)...)
	h := e.b[start:]
	host.PutUint16(h[4:], uint16(subsys)<<8|uint16(kind))
	host.PutUint16(h[6:], flagRequest|flags)
	host.PutUint32(h[8:], seq)
	h[hdrLen] = family
	return start
}

func (e *encoder) end(start int) {
	host.PutUint32(e.b[start:], uint32(len(e.b)-start))
}

func (e *encoder) header(typ uint16, n int) {
	e.b = host.AppendUint16(e.b, uint16(attrLen+n))
	e.b = host.AppendUint16(e.b, typ)
}

func (e *encoder) u8(typ uint16, v uint8) {
	e.header(typ, 1)
	e.b = append(e.b, v, 0, 0, 0)
}

func (e *encoder) u16(typ uint16, v uint16) {
	e.header(typ, 2)
	e.b = append(binary.BigEndian.AppendUint16(e.b, v), 0, 0)
}

func (e *encoder) u32(typ uint16, v uint32) {
	e.header(typ, 4)
	e.b = binary.BigEndian.AppendUint32(e.b, v)
}

// host32 is for the few numbers that ctnetlink takes in the order of the
// processor: the flags of CTA_FILTER.
func (e *encoder) host32(typ uint16, v uint32) {
	e.header(typ, 4)
	e.b = host.AppendUint32(e.b, v)
}

func (e *encoder) u64(typ uint16, v uint64) {
	e.header(typ, 8)
	e.b = binary.BigEndian.AppendUint64(e.b, v)
}

func (e *encoder) bytes(typ uint16, v []byte) {
	e.header(typ, len(v))
	e.b = append(e.b, v...)
	for len(e.b)%4 != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) nest(typ uint16) (start int) {
	start = len(e.b)
	e.header(typ|nested, 0)
	return start
}

func (e *encoder) unnest(start int) {
	host.PutUint16(e.b[start:], uint16(len(e.b)-start))
}

// family of a tuple, which every message with a tuple must carry: from 5.8 on
// AF_UNSPEC with a tuple is refused with EOPNOTSUPP.
func family(t ct.Tuple) uint8 {
	if t.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// tuple appends a tuple; a zone other than 0 is that of its direction alone.
func (e *encoder) tuple(typ uint16, t ct.Tuple, zone uint16) {
	all := e.nest(typ)
	ip := e.nest(ctaTupleIP)
	if t.Is4() {
		src, dst := t.Src.As4(), t.Dst.As4()
		e.bytes(ctaIPv4Src, src[:])
		e.bytes(ctaIPv4Dst, dst[:])
	} else {
		src, dst := t.Src.As16(), t.Dst.As16()
		e.bytes(ctaIPv6Src, src[:])
		e.bytes(ctaIPv6Dst, dst[:])
	}
	e.unnest(ip)
	proto := e.nest(ctaTupleProto)
	e.u8(ctaProtoNum, uint8(t.Proto))
	e.protoFields(t)
	e.unnest(proto)
	if zone != 0 {
		e.u16(ctaTupleZone, zone)
	}
	e.unnest(all)
}

func (e *encoder) protoFields(t ct.Tuple) {
	switch {
	case t.Proto == ct.ICMP:
		e.u16(ctaProtoICMPID, t.ICMPID)
		e.u8(ctaProtoICMPType, t.ICMPType)
		e.u8(ctaProtoICMPCode, t.ICMPCode)
	case t.Proto == ct.ICMPv6:
		e.u16(ctaProtoICMPv6ID, t.ICMPID)
		e.u8(ctaProtoICMPv6Type, t.ICMPType)
		e.u8(ctaProtoICMPv6Code, t.ICMPCode)
	case t.Proto.HasPorts() || t.Proto == ct.GRE:
		e.u16(ctaProtoSrcPort, t.SrcPort)
		e.u16(ctaProtoDstPort, t.DstPort)
	}
}

// protoInfo appends the state of a flow. The masks say that all flags are to
// be taken over.
func (e *encoder) protoInfo(f *ct.Flow) {
	all := e.nest(ctaProtoInfo)
	switch f.Orig.Proto {
	case ct.TCP:
		in := e.nest(ctaProtoInfoTCP)
		e.u8(ctaTCPState, uint8(f.State))
		e.u8(ctaTCPWScaleOrig, f.TCP.WScaleOrig)
		e.u8(ctaTCPWScaleReply, f.TCP.WScaleReply)
		e.bytes(ctaTCPFlagsOrig, []byte{f.TCP.FlagsOrig, 0xff})
		e.bytes(ctaTCPFlagsReply, []byte{f.TCP.FlagsReply, 0xff})
		e.unnest(in)
	case ct.SCTP:
		in := e.nest(ctaProtoInfoSCTP)
		e.u8(ctaSCTPState, uint8(f.State))
		e.u32(ctaSCTPVTagOrig, f.SCTP.VTagOrig)
		e.u32(ctaSCTPVTagReply, f.SCTP.VTagReply)
		e.unnest(in)
	case ct.DCCP:
		in := e.nest(ctaProtoInfoDCCP)
		e.u8(ctaDCCPState, uint8(f.State))
		e.u8(ctaDCCPRole, f.DCCP.Role)
		e.u64(ctaDCCPSeq, f.DCCP.HandshakeSeq)
		e.unnest(in)
	}
	e.unnest(all)
}
