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

// head is an attribute's header as one number in the order of the processor.
func head(n int, typ uint16) uint32 {
	var b [attrLen]byte
	host.PutUint16(b[:], uint16(n))
	host.PutUint16(b[2:], typ)
	return host.Uint32(b[:])
}

var (
	headIP4   = head(20, ctaTupleIP|nested)
	headSrc   = head(8, ctaIPv4Src)
	headDst   = head(8, ctaIPv4Dst)
	headPorts = head(28, ctaTupleProto|nested)
	headNum   = head(5, ctaProtoNum)
	headSPort = head(6, ctaProtoSrcPort)
	headDPort = head(6, ctaProtoDstPort)

	headTCP        = head(44, ctaProtoInfoTCP|nested)
	headState      = head(5, ctaTCPState)
	headScaleOrig  = head(5, ctaTCPWScaleOrig)
	headScaleReply = head(5, ctaTCPWScaleReply)
	headFlagsOrig  = head(6, ctaTCPFlagsOrig)
	headFlagsReply = head(6, ctaTCPFlagsReply)
)

// tuple4 decodes the payload of a tuple if it is IPv4 with ports and without a
// zone.
func tuple4(val []byte, t *ct.Tuple) bool {
	if len(val) != 48 {
		return false
	}
	b := (*[48]byte)(val)
	if host.Uint32(b[0:]) != headIP4 || host.Uint32(b[4:]) != headSrc ||
		host.Uint32(b[12:]) != headDst || host.Uint32(b[20:]) != headPorts ||
		host.Uint32(b[24:]) != headNum || host.Uint32(b[32:]) != headSPort ||
		host.Uint32(b[40:]) != headDPort {
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
func tcpState(val []byte, f *ct.Flow) bool {
	if len(val) != 44 {
		return false
	}
	b := (*[44]byte)(val)
	if host.Uint32(b[0:]) != headTCP || host.Uint32(b[4:]) != headState ||
		host.Uint32(b[12:]) != headScaleOrig || host.Uint32(b[20:]) != headScaleReply ||
		host.Uint32(b[28:]) != headFlagsOrig || host.Uint32(b[36:]) != headFlagsReply {
		return false
	}
	f.State = ct.State(b[8])
	f.TCP = ct.TCPInfo{WScaleOrig: b[16], WScaleReply: b[24], FlagsOrig: b[32], FlagsReply: b[40]}
	f.Fields |= ct.HasProtoInfo
	return true
}
