package capture

import (
	"encoding/binary"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// Reason says why a record was not handed out.
type Reason string

// Reasons for skipping a record.
const (
	NotIP        Reason = "not IP"
	UnknownLink  Reason = "link type not understood"
	CutShort     Reason = "cut short by the snap length"
	BadIP        Reason = "IP header contradicts itself"
	LaterPart    Reason = "later fragment of a packet (its first one counts)"
	OddTime      Reason = "at a time that is out of the question"
	NeighbourMsg Reason = "neighbour or listener discovery (never tracked)"
)

var be = binary.BigEndian

// decode finds the IP packet in a record and fills p; it returns the reason if
// there is none to be used.
func decode(rec *record, p *sim.Packet) Reason {
	b := rec.data
	proto, n, reason := link(rec.link, b)
	if reason != "" {
		return reason
	}
	onWire := int64(rec.orig) - int64(n)
	b = b[n:]
	*p = sim.Packet{}
	if len(b) == 0 {
		return CutShort
	}
	switch {
	case proto == 0x0800 || proto == 0 && b[0]>>4 == 4:
		rec.hops = byteAt(b, 8)
		return ipv4(b, onWire, p)
	case proto == 0x86dd || proto == 0 && b[0]>>4 == 6:
		rec.hops = byteAt(b, 7)
		return ipv6(b, onWire, p)
	}
	return NotIP
}

func byteAt(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

// link returns the ether type (0: look at the version field) and the length of
// the link header.
func link(t linkType, b []byte) (proto uint16, n int, reason Reason) {
	switch t {
	case linkRaw, linkRawBSD, linkRawOpen, linkIPv4, linkIPv6:
		return 0, 0, ""
	case linkNull, linkLoop:
		if len(b) < 4 {
			return 0, 0, CutShort
		}
		return 0, 4, ""
	case linkEthernet:
		return vlan(b, 12)
	case linkSLL:
		return vlan(b, 14)
	case linkSLL2:
		if len(b) < 20 {
			return 0, 0, CutShort
		}
		return be.Uint16(b), 20, ""
	}
	return 0, 0, UnknownLink
}

// vlan reads the ether type at an offset, behind any 802.1Q and 802.1ad tags.
func vlan(b []byte, at int) (uint16, int, Reason) {
	for range 4 {
		if len(b) < at+2 {
			return 0, 0, CutShort
		}
		proto := be.Uint16(b[at:])
		at += 2
		if proto != 0x8100 && proto != 0x88a8 && proto != 0x9100 {
			return proto, at, ""
		}
		at += 2
	}
	return 0, 0, NotIP
}

func ipv4(b []byte, onWire int64, p *sim.Packet) Reason {
	if len(b) < 20 {
		return CutShort
	}
	ihl, total := int(b[0]&15)*4, int(be.Uint16(b[2:]))
	if total == 0 {
		total = int(min(onWire, 65535)) // segmentation offload leaves it empty
	}
	if ihl < 20 || total < ihl || int64(total) > onWire {
		return BadIP
	}
	if be.Uint16(b[6:])&0x1fff != 0 {
		return LaterPart
	}
	if len(b) < ihl {
		return CutShort
	}
	p.Length = uint32(total)
	p.Tuple.Src, p.Tuple.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	p.Tuple.Proto = ct.Proto(b[9])
	more := be.Uint16(b[6:])&0x2000 != 0
	return transport(p, b[ihl:min(len(b), total)], total-ihl, more)
}

// maxExtensions bounds the walk along IPv6 extension headers.
const maxExtensions = 16

func ipv6(b []byte, onWire int64, p *sim.Packet) Reason {
	if len(b) < 40 {
		return CutShort
	}
	payload := int(be.Uint16(b[4:]))
	if payload == 0 {
		payload = int(min(onWire, 65535)) - 40
	}
	if payload < 0 || int64(payload)+40 > onWire {
		return BadIP
	}
	p.Length = uint32(payload + 40)
	p.Tuple.Src, p.Tuple.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	next, rest, more := b[6], b[40:min(len(b), 40+payload)], false
	for range maxExtensions {
		size := 0
		switch next {
		case 0, 43, 60: // hop-by-hop, routing, destination
			if len(rest) < 8 {
				return CutShort
			}
			size = (int(rest[1]) + 1) * 8
		case 51: // authentication
			if len(rest) < 8 {
				return CutShort
			}
			size = (int(rest[1]) + 2) * 4
		case 44: // fragment
			if len(rest) < 8 {
				return CutShort
			}
			if be.Uint16(rest[2:])&0xfff8 != 0 {
				return LaterPart
			}
			size, more = 8, rest[3]&1 != 0
		case 59: // nothing follows
			p.Flags |= sim.FlagNoL4
			return ""
		default:
			p.Tuple.Proto = ct.Proto(next)
			return transport(p, rest, payload, more)
		}
		if size > payload {
			p.Flags |= sim.FlagNoL4
			return ""
		}
		if size > len(rest) {
			return CutShort
		}
		next, rest, payload = rest[0], rest[size:], payload-size
	}
	p.Flags |= sim.FlagNoL4
	return ""
}

// transport reads the header behind IP. length is what the packet had on the
// wire; b may be less of it. more says that fragments with the rest follow.
func transport(p *sim.Packet, b []byte, length int, more bool) Reason {
	need := leastHeader(p.Tuple.Proto)
	if length < need {
		p.Flags |= sim.FlagMalformed
		if length < 4 {
			p.Flags |= sim.FlagNoL4
			return ""
		}
	}
	if len(b) < min(need, length) {
		return CutShort
	}
	if p.Tuple.Proto.HasPorts() && len(b) >= 4 {
		p.Tuple.SrcPort, p.Tuple.DstPort = be.Uint16(b), be.Uint16(b[2:])
	}
	if p.Flags&sim.FlagMalformed != 0 {
		return ""
	}
	switch p.Tuple.Proto {
	case ct.TCP:
		return tcp(p, b, length)
	case ct.UDP:
		switch n := int(be.Uint16(b[4:])); {
		case more && n > length:
			p.Length += uint32(n - length)
		case n < 8 || n > length:
			p.Flags |= sim.FlagMalformed
		}
	case ct.ICMP, ct.ICMPv6:
		return icmp(p, b)
	case ct.GRE:
		gre(p, b)
	case ct.SCTP:
		sctp(p, b)
	case ct.DCCP:
		dccp(p, b)
	}
	return ""
}

// leastHeader is the length of a transport header without options.
func leastHeader(p ct.Proto) int {
	switch p {
	case ct.TCP:
		return 20
	case ct.UDP, ct.UDPLite, ct.ICMP, ct.ICMPv6:
		return 8
	case ct.SCTP, ct.DCCP:
		return 12
	case ct.GRE:
		return 4
	}
	return 0
}

func tcp(p *sim.Packet, b []byte, length int) Reason {
	header := int(b[12]>>4) * 4
	if header < 20 || header > length {
		p.Flags |= sim.FlagMalformed
		return ""
	}
	if len(b) < header {
		return CutShort
	}
	s := &p.TCP
	s.Seq, s.Ack = be.Uint32(b[4:]), be.Uint32(b[8:])
	s.Flags, s.Window = b[13], be.Uint16(b[14:])
	s.PayloadLen = uint32(length - header)
	if header > 20 {
		s.Options = sim.ParseTCPOptions(b[20:header], s.Ack)
	}
	return ""
}

func icmp(p *sim.Packet, b []byte) Reason {
	p.Tuple.ICMPType, p.Tuple.ICMPCode = b[0], b[1]
	p.Tuple.ICMPID = be.Uint16(b[4:])
	v4 := p.Tuple.Proto == ct.ICMP
	switch t := b[0]; {
	case !v4 && (t >= 130 && t <= 137 || t == 143 || t == 148 || t == 149 || t >= 151 && t <= 153):
		return NeighbourMsg
	case v4 && (t == 3 || t == 4 || t == 5 || t == 11 || t == 12), !v4 && t < 128:
		p.Inner, _ = innerTuple(b[8:], v4)
	}
	return ""
}

// innerTuple reads the packet that an ICMP error quotes.
func innerTuple(b []byte, v4 bool) (ct.Tuple, bool) {
	var q sim.Packet
	quoted := int64(1 << 16) // an error quotes the beginning only
	var reason Reason
	if v4 {
		reason = ipv4(b, quoted, &q)
	} else {
		reason = ipv6(b, quoted, &q)
	}
	if reason == CutShort && q.Tuple.Proto.HasPorts() {
		return portsOnly(b, v4, q.Tuple)
	}
	return q.Tuple, reason == "" && q.Flags&sim.FlagNoL4 == 0
}

// portsOnly serves quotations that end after eight bytes of the transport
// header, as RFC 792 has them.
func portsOnly(b []byte, v4 bool, t ct.Tuple) (ct.Tuple, bool) {
	at := 40
	if v4 {
		at = int(b[0]&15) * 4
	}
	if len(b) < at+4 {
		return ct.Tuple{}, false
	}
	t.SrcPort, t.DstPort = be.Uint16(b[at:]), be.Uint16(b[at+2:])
	return t, true
}

// gre reads the call id of PPTP's GRE version 1; version 0 has no key in its
// tuple.
func gre(p *sim.Packet, b []byte) {
	if b[1]&7 == 1 && len(b) >= 8 {
		p.Tuple.DstPort = be.Uint16(b[6:])
	}
}

// maxChunks is more than fits into a packet that anybody sends.
const maxChunks = 64

func sctp(p *sim.Packet, b []byte) {
	p.SCTP.VTag = be.Uint32(b[4:])
	b = b[12:]
	for len(b) >= 4 && len(p.SCTP.Chunks) < maxChunks {
		c := sim.SCTPChunk{Type: b[0], Flags: b[1], Length: be.Uint16(b[2:])}
		if c.Type == 1 || c.Type == 2 { // INIT and INIT_ACK
			if len(b) >= 8 {
				c.InitTag = be.Uint32(b[4:])
			} else {
				c.Short = true
			}
		}
		p.SCTP.Chunks = append(p.SCTP.Chunks, c)
		if c.Length < 4 {
			return
		}
		b = b[min(len(b), (int(c.Length)+3)&^3):]
	}
}

func dccp(p *sim.Packet, b []byte) {
	p.DCCP.Type = b[8] >> 1 & 15
	if b[8]&1 == 0 { // short sequence numbers
		p.DCCP.Seq = uint64(b[9])<<16 | uint64(be.Uint16(b[10:]))
		return
	}
	if len(b) >= 16 {
		p.DCCP.Seq = uint64(be.Uint16(b[10:]))<<32 | uint64(be.Uint32(b[12:]))
	}
	if len(b) >= 24 && p.DCCP.Type != 0 && p.DCCP.Type != 2 {
		p.DCCP.Ack = uint64(be.Uint16(b[18:]))<<32 | uint64(be.Uint32(b[20:]))
	}
}
