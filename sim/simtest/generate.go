package simtest

import (
	"math/rand/v2"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// Generator makes sequences at random, weighted towards the strange.
type Generator struct {
	R *rand.Rand
	// Steps is how many packets a sequence has at most.
	Steps int
	// DCCP includes that protocol.
	DCCP bool
	// Only, if not zero, makes every sequence of this protocol.
	Only ct.Proto
	// NoErrors leaves ICMP errors out.
	NoErrors bool
}

// weighted picks an index by weight.
func (g *Generator) weighted(weights ...int) int {
	total := 0
	for _, w := range weights {
		total += w
	}
	n := g.R.IntN(total)
	for i, w := range weights {
		if n -= w; n < 0 {
			return i
		}
	}
	return 0
}

func (g *Generator) chance(percent int) bool { return g.R.IntN(100) < percent }

func pick[T any](g *Generator, of ...T) T { return of[g.R.IntN(len(of))] }

// Sequence makes one sequence.
func (g *Generator) Sequence() *Sequence {
	s := &Sequence{V6: g.chance(20)}
	icmp := ct.ICMP
	if s.V6 {
		icmp = ct.ICMPv6
	}
	proto := g.Only
	if proto == 0 {
		protos := []ct.Proto{ct.TCP, ct.UDP, ct.UDPLite, icmp, ct.SCTP, ct.GRE, 200, ct.DCCP}
		weights := []int{70, 7, 3, 5, 10, 3, 2, 0}
		if g.DCCP {
			weights[7] = 6
		}
		proto = protos[g.weighted(weights...)]
	}
	if proto.IsICMP() {
		proto = icmp
	}
	n := 2 + g.R.IntN(g.Steps-1)
	switch proto {
	case ct.TCP:
		g.tcp(s, n)
	case ct.SCTP:
		g.sctp(s, n)
	case ct.DCCP:
		g.dccp(s, n)
	default:
		g.simple(s, n, proto)
	}
	if !g.NoErrors && g.chance(15) {
		g.addError(s, proto, icmp)
	}
	return s
}

// addError puts an ICMP error about the sequence somewhere into it.
func (g *Generator) addError(s *Sequence, proto, icmp ct.Proto) {
	st := Step{Reply: g.chance(60), About: pick(g, AboutOwn, AboutOwn, AboutOther, AboutStray), InnerProto: proto}
	st.P.Tuple.Proto = icmp
	if icmp == ct.ICMP {
		st.P.Tuple.ICMPType = pick[uint8](g, 3, 4, 11, 12)
		st.P.Tuple.ICMPCode = uint8(g.R.IntN(4))
	} else {
		st.P.Tuple.ICMPType = pick[uint8](g, 1, 2, 3, 4)
	}
	if g.chance(5) {
		st.Defect = BadChecksum
	}
	at := 1 + g.R.IntN(len(s.Steps))
	s.Steps = append(s.Steps[:at:at], append([]Step{st}, s.Steps[at:]...)...)
}

// simple makes the protocols without states.
func (g *Generator) simple(s *Sequence, n int, proto ct.Proto) {
	for i := range n {
		st := Step{Reply: i > 0 && g.chance(50)}
		st.P.Tuple.Proto = proto
		if g.chance(6) {
			st.Alt = 1
		}
		switch proto {
		case ct.ICMP:
			request := pick[uint8](g, 8, 8, 8, 13, 15, 17)
			st.P.Tuple.ICMPType = request
			if st.Reply && g.chance(80) {
				st.P.Tuple.ICMPType = map[uint8]uint8{8: 0, 13: 14, 15: 16, 17: 18}[request]
			}
			if g.chance(8) {
				st.P.Tuple.ICMPType = uint8(g.R.IntN(24))
			}
			if st.P.Tuple.ICMPType == 5 {
				st.P.Tuple.ICMPType = 9 // a redirect is for the host's own routes
			}
		case ct.ICMPv6:
			st.P.Tuple.ICMPType = 128
			if st.Reply && g.chance(80) {
				st.P.Tuple.ICMPType = 129
			}
			if g.chance(10) {
				st.P.Tuple.ICMPType = pick[uint8](g, 139, 140, 144, 150, 160, 200)
			}
		case ct.GRE:
			if g.chance(30) {
				st.P.Tuple.DstPort = uint16(g.R.IntN(3))
			}
		}
		if g.chance(6) {
			st.Defect = pick(g, BadChecksum, Truncated, NoChecksum, BadLength)
		}
		s.Steps = append(s.Steps, st)
	}
}

// endpoint is what the generator believes of one side.
type endpoint struct {
	next  uint32 // next sequence number to send
	acked uint32 // highest acknowledgement sent
	win   uint16
	scale uint8
}

// tcpTalk generates the segments of one conversation.
type tcpTalk struct {
	g    *Generator
	side [2]endpoint
	opts [2][]byte
}

func (g *Generator) newTalk() *tcpTalk {
	k := &tcpTalk{g: g}
	for i := range k.side {
		e := &k.side[i]
		e.next = g.R.Uint32()
		if g.chance(20) {
			e.next = uint32(g.R.IntN(2000)) - 1000
		}
		e.win = pick[uint16](g, 0, 1, 100, 1000, 1000, 5000, 29200, 65535)
		k.opts[i], e.scale = g.synOptions()
	}
	return k
}

func (g *Generator) synOptions() (b []byte, scale uint8) {
	if g.chance(25) {
		return nil, 0
	}
	if g.chance(70) {
		scale = pick[uint8](g, 0, 1, 2, 7, 14, 15, 200)
		b = append(b, 3, 3, scale, 1)
	}
	if g.chance(50) {
		b = append(b, 4, 2)
	}
	if g.chance(20) {
		b = append(b, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0)
	}
	if g.chance(5) {
		b = append(b, byte(g.R.Uint32()), byte(g.R.IntN(6)), 3, 3, 5)
	}
	return b, min(scale, 14)
}

// tcp makes a TCP conversation: a beginning that makes sense more often than
// not, so that all states are reached, and then anything.
func (g *Generator) tcp(s *Sequence, n int) {
	talks := [2]*tcpTalk{g.newTalk(), g.newTalk()}
	k := talks[0]
	add := func(st Step) {
		if len(s.Steps) < n {
			s.Steps = append(s.Steps, st)
		}
	}
	switch g.weighted(55, 10, 10, 10, 15) {
	case 0:
		add(k.sane(0, sim.TCPSyn, 0))
		add(k.sane(1, sim.TCPSyn|sim.TCPAck, 0))
		add(k.sane(0, sim.TCPAck, 0))
		if g.chance(50) {
			k.closing(add)
		}
	case 1:
		add(k.sane(0, sim.TCPSyn, 0))
	case 2:
		add(k.sane(0, sim.TCPSyn, 0))
		add(k.sane(1, sim.TCPSyn, 0))
		if g.chance(70) {
			k.side[0].next--
			add(k.sane(0, sim.TCPSyn|sim.TCPAck, 0))
			k.side[1].next--
			add(k.sane(1, sim.TCPSyn|sim.TCPAck, 0))
			add(k.sane(g.R.IntN(2), sim.TCPAck, 0))
		}
	case 3:
		add(k.sane(0, sim.TCPAck, uint32(g.R.IntN(2)*100)))
		if g.chance(60) {
			add(k.sane(1, sim.TCPAck, 0))
		}
	}
	for len(s.Steps) < n {
		st := k.any()
		if g.chance(3) {
			st = talks[1].any()
			st.Alt = 1
		}
		add(st)
		if g.chance(8) {
			add(s.Steps[len(s.Steps)-1]) // again, as it was
		}
	}
}

// closing goes some way through an orderly end.
func (k *tcpTalk) closing(add func(Step)) {
	first := k.g.R.IntN(2)
	steps := []func() Step{
		func() Step { return k.sane(first, sim.TCPFin|sim.TCPAck, 0) },
		func() Step { return k.sane(1-first, sim.TCPAck, 0) },
		func() Step { return k.sane(1-first, sim.TCPFin|sim.TCPAck, 0) },
		func() Step { return k.sane(first, sim.TCPAck, 0) },
	}
	for _, f := range steps[:1+k.g.R.IntN(4)] {
		if !k.g.chance(10) {
			add(f())
		}
	}
}

// sane is a segment as a stack would send it.
func (k *tcpTalk) sane(dir int, flags uint8, payload uint32) Step {
	me, peer := &k.side[dir], &k.side[1-dir]
	st := k.segment(dir, flags, me.next, 0, payload)
	if flags&sim.TCPAck != 0 {
		st.P.TCP.Ack = peer.next
		me.acked = peer.next
	}
	me.next = st.P.TCP.End()
	return st
}

func (k *tcpTalk) segment(dir int, flags uint8, seq, ack, payload uint32) Step {
	st := Step{Reply: dir == 1}
	st.P.Tuple.Proto = ct.TCP
	st.P.TCP = sim.Segment{Seq: seq, Ack: ack, Flags: flags, PayloadLen: payload, Window: k.side[dir].win}
	if flags&sim.TCPSyn != 0 {
		st.Options = k.opts[dir]
	}
	return st
}

// any is a segment that may be anything.
func (k *tcpTalk) any() Step {
	g := k.g
	dir := g.R.IntN(2)
	me, peer := &k.side[dir], &k.side[1-dir]
	flags := k.flags()
	payload := uint32(0)
	if flags&(sim.TCPSyn|sim.TCPRst) == 0 && g.chance(35) || g.chance(3) {
		payload = pick[uint32](g, 1, 10, 100, 1000, 1400)
	}
	st := k.segment(dir, flags, k.seq(me, peer), k.ack(me, peer), payload)
	switch {
	case flags&sim.TCPSyn != 0 && g.chance(20):
		st.Options, _ = g.synOptions()
	case flags&sim.TCPSyn == 0 && g.chance(12):
		st.Options = k.sack(st.P.TCP.Ack, peer)
	}
	if g.chance(15) {
		st.P.TCP.Window = pick[uint16](g, 0, 0, 1, 500, 1000, 65535, uint16(g.R.Uint32()))
		if g.chance(50) {
			me.win = st.P.TCP.Window
		}
	}
	if g.chance(2) {
		st.Defect = pick(g, BadChecksum, Truncated, BadLength)
	}
	if g.chance(80) && !sequenceAfter(me.next, st.P.TCP.End()) && st.P.TCP.End()-me.next < 1<<20 {
		me.next = st.P.TCP.End()
	}
	if flags&sim.TCPAck != 0 && g.chance(80) && st.P.TCP.Ack == peer.next {
		me.acked = st.P.TCP.Ack
	}
	return st
}

func sequenceAfter(a, b uint32) bool { return int32(b-a) < 0 }

func (k *tcpTalk) flags() uint8 {
	g := k.g
	f := [...]uint8{
		sim.TCPAck, sim.TCPAck | sim.TCPPsh, sim.TCPFin | sim.TCPAck, sim.TCPSyn,
		sim.TCPSyn | sim.TCPAck, sim.TCPRst, sim.TCPRst | sim.TCPAck, uint8(g.R.Uint32()),
	}[g.weighted(34, 10, 16, 11, 9, 8, 8, 4)]
	if g.chance(5) {
		f |= pick[uint8](g, sim.TCPUrg, sim.TCPEce, sim.TCPCwr, sim.TCPPsh)
	}
	return f
}

// seq is a sequence number, often at the edge of what may be sent.
func (k *tcpTalk) seq(me, peer *endpoint) uint32 {
	g := k.g
	wobble := uint32(g.R.IntN(5)) - 2
	scale := peer.scale
	if g.chance(30) {
		scale = 0
	}
	allowed := uint32(peer.win) << scale
	switch g.weighted(62, 12, 10, 8, 3, 3, 2) {
	case 0:
		return me.next
	case 1:
		return me.next + wobble
	case 2:
		return peer.acked + allowed + wobble
	case 3:
		return me.next - allowed + wobble
	case 4:
		return 0
	case 5:
		return peer.acked
	}
	return g.R.Uint32()
}

// ack is an acknowledgement number, likewise.
func (k *tcpTalk) ack(me, peer *endpoint) uint32 {
	g := k.g
	wobble := uint32(g.R.IntN(5)) - 2
	switch g.weighted(68, 12, 6, 5, 4, 3, 2) {
	case 0:
		return peer.next
	case 1:
		return peer.next + wobble
	case 2:
		return peer.next - 66000 + wobble
	case 3:
		return peer.next - uint32(me.win)<<me.scale + wobble
	case 4:
		return 0
	case 5:
		return me.acked
	}
	return g.R.Uint32()
}

// sack is a SACK option, a timestamp, or rubbish.
func (k *tcpTalk) sack(ack uint32, peer *endpoint) []byte {
	g := k.g
	edge := pick(g, ack+10, peer.next, peer.next+1, peer.next-1, ack-5, g.R.Uint32())
	block := []byte{0, 0, 0, 0, byte(edge >> 24), byte(edge >> 16), byte(edge >> 8), byte(edge)}
	switch g.weighted(60, 15, 15, 10) {
	case 0:
		return append([]byte{1, 1, 5, 10}, block...)
	case 1:
		return append(append([]byte{5, 18}, block...), block...)
	case 2:
		return []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0}
	}
	return append([]byte{5, 9}, block[:7]...)
}

// sctp makes an association: the usual chain, cut off, repeated and disturbed.
func (g *Generator) sctp(s *Sequence, n int) {
	// tags[d] is what packets of direction d carry once it is known.
	tags := [2]uint32{g.R.Uint32() | 1, g.R.Uint32() | 1}
	types := []uint8{1, 2, 10, 11, 7, 8, 14}
	dirs := []int{0, 1, 0, 1, 0, 1, 0}
	if g.chance(25) {
		types, dirs = []uint8{4, 5, 4, 5}, []int{0, 1, 1, 0}
	}
	if g.chance(20) {
		dirs = append([]int{0, 1, 0, 1}, 1, 0, 1)[:len(dirs)]
	}
	at := 0
	for len(s.Steps) < n {
		var typ uint8
		var dir int
		if at < len(types) && g.chance(75) {
			typ, dir = types[at], dirs[at]
			at++
		} else {
			typ = pick[uint8](g, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 0xc0)
			dir = g.R.IntN(2)
			if len(s.Steps) == 0 {
				dir = 0
			}
		}
		s.Steps = append(s.Steps, g.sctpStep(dir, typ, &tags))
	}
}

func (g *Generator) sctpStep(dir int, typ uint8, tags *[2]uint32) Step {
	st := Step{Reply: dir == 1}
	st.P.Tuple.Proto = ct.SCTP
	c := g.chunk(dir, typ, tags)
	st.P.SCTP.Chunks = []sim.SCTPChunk{c}
	st.P.SCTP.VTag = tags[dir]
	if typ == 1 && g.chance(90) {
		st.P.SCTP.VTag = 0
	}
	if g.chance(6) {
		st.P.SCTP.VTag = pick(g, 0, tags[1-dir], g.R.Uint32())
	}
	if g.chance(12) {
		more := pick[uint8](g, 0, 3, 4, 5, 6, 7, 10, 11, 1)
		st.P.SCTP.Chunks = append(st.P.SCTP.Chunks, g.chunk(dir, more, tags))
	}
	if g.chance(2) {
		st.Defect = BadChecksum
	}
	return st
}

func (g *Generator) chunk(dir int, typ uint8, tags *[2]uint32) sim.SCTPChunk {
	c := sim.SCTPChunk{Type: typ, Length: 4}
	switch typ {
	case 1, 2:
		c.Length = 20
		c.InitTag = tags[1-dir]
		if g.chance(10) {
			c.InitTag = g.R.Uint32()
		}
	case 0:
		c.Length = uint16(17 + g.R.IntN(4))
	case 10:
		c.Length = 12
	}
	if g.chance(15) && (typ == 6 || typ == 14) {
		c.Flags = 1
	}
	if g.chance(1) {
		c.Length = 0
	}
	return c
}

// dccp makes a connection of types at random behind a usual beginning.
func (g *Generator) dccp(s *Sequence, n int) {
	types, dirs := []uint8{0, 1, 3, 4, 6, 7}, []int{0, 1, 0, 1, 0, 1}
	for i := 0; len(s.Steps) < n; i++ {
		typ, dir := uint8(g.R.IntN(11)), g.R.IntN(2)
		if i < len(types) && g.chance(75) {
			typ, dir = types[i], dirs[i]
		}
		if i == 0 {
			dir = 0
		}
		st := Step{Reply: dir == 1}
		st.P.Tuple.Proto = ct.DCCP
		st.P.DCCP = sim.DCCPPacket{Type: typ, Seq: 7, Ack: 7}
		if g.chance(10) {
			st.P.DCCP.Ack = 8
		}
		s.Steps = append(s.Steps, st)
	}
}
