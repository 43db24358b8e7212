package ctnl

import (
	"encoding/binary"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

// Most of an entry's attributes are those of two IPv4 tuples with ports and of
// a TCP state, and every kernel sends these in one fixed shape. Comparing the
// headers of that shape is several times faster than walking it. Whatever
// looks different in any way is left to the general decoder, which gives the
// same result.

// Headers of attributes as [header] gives them: the length below, the type above.
const (
	headOrig    = 52 | (ctaTupleOrig|nested)<<16
	headReply   = 52 | (ctaTupleReply|nested)<<16
	headInfo    = 48 | (ctaProtoInfo|nested)<<16
	headStatus  = 8 | ctaStatus<<16
	headTimeout = 8 | ctaTimeout<<16
	headMark    = 8 | ctaMark<<16
	headID      = 8 | ctaID<<16
	headUse     = 8 | ctaUse<<16

	headIP4   = 20 | (ctaTupleIP|nested)<<16
	headSrc   = 8 | ctaIPv4Src<<16
	headDst   = 8 | ctaIPv4Dst<<16
	headPorts = 28 | (ctaTupleProto|nested)<<16
	headNum   = 5 | ctaProtoNum<<16
	headSPort = 6 | ctaProtoSrcPort<<16
	headDPort = 6 | ctaProtoDstPort<<16

	headTCP        = 44 | (ctaProtoInfoTCP|nested)<<16
	headState      = 5 | ctaTCPState<<16
	headScaleOrig  = 5 | ctaTCPWScaleOrig<<16
	headScaleReply = 5 | ctaTCPWScaleReply<<16
	headFlagsOrig  = 6 | ctaTCPFlagsOrig<<16
	headFlagsReply = 6 | ctaTCPFlagsReply<<16
)

// header reads an attribute's header as one number.
func header(b []byte) uint32 {
	_ = b[3]
	return uint32(host.Uint16(b)) | uint32(host.Uint16(b[2:]))<<16
}

// usual decodes attributes of the usual shapes and returns what begins with
// another.
func usual(b attrs, f *ct.Flow) attrs {
	for len(b) >= 8 {
		switch header(b) {
		case headStatus:
			f.Status = ct.Status(binary.BigEndian.Uint32(b[4:]))
		case headTimeout:
			f.TimeoutSeconds = binary.BigEndian.Uint32(b[4:])
			f.Fields |= ct.HasTimeout
		case headMark:
			f.Mark = binary.BigEndian.Uint32(b[4:])
			f.Fields |= ct.HasMark
		case headID:
			f.ID = binary.BigEndian.Uint32(b[4:])
			f.Fields |= ct.HasID
		case headUse:
			f.Use = binary.BigEndian.Uint32(b[4:])
			f.Fields |= ct.HasUse
		case headOrig:
			if len(b) < 52 || !tuple4((*[48]byte)(b[attrLen:]), &f.Orig) {
				return b
			}
			b = b[52:]
			continue
		case headReply:
			if len(b) < 52 || !tuple4((*[48]byte)(b[attrLen:]), &f.Reply) {
				return b
			}
			b = b[52:]
			continue
		case headInfo:
			if len(b) < 48 || !tcpState((*[44]byte)(b[attrLen:]), f) {
				return b
			}
			b = b[48:]
			continue
		default:
			return b
		}
		b = b[8:]
	}
	return b
}

// tuple4 decodes the payload of a tuple if it is IPv4 with ports and without a
// zone.
func tuple4(b *[48]byte, t *ct.Tuple) bool {
	if header(b[0:]) != headIP4 || header(b[4:]) != headSrc ||
		header(b[12:]) != headDst || header(b[20:]) != headPorts ||
		header(b[24:]) != headNum || header(b[32:]) != headSPort ||
		header(b[40:]) != headDPort {
		return false
	}
	t.Src = netip.AddrFrom4([4]byte(b[8:12]))
	t.Dst = netip.AddrFrom4([4]byte(b[16:20]))
	t.Proto = ct.Proto(b[28])
	t.SrcPort = binary.BigEndian.Uint16(b[36:])
	t.DstPort = binary.BigEndian.Uint16(b[44:])
	return true
}

// tcpState decodes the payload of CTA_PROTOINFO if it is that of TCP.
func tcpState(b *[44]byte, f *ct.Flow) bool {
	if header(b[0:]) != headTCP || header(b[4:]) != headState ||
		header(b[12:]) != headScaleOrig || header(b[20:]) != headScaleReply ||
		header(b[28:]) != headFlagsOrig || header(b[36:]) != headFlagsReply {
		return false
	}
	f.State = ct.State(b[8])
	f.TCP = ct.TCPInfo{WScaleOrig: b[16], WScaleReply: b[24], FlagsOrig: b[32], FlagsReply: b[40]}
	f.Fields |= ct.HasProtoInfo
	return true
}
