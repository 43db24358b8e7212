package workload

import (
	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

const (
	askBytes   = 300
	replyBytes = 1200
	window     = 64240
)

// Each makes a Sink of a function that takes one packet.
func Each(f func(at sim.Time, p *sim.Packet) sim.Verdict) Sink {
	return func(at []sim.Time, ps []sim.Packet, verdicts []sim.Verdict) {
		for i := range ps {
			verdicts[i] = f(at[i], &ps[i])
		}
	}
}

// outbox holds packets until there are enough of them to be worth a call.
type outbox struct {
	n        int
	at       [sim.BatchSize]sim.Time
	packets  [sim.BatchSize]sim.Packet
	verdicts [sim.BatchSize]sim.Verdict
	conns    [sim.BatchSize]int32 // none: nothing follows
	classes  [sim.BatchSize]uint8
}

// send builds the packet of a connection's step.
func (g *Generator) send(at sim.Time, c *conn, id int32) {
	o := &g.out
	k := &g.classes[c.class]
	o.at[o.n], o.conns[o.n], o.classes[o.n] = at, id, c.class
	k.packet(&o.packets[o.n], c)
	if o.n++; o.n == len(o.at) {
		g.flush()
	}
}

// flush hands over what was built, and lets the connections go on.
func (g *Generator) flush() {
	o := &g.out
	n := o.n
	if n == 0 {
		return
	}
	o.n = 0
	g.sink(o.at[:n], o.packets[:n], o.verdicts[:n])
	for i, v := range o.verdicts[:n] {
		out := &g.Outcomes[o.classes[i]]
		out.Packets++
		if v == sim.Refused {
			out.Refused++
		}
		if id := o.conns[i]; id != none {
			g.settle(id, o.at[i], v)
		}
	}
}

// packet builds the packet of a connection's step.
func (k *class) packet(p *sim.Packet, c *conn) {
	*p = sim.Packet{Tag: c.class + 1, Length: 40}
	src, dst := nth(k.Sources, c.src), nth(k.Destinations, c.dst)
	t := &p.Tuple
	t.Src, t.Dst, t.Proto = src, dst, k.proto
	fromServer := c.step == stepAnswer || c.step == stepReply || c.step == stepFINBack
	if k.proto.IsICMP() {
		t.ICMPType, t.ICMPID = 8, c.sport
		if k.proto == ct.ICMPv6 {
			t.ICMPType = 128
		}
		if fromServer {
			*t, _ = t.Invert()
		}
		return
	}
	if k.proto == ct.GRE {
		return
	}
	t.SrcPort, t.DstPort = c.sport, c.dport
	if fromServer {
		t.Src, t.Dst, t.SrcPort, t.DstPort = dst, src, c.dport, c.sport
	}
	switch k.proto {
	case ct.SCTP:
		p.SCTP.Chunks = initChunk
	case ct.TCP:
		k.segment(&p.TCP, c, c.step)
		p.Length += p.TCP.PayloadLen
	}
}

// initChunk is what an SCTP association begins with (RFC 9260, 3.3.2), as short as
// it may be.
var initChunk = []sim.SCTPChunk{{Type: 1, Length: 20, InitTag: 1}}

func (k *class) segment(s *sim.Segment, c *conn, st step) {
	s.Window, s.Flags = window, sim.TCPAck
	s.Seq, s.Ack = c.cseq, c.sseq
	switch k.Kind {
	case KindACKFlood:
		return
	case KindRSTFlood:
		s.Flags, s.Ack = sim.TCPRst, 0
		return
	}
	switch st {
	case stepOpen:
		s.Flags, s.Ack = sim.TCPSyn, 0
	case stepAnswer:
		s.Flags, s.Seq, s.Ack = sim.TCPSyn|sim.TCPAck, c.sseq, c.cseq
	case stepAsk:
		s.PayloadLen = askBytes
	case stepReply:
		s.Seq, s.Ack, s.PayloadLen = c.sseq, c.cseq, replyBytes
	case stepFIN:
		s.Flags = sim.TCPFin | sim.TCPAck
		if k.End == EndRST {
			s.Flags = sim.TCPRst
			s.Ack = 0
		}
	case stepFINBack:
		s.Flags, s.Seq, s.Ack = sim.TCPFin|sim.TCPAck, c.sseq, c.cseq
	}
}
