package capture

import (
	"encoding/binary"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// plainTCP decodes what most records of most captures are: a whole TCP segment
// over IPv4 on Ethernet, with nothing special about it. It reports false, and
// leaves p alone, where [decode] has to look.
func plainTCP(rec *record, p *sim.Packet) bool {
	b := rec.data
	if rec.link != linkEthernet || len(b) < 54 {
		return false
	}
	ip, tcp := b[14:34], b[34:54]
	// Type IPv4, version 4 and no options, no fragment.
	if binary.LittleEndian.Uint16(b[12:]) != 0x0008 || ip[0] != 0x45 || ip[9] != uint8(ct.TCP) ||
		binary.LittleEndian.Uint16(ip[6:])&0xff3f != 0 {
		return false
	}
	total, header := uint32(be.Uint16(ip[2:])), uint32(tcp[12]>>4)*4
	if header < 20 || total < 20+header || total+14 > rec.orig || uint32(len(b)) < 34+header {
		return false
	}
	*p = sim.Packet{}
	p.Length = total
	t := &p.Tuple
	t.Src, t.Dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	t.Proto, t.SrcPort, t.DstPort = ct.TCP, be.Uint16(tcp), be.Uint16(tcp[2:])
	s := &p.TCP
	s.Seq, s.Ack = be.Uint32(tcp[4:]), be.Uint32(tcp[8:])
	s.Flags, s.Window, s.PayloadLen = tcp[13], be.Uint16(tcp[14:]), total-20-header
	if header > 20 {
		s.Options = sim.ParseTCPOptions(b[54:34+header], s.Ack)
	}
	rec.hops = ip[8]
	return true
}
