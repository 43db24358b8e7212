package simtest

import (
	"net/netip"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// Peers are the two hosts of a sequence. The server sees the client under
// another address and port where a gateway translates.
type Peers struct {
	Client, Server         netip.Addr
	Seen                   netip.Addr // the client as the server knows it; invalid without NAT
	ClientPort, ServerPort uint16
}

// About says which packet an ICMP error carries.
type About uint8

// What an ICMP error may speak of.
const (
	AboutNothing About = iota // no error, or one without a packet
	AboutOwn                  // a packet that the error's receiver sent in this sequence
	AboutOther                // a packet that nobody sent
	AboutStray                // a packet of this sequence, but the error goes elsewhere
)

// Step is one packet of a sequence. Addresses and ports come from the peers.
type Step struct {
	// Wait passes before the packet.
	Wait time.Duration
	// Reply: the server sends it.
	Reply bool
	// Alt picks one of the sequence's flows: it is added to the client's port.
	Alt uint8
	// P is the packet. Its tuple holds the protocol and what ICMP and GRE add.
	P sim.Packet
	// Options are the TCP options as bytes.
	Options []byte
	Defect  Defect
	About   About
	// InnerProto is the protocol of the packet that an ICMP error carries.
	InnerProto ct.Proto
}

// Sequence is a conversation between two hosts.
type Sequence struct {
	V6    bool
	Steps []Step
}

// Clone returns a deep enough copy to change steps in.
func (s *Sequence) Clone() *Sequence {
	return &Sequence{V6: s.V6, Steps: append([]Step(nil), s.Steps...)}
}

// Place returns the packet of a step between two peers, as package sim takes it.
func (st *Step) Place(at *Peers) sim.Packet {
	p := st.P
	p.Tuple = st.direct(at, p.Tuple, st.Reply)
	p.TCP.Options = sim.ParseTCPOptions(padded(st.Options), p.TCP.Ack)
	switch st.Defect {
	case BadChecksum:
		p.Flags |= sim.FlagBadChecksum
		if !hasChecksum(p.Tuple.Proto) {
			p.Flags &^= sim.FlagBadChecksum
		}
	case Truncated, BadLength:
		switch p.Tuple.Proto {
		case ct.TCP, ct.UDP, ct.UDPLite:
			p.Flags |= sim.FlagMalformed
		}
	case NoChecksum:
		switch p.Tuple.Proto {
		case ct.UDPLite:
			p.Flags |= sim.FlagMalformed
		case ct.ICMP, ct.ICMPv6, ct.TCP:
			p.Flags |= sim.FlagBadChecksum
		}
	}
	st.placeInner(&p, at)
	return p
}

func hasChecksum(p ct.Proto) bool {
	switch p {
	case ct.TCP, ct.UDP, ct.UDPLite, ct.ICMP, ct.ICMPv6, ct.SCTP:
		return true
	}
	return false
}

func padded(options []byte) []byte {
	n := (len(options) + 3) &^ 3
	return append(options[:len(options):len(options)], make([]byte, n-len(options))...)
}

// direct fills in addresses and ports. The packet runs from the server or from
// the client; either way the step's sender knows the client as it sees it.
func (st *Step) direct(at *Peers, t ct.Tuple, fromServer bool) ct.Tuple {
	client, cport, sport := at.Client, at.ClientPort+uint16(st.Alt), at.ServerPort
	if st.Reply && at.Seen.IsValid() {
		client = at.Seen
	}
	t.Src, t.Dst = client, at.Server
	if fromServer {
		t.Src, t.Dst = at.Server, client
	}
	switch t.Proto {
	case ct.ICMP, ct.ICMPv6:
		t.ICMPID = cport
	case ct.TCP, ct.UDP, ct.UDPLite, ct.SCTP, ct.DCCP:
		t.SrcPort, t.DstPort = cport, sport
		if fromServer {
			t.SrcPort, t.DstPort = sport, cport
		}
	}
	return t
}

func (st *Step) placeInner(p *sim.Packet, at *Peers) {
	if st.About == AboutNothing || !p.Tuple.Proto.IsICMP() {
		return
	}
	p.Tuple.ICMPID = 0
	inner := ct.Tuple{Proto: st.InnerProto}
	switch inner.Proto {
	case ct.ICMP:
		inner.ICMPType = 8
	case ct.ICMPv6:
		inner.ICMPType = 128
	}
	// An error goes to whom the inner packet came from. A stray one does not.
	p.Inner = st.direct(at, inner, st.Reply == (st.About == AboutStray))
	if st.About == AboutOther {
		p.Inner.Src = p.Inner.Src.Next()
	}
}
