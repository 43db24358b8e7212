package lab

import (
	"encoding/binary"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

const (
	ethLen  = 14
	ip4Len  = 20
	ip6Len  = 40
	tcpLen  = 20
	udpLen  = 8
	icmpLen = 8

	tcpSYN = 0x02
	tcpRST = 0x04
	tcpPSH = 0x08
	tcpACK = 0x10

	// maxFrame bounds what is sent from packet sockets: an Ethernet frame.
	maxFrame = ethLen + 1500
)

// segment is one packet as the generators describe it.
type segment struct {
	tuple    ct.Tuple
	flags    uint8 // TCP
	seq, ack uint32
	payload  []byte
	length   int // of the payload, of segments that were received
}

// link is what an Ethernet header needs.
type link struct {
	index    int
	own, hop [6]byte // hardware addresses of this end and of the next hop
}

// appendFrame appends the Ethernet frame that carries a segment to b. It knows
// TCP, UDP and ICMP echo over both families; the tuple decides.
func (l *link) appendFrame(b []byte, s *segment) []byte {
	start := len(b)
	b = append(b, l.hop[:]...)
	b = append(b, l.own[:]...)
	l4Len := tcpLen
	switch s.tuple.Proto {
	case ct.UDP:
		l4Len = udpLen
	case ct.ICMP, ct.ICMPv6:
		l4Len = icmpLen
	}
	l4Len += len(s.payload)
	if s.tuple.Is4() {
		b = appendIPv4(b, s, l4Len)
	} else {
		b = appendIPv6(b, s, l4Len)
	}
	l4 := len(b)
	switch s.tuple.Proto {
	case ct.UDP:
		b = appendUDP(b, s, l4Len)
	case ct.ICMP, ct.ICMPv6:
		b = appendEcho(b, s)
	default:
		b = appendTCP(b, s)
	}
	b = append(b, s.payload...)
	setChecksum(b[l4:], s)
	if len(b)-start < 60 { // the least an Ethernet frame holds
		b = append(b, make([]byte, 60-(len(b)-start))...)
	}
	return b
}

func appendIPv4(b []byte, s *segment, l4Len int) []byte {
	src, dst := s.tuple.Src.As4(), s.tuple.Dst.As4()
	b = append(b, 0x08, 0x00)
	h := len(b)
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(ip4Len+l4Len))
	b = append(b, 0, 0, 0x40, 0, 64, byte(s.tuple.Proto), 0, 0) // don't fragment
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	binary.BigEndian.PutUint16(b[h+10:], ^fold(sum(0, b[h:])))
	return b
}

func appendIPv6(b []byte, s *segment, l4Len int) []byte {
	src, dst := s.tuple.Src.As16(), s.tuple.Dst.As16()
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(l4Len))
	b = append(b, byte(s.tuple.Proto), 64)
	b = append(b, src[:]...)
	return append(b, dst[:]...)
}

func appendTCP(b []byte, s *segment) []byte {
	b = binary.BigEndian.AppendUint16(b, s.tuple.SrcPort)
	b = binary.BigEndian.AppendUint16(b, s.tuple.DstPort)
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = binary.BigEndian.AppendUint32(b, s.ack)
	return append(b, tcpLen/4<<4, s.flags, 0xff, 0xff, 0, 0, 0, 0)
}

func appendUDP(b []byte, s *segment, l4Len int) []byte {
	b = binary.BigEndian.AppendUint16(b, s.tuple.SrcPort)
	b = binary.BigEndian.AppendUint16(b, s.tuple.DstPort)
	b = binary.BigEndian.AppendUint16(b, uint16(l4Len))
	return append(b, 0, 0)
}

func appendEcho(b []byte, s *segment) []byte {
	b = append(b, s.tuple.ICMPType, s.tuple.ICMPCode, 0, 0)
	b = binary.BigEndian.AppendUint16(b, s.tuple.ICMPID)
	return append(b, 0, 1)
}

// setChecksum fills in the checksum of a complete layer 4 packet.
func setChecksum(l4 []byte, s *segment) {
	at := 16
	switch s.tuple.Proto {
	case ct.UDP:
		at = 6
	case ct.ICMP, ct.ICMPv6:
		at = 2
	}
	acc := uint32(0)
	if s.tuple.Proto != ct.ICMP {
		acc = sum(acc, s.tuple.Src.AsSlice())
		acc = sum(acc, s.tuple.Dst.AsSlice())
		acc += uint32(s.tuple.Proto) + uint32(len(l4))
	}
	c := ^fold(sum(acc, l4))
	if c == 0 && s.tuple.Proto == ct.UDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], c)
}

// sum adds b to an Internet checksum, RFC 1071.
func sum(acc uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		acc += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		acc += uint32(b[0]) << 8
	}
	return acc
}

func fold(acc uint32) uint16 {
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}

// parseTCP reads the tuple, flags and numbers of a frame that holds TCP over
// IPv4 or IPv6 without extension headers; ok is false for any other.
func parseTCP(frame []byte) (s segment, ok bool) {
	if len(frame) < ethLen+ip4Len+tcpLen {
		return s, false
	}
	ip := frame[ethLen:]
	var l4 []byte
	total := 0 // of IP's payload
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		if ip[0] != 0x45 || ip[9] != byte(ct.TCP) {
			return s, false
		}
		s.tuple.Src, s.tuple.Dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		l4, total = ip[ip4Len:], int(binary.BigEndian.Uint16(ip[2:]))-ip4Len
	case 0x86dd:
		if len(ip) < ip6Len+tcpLen || ip[6] != byte(ct.TCP) {
			return s, false
		}
		s.tuple.Src, s.tuple.Dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		l4, total = ip[ip6Len:], int(binary.BigEndian.Uint16(ip[4:]))
	default:
		return s, false
	}
	s.tuple.Proto = ct.TCP
	s.tuple.SrcPort, s.tuple.DstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	s.seq, s.ack = binary.BigEndian.Uint32(l4[4:]), binary.BigEndian.Uint32(l4[8:])
	s.flags = l4[13]
	s.length = max(0, total-int(l4[12]>>4)*4)
	return s, true
}
