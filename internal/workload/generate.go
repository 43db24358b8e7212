package workload

import (
	"context"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// Sink takes packets as they are made, a few at a time, and fills in what became
// of each: a client whose first packet is refused tries again or gives up, and
// nobody answers a packet that never arrived. All slices have the same length.
type Sink func(at []sim.Time, ps []sim.Packet, verdicts []sim.Verdict)

// Outcome counts what became of the connections of a class.
type Outcome struct {
	Started  uint64 `json:"started"`  // first packets sent, retries left out
	Answered uint64 `json:"answered"` // handshakes finished, requests answered
	GaveUp   uint64 `json:"gave_up"`  // refused and out of retries
	Broken   uint64 `json:"broken"`   // lost in the middle: a packet was refused or found invalid
	Ended    uint64 `json:"ended"`
	Packets  uint64 `json:"packets"`
	Refused  uint64 `json:"-"` // packets
}

// Generator makes the packets of a workload.
type Generator struct {
	spec     *Spec
	classes  []class
	conns    []conn
	free     int32
	wheel    *wheel
	now      sim.Time
	out      outbox
	sink     Sink
	Outcomes []Outcome // by class; read between calls to RunUntil
}

// class is the running state of a Class.
type class struct {
	Class
	rng     *rand.Rand
	next    sim.Time // of the next arrival
	stop    sim.Time
	srcs    uint32
	dsts    uint32
	proto   ct.Proto
	rtt     sim.Time
	rate    float64
	oneShot bool
}

type step uint8

const (
	stepOpen    step = iota // the client's first packet
	stepAnswer              // the server's first
	stepFinish              // the client's third: the handshake is done
	stepAsk                 // an exchange
	stepReply               // and its answer
	stepThanks              // acknowledged
	stepFIN                 // the client closes
	stepFINBack             // the server closes
	stepLast                // the last acknowledgement
)

// conn is one connection under way.
type conn struct {
	due, end   sim.Time
	src, dst   uint32
	cseq, sseq uint32
	sport      uint16
	dport      uint16
	class      uint8
	step       step
	tries      uint8
	mute       bool // nobody answers it
}

// New makes a generator. scale thins the traffic: with 0.1 a tenth of the
// connections are made, from a tenth of the sources. seed 0 takes the workload's
// own.
func New(s *Spec, seed uint64, scale float64) (*Generator, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if seed == 0 {
		seed = s.Seed
	}
	g := &Generator{spec: s, wheel: newWheel(), free: none, Outcomes: make([]Outcome, len(s.Classes))}
	for i := range s.Classes {
		g.classes = append(g.classes, g.prepare(&s.Classes[i], rand.New(rand.NewPCG(seed, uint64(i)+1)), scale))
	}
	for i := range g.classes {
		n := int(math.Round(float64(g.classes[i].Arrivals.Initial) * scale))
		for range n {
			g.initial(uint8(i))
		}
	}
	return g, nil
}

func (g *Generator) prepare(c *Class, rng *rand.Rand, scale float64) class {
	k := class{Class: *c, rng: rng, proto: c.proto(), rtt: sim.Time(c.RoundTrip), rate: float64(c.Arrivals.Rate) * scale}
	k.stop = sim.Time(c.Stop)
	if k.stop == 0 || k.stop > sim.Time(g.spec.Duration) {
		k.stop = sim.Time(g.spec.Duration)
	}
	k.srcs, k.dsts = hosts(c.Sources), hosts(c.Destinations)
	if c.SourceCount > 0 {
		k.srcs = min(k.srcs, c.SourceCount)
	}
	// Fewer sources, so that a tuple is as likely to be used again.
	k.srcs = max(uint32(math.Round(float64(k.srcs)*scale)), 1)
	if k.Ports == (Ports{}) {
		k.Ports = Ports{80, 80}
	}
	if k.rtt == 0 {
		k.rtt = sim.Time(time.Millisecond)
	}
	k.oneShot = c.Kind.single() || c.Kind == KindScan && c.Retries == 0
	k.next = sim.Time(c.Start)
	if k.rate > 0 {
		k.advance()
	} else {
		k.next = math.MaxInt64
	}
	return k
}

// hosts is the number of addresses in a prefix, at most 2^32 - 1.
func hosts(p netip.Prefix) uint32 {
	bits := p.Addr().BitLen() - p.Bits()
	if bits >= 32 {
		return math.MaxUint32
	}
	return uint32(1) << bits
}

// nth returns address number n of a prefix.
func nth(p netip.Prefix, n uint32) netip.Addr {
	if p.Addr().Is4() {
		b := p.Addr().As4()
		base := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		base += n
		return netip.AddrFrom4([4]byte{byte(base >> 24), byte(base >> 16), byte(base >> 8), byte(base)})
	}
	b := p.Addr().As16()
	low := uint64(b[12])<<24 | uint64(b[13])<<16 | uint64(b[14])<<8 | uint64(b[15])
	low += uint64(n)
	b[12], b[13], b[14], b[15] = byte(low>>24), byte(low>>16), byte(low>>8), byte(low)
	return netip.AddrFrom16(b)
}

// advance draws the time of the next arrival.
func (k *class) advance() {
	for {
		gap := 1 / k.rate
		if k.Arrivals.Process != Constant {
			gap *= k.rng.ExpFloat64()
		}
		k.next += sim.Time(min(gap*1e9, float64(maxDuration)))
		if k.next >= k.stop {
			return // no more of them, however rare they are
		}
		switch k.Arrivals.Process {
		case Diurnal:
			if k.rng.Float64() > k.dayShare() {
				continue
			}
		case Burst:
			cycle := sim.Time(k.Arrivals.On + k.Arrivals.Off)
			if at := (k.next - sim.Time(k.Start)) % cycle; at >= sim.Time(k.Arrivals.On) {
				k.next += cycle - at
				continue
			}
		}
		return
	}
}

// dayShare is the rate at this time of day as a share of the peak's.
func (k *class) dayShare() float64 {
	low := 0.0
	if k.Arrivals.Rate > 0 {
		low = float64(k.Arrivals.Low / k.Arrivals.Rate)
	}
	day := float64(k.next-sim.Time(k.Arrivals.Peak)) / float64(24*time.Hour)
	return low + (1-low)*(1+math.Cos(2*math.Pi*day))/2
}

// draw draws a time from a distribution.
func (k *class) draw(d *Distribution) sim.Time {
	mean := float64(d.Mean)
	var v float64
	switch d.Shape {
	case Exponential:
		v = mean * k.rng.ExpFloat64()
	case Lognormal:
		v = mean * math.Exp(d.Sigma*k.rng.NormFloat64()-d.Sigma*d.Sigma/2)
	case Pareto:
		v = mean * (d.Sigma - 1) / d.Sigma / math.Pow(1-k.rng.Float64(), 1/d.Sigma)
	case Uniform:
		v = float64(d.Min) + k.rng.Float64()*float64(d.Max-d.Min)
	default:
		v = mean
	}
	v = max(v, float64(d.Min))
	if d.Max > 0 {
		v = min(v, float64(d.Max))
	}
	return sim.Time(min(v, float64(maxDuration)))
}

// open fills in who talks to whom.
func (k *class) open(c *conn) {
	c.src = uint32(k.rng.Uint64N(uint64(k.srcs)))
	c.dst = uint32(k.rng.Uint64N(uint64(k.dsts)))
	c.dport = k.Ports.First + uint16(k.rng.Uint32N(k.Ports.count()))
	c.sport = uint16(1024 + k.rng.Uint32N(64512))
	c.cseq, c.sseq = k.rng.Uint32(), k.rng.Uint32()
	c.mute = k.Unanswered > 0 && k.rng.Float64() < k.Unanswered
}

func (g *Generator) newConn(class uint8) int32 {
	id := g.free
	if id == none {
		g.conns = append(g.conns, conn{})
		g.wheel.next = append(g.wheel.next, none)
		id = int32(len(g.conns) - 1)
	} else {
		g.free = g.wheel.next[id]
	}
	g.conns[id] = conn{class: class}
	g.classes[class].open(&g.conns[id])
	return id
}

func (g *Generator) release(id int32) {
	g.wheel.next[id] = g.free
	g.free = id
}

// initial makes a connection that exists at the start, as old as any may be:
// its handshake passes in the first second.
func (g *Generator) initial(class uint8) {
	k := &g.classes[class]
	id := g.newConn(class)
	c := &g.conns[id]
	c.due = sim.Time(k.rng.Float64() * 1e9)
	c.end = sim.Time(k.rng.Float64() * float64(k.draw(&k.Lifetime)))
	g.wheel.add(g.conns, id)
}

// RunUntil makes all packets before a time and gives them to the sink.
func (g *Generator) RunUntil(ctx context.Context, until sim.Time, sink Sink) error {
	g.sink = sink
	until = min(until, sim.Time(g.spec.Duration))
	for g.now < until {
		if g.wheel.now&(1024*flushTicks-1) == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		end := sim.Time(g.wheel.now+1) * tick
		// Neither arrivals nor connections under way are always first.
		first := g.wheel.now&1 == 0
		if first {
			g.arrivals(end)
		}
		for id := g.wheel.take(g.conns); id != none; {
			next := g.wheel.next[id]
			g.wheel.n--
			g.advance(id, max(g.conns[id].due, g.now))
			id = next
		}
		if !first {
			g.arrivals(end)
		}
		if g.wheel.now%flushTicks == 0 {
			g.flush()
		}
		g.now = end
	}
	g.flush()
	return nil
}

// Pending is the number of connections under way.
func (g *Generator) Pending() int { return g.wheel.n }

func (g *Generator) arrivals(end sim.Time) {
	for i := range g.classes {
		g.arrive(uint8(i), end)
	}
}

func (g *Generator) arrive(i uint8, end sim.Time) {
	k := &g.classes[i]
	for k.next < end && k.next < k.stop {
		at := k.next
		if k.oneShot {
			var c conn
			c.class = i
			k.open(&c)
			g.Outcomes[i].Started++
			g.send(at, &c, none)
		} else {
			id := g.newConn(i)
			c := &g.conns[id]
			c.due, c.end = at, at+k.draw(&k.Lifetime)
			g.advance(id, at)
		}
		k.advance()
	}
}

// advance sends the packet of a connection's step.
func (g *Generator) advance(id int32, at sim.Time) {
	c := &g.conns[id]
	if c.step == stepOpen && c.tries == 0 {
		g.Outcomes[c.class].Started++
	}
	g.send(at, c, id)
}

// settle decides on a connection's next step by what became of its packet.
func (g *Generator) settle(id int32, at sim.Time, v sim.Verdict) {
	c := &g.conns[id]
	k, o := &g.classes[c.class], &g.Outcomes[c.class]
	if v == sim.Refused || v == sim.Invalid && c.step != stepOpen {
		g.lost(id, at, k, o)
		return
	}
	wait, more := k.follow(c, at, o)
	if !more {
		if c.step >= stepAsk || c.mute {
			o.Ended++
		}
		g.release(id)
		return
	}
	c.due = at + wait
	g.wheel.add(g.conns, id)
}

// lost deals with a packet that did not pass.
func (g *Generator) lost(id int32, at sim.Time, k *class, o *Outcome) {
	c := &g.conns[id]
	if c.step >= stepFIN { // nobody misses its end
		o.Ended++
		g.release(id)
		return
	}
	if c.step > stepFinish {
		o.Broken++
		g.release(id)
		return
	}
	if int(c.tries) < k.Retries { // the client hears nothing, and sends its first again
		if c.step > stepOpen {
			c.cseq--
		}
		if c.step == stepFinish && k.proto == ct.TCP {
			c.sseq--
		}
		c.step = stepOpen
		c.due = at + sim.Time(time.Second)<<c.tries
		c.tries++
		g.wheel.add(g.conns, id)
		return
	}
	o.GaveUp++
	g.release(id)
}

// follow moves to the next step and says when; more is false at the end.
func (k *class) follow(c *conn, at sim.Time, o *Outcome) (wait sim.Time, more bool) {
	tcp := k.proto == ct.TCP
	switch c.step {
	case stepOpen:
		if c.mute || k.Kind == KindScan {
			if int(c.tries) < k.Retries {
				c.tries++
				return sim.Time(time.Second) << (c.tries - 1), true
			}
			return 0, false
		}
		c.cseq++
		c.step = stepAnswer
		return k.rtt, true
	case stepAnswer:
		c.sseq++
		if !tcp {
			o.Answered++
			return k.pause(c, at)
		}
		c.step = stepFinish
		return 0, true
	case stepFinish:
		o.Answered++
		if k.Kind == KindHandshake {
			return 0, false
		}
		if at >= c.end {
			return k.finish(c)
		}
		c.step = stepAsk
		return 0, true
	case stepAsk:
		c.cseq += askBytes
		c.step = stepReply
		return k.rtt, true
	case stepReply:
		c.sseq += replyBytes
		if tcp {
			c.step = stepThanks
			return 0, true
		}
		return k.pause(c, at)
	case stepThanks:
		return k.pause(c, at)
	case stepFIN:
		if k.End == EndRST || k.End == EndHalfClose {
			return 0, false
		}
		c.cseq++
		c.step = stepFINBack
		return k.rtt, true
	case stepFINBack:
		c.sseq++
		c.step = stepLast
		return 0, true
	}
	return 0, false
}

// pause waits for the next exchange, or for the end if that comes first.
func (k *class) pause(c *conn, at sim.Time) (sim.Time, bool) {
	p := k.draw(&k.Pause)
	if p > 0 && at+p < c.end {
		c.step = stepAsk
		return p, true
	}
	wait := max(c.end-at, 0)
	if k.proto != ct.TCP {
		return 0, false
	}
	_, more := k.finish(c)
	return wait, more
}

// finish moves to the connection's end.
func (k *class) finish(c *conn) (sim.Time, bool) {
	if k.End == EndVanish {
		return 0, false
	}
	c.step = stepFIN
	return 0, true
}
