package simtest

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// Defect is what is wrong with a packet's bytes.
type Defect uint8

// Defects.
const (
	NoDefect    Defect = iota
	BadChecksum        // the transport checksum is off by one
	Truncated          // the transport header says more than there is
	NoChecksum         // UDP: none given, which is allowed; UDP-Lite: which is not
	BadLength          // UDP: shorter than its header. UDP-Lite: coverage of 4 bytes. TCP: header of 16 bytes
)

// Mark identifies a packet on its way: 16 bits as the identification of IPv4,
// 20 bits as the flow label of IPv6.
type Mark uint32

const ethLen = 14

// AppendFrame appends the Ethernet frame of a packet to b. tcpOptions are the
// raw options, padded to four bytes here; extra is payload for all but TCP.
func AppendFrame(b []byte, eth [12]byte, p *sim.Packet, tcpOptions []byte, d Defect, m Mark) []byte {
	b = append(b, eth[:]...)
	start := len(b) + 2
	if p.Tuple.Is4() {
		b = append(b, 0x08, 0x00)
		b = appendIPv4(b, &p.Tuple, m)
	} else {
		b = append(b, 0x86, 0xdd)
		b = appendIPv6(b, &p.Tuple, m)
	}
	l4 := len(b)
	b = appendL4(b, p, tcpOptions, d)
	finishIP(b[start:], len(b)-l4)
	checksum(b[l4:], &p.Tuple, d)
	for len(b)-start < 60-ethLen {
		b = append(b, 0)
	}
	return b
}

func appendIPv4(b []byte, t *ct.Tuple, m Mark) []byte {
	src, dst := t.Src.As4(), t.Dst.As4()
	b = append(b, 0x45, 0, 0, 0, byte(m>>8), byte(m), 0, 0, 64, byte(t.Proto), 0, 0)
	b = append(b, src[:]...)
	return append(b, dst[:]...)
}

func appendIPv6(b []byte, t *ct.Tuple, m Mark) []byte {
	src, dst := t.Src.As16(), t.Dst.As16()
	b = append(b, 0x60, byte(m>>16)&0xf, byte(m>>8), byte(m), 0, 0, byte(t.Proto), 64)
	b = append(b, src[:]...)
	return append(b, dst[:]...)
}

// finishIP fills in length and checksum of the IP header.
func finishIP(ip []byte, l4Len int) {
	if ip[0]>>4 == 6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(l4Len))
		return
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+l4Len))
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip[:20])))
}

func appendL4(b []byte, p *sim.Packet, tcpOptions []byte, d Defect) []byte {
	t := &p.Tuple
	switch t.Proto {
	case ct.TCP:
		return appendTCP(b, p, tcpOptions, d)
	case ct.UDP, ct.UDPLite:
		b = appendPorts(b, t)
		n := uint16(8)
		switch {
		case d == BadLength:
			n = 4
		case d == Truncated:
			n = 9
		}
		return append(binary.BigEndian.AppendUint16(b, n), 0, 0)
	case ct.ICMP, ct.ICMPv6:
		b = append(b, t.ICMPType, t.ICMPCode, 0, 0)
		b = binary.BigEndian.AppendUint16(b, t.ICMPID)
		b = append(b, 0, 1)
		if p.Inner.IsValid() {
			b = appendInner(b, &p.Inner)
		}
		return b
	case ct.SCTP:
		return appendSCTP(b, p)
	case ct.DCCP:
		return appendDCCP(b, p)
	case ct.GRE:
		if t.DstPort != 0 {
			b = append(b, 0x20, 0x01, 0x88, 0x0b, 0, 0)
			return binary.BigEndian.AppendUint16(b, t.DstPort)
		}
		return append(b, 0, 0, 0x08, 0x00, 0, 0, 0, 0)
	}
	return append(b, "somebyte"...)
}

// appendInner appends the start of the packet that an ICMP error speaks of.
func appendInner(b []byte, t *ct.Tuple) []byte {
	start := len(b)
	if t.Is4() {
		b = appendIPv4(b, t, 1)
	} else {
		b = appendIPv6(b, t, 1)
	}
	finishIP(b[start:], 8)
	l4 := len(b)
	b = appendL4(b, &sim.Packet{Tuple: *t, TCP: sim.Segment{Flags: sim.TCPAck}}, nil, NoDefect)
	return b[:l4+8]
}

func appendPorts(b []byte, t *ct.Tuple) []byte {
	b = binary.BigEndian.AppendUint16(b, t.SrcPort)
	return binary.BigEndian.AppendUint16(b, t.DstPort)
}

func appendTCP(b []byte, p *sim.Packet, options []byte, d Defect) []byte {
	for len(options)%4 != 0 {
		options = append(options[:len(options):len(options)], 0)
	}
	b = appendPorts(b, &p.Tuple)
	b = binary.BigEndian.AppendUint32(b, p.TCP.Seq)
	b = binary.BigEndian.AppendUint32(b, p.TCP.Ack)
	words := 5 + len(options)/4
	switch d {
	case BadLength:
		words = 4
	case Truncated:
		words = 15
		p.TCP.PayloadLen = 0
	}
	b = append(b, byte(words)<<4, p.TCP.Flags)
	b = binary.BigEndian.AppendUint16(b, p.TCP.Window)
	b = append(b, 0, 0, 0, 0)
	b = append(b, options...)
	return append(b, make([]byte, p.TCP.PayloadLen)...)
}

func appendSCTP(b []byte, p *sim.Packet) []byte {
	b = appendPorts(b, &p.Tuple)
	b = binary.BigEndian.AppendUint32(b, p.SCTP.VTag)
	b = append(b, 0, 0, 0, 0)
	for i := range p.SCTP.Chunks {
		c := &p.SCTP.Chunks[i]
		b = append(b, c.Type, c.Flags)
		b = binary.BigEndian.AppendUint16(b, c.Length)
		at := len(b)
		if !c.Short && (c.Type == 1 || c.Type == 2) {
			b = binary.BigEndian.AppendUint32(b, c.InitTag)
		}
		if c.Length == 0 {
			continue
		}
		for len(b)-at < (int(c.Length)+3)&^3-4 {
			b = append(b, 0)
		}
	}
	return b
}

// appendDCCP appends a header with long sequence numbers and, for all types
// alike, an acknowledgement and a word for service or reset code.
func appendDCCP(b []byte, p *sim.Packet) []byte {
	b = appendPorts(b, &p.Tuple)
	b = append(b, 7, 0, 0, 0, p.DCCP.Type<<1|1, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(p.DCCP.Seq>>32))
	b = binary.BigEndian.AppendUint32(b, uint32(p.DCCP.Seq))
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(p.DCCP.Ack>>32))
	b = binary.BigEndian.AppendUint32(b, uint32(p.DCCP.Ack))
	return append(b, 0, 0, 0, 0)
}

// checksum fills in the transport checksum, wrongly where that is the defect.
func checksum(l4 []byte, t *ct.Tuple, d Defect) {
	var at int
	switch t.Proto {
	case ct.TCP:
		at = 16
	case ct.UDP, ct.UDPLite, ct.DCCP:
		at = 6
	case ct.ICMP, ct.ICMPv6:
		at = 2
	case ct.SCTP:
		c := crc32.Checksum(l4, castagnoli)
		if d == BadChecksum {
			c++
		}
		binary.LittleEndian.PutUint32(l4[8:], c)
		return
	default:
		return
	}
	if d == NoChecksum {
		return
	}
	acc := uint32(0)
	if t.Proto != ct.ICMP {
		acc = sum(acc, t.Src.AsSlice())
		acc = sum(acc, t.Dst.AsSlice())
		proto := t.Proto
		if proto == ct.UDPLite { // as the kernel verifies it; see sim.FlagBadChecksum
			proto = ct.UDP
		}
		acc += uint32(proto) + uint32(len(l4))
	}
	c := ^fold(sum(acc, l4))
	if c == 0 {
		c = 0xffff
	}
	if d == BadChecksum {
		c ^= 0x0101
	}
	binary.BigEndian.PutUint16(l4[at:], c)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

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
