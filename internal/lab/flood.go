package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// maxLoad bounds every generator, whatever it was asked for.
const maxLoad = 2 * time.Minute

// Load bounds what a generator does. It ends at whichever bound comes first,
// or when its context does, and never lasts longer than two minutes.
type Load struct {
	Packets   int           // how many, at most; required
	PerSecond int           // 0: as fast as the kernel takes them
	Duration  time.Duration // 0: until all packets are sent
	// First is the number of the first tuple: a second load with First set to
	// the Packets of the first repeats none of its tuples.
	First int
}

// Sent is a generator's own count of what it did.
type Sent struct {
	// Packets were taken by the kernel, each with a tuple of its own as far as
	// the addresses and ports allow.
	Packets int
	Began   time.Time // before the first
	Elapsed time.Duration
}

// SYNFlood sends SYNs to a target, from addresses of the prefix that it walks
// through in a scattered order, each from a port of its own. The sources
// should be the host's Spoof prefixes, where answers end in silence; from its
// Sources its kernel would answer with resets.
func (h *Host) SYNFlood(ctx context.Context, target netip.AddrPort, sources netip.Prefix, load Load) (Sent, error) {
	return h.send(ctx, load, func(i int, s *segment) {
		s.tuple = spread(ct.TCP, sources, target, i)
		s.flags, s.seq = tcpSYN, scatter(uint32(i))
	})
}

// UDPFlood sends datagrams with a payload of some bytes to a target, from
// addresses and ports as [Host.SYNFlood] does.
func (h *Host) UDPFlood(ctx context.Context, target netip.AddrPort, sources netip.Prefix, payload int, load Load) (Sent, error) {
	data := make([]byte, min(payload, 1400))
	return h.send(ctx, load, func(i int, s *segment) {
		s.tuple = spread(ct.UDP, sources, target, i)
		s.payload = data
	})
}

// Ping sends echo requests, each with an identifier or source of its own.
func (h *Host) Ping(ctx context.Context, target netip.Addr, sources netip.Prefix, load Load) (Sent, error) {
	return h.send(ctx, load, func(i int, s *segment) {
		s.tuple = spread(ct.ICMP, sources, netip.AddrPortFrom(target, 0), i)
		s.tuple.ICMPID, s.tuple.ICMPType = s.tuple.SrcPort, 8
		if target.Is6() {
			s.tuple.Proto, s.tuple.ICMPType = ct.ICMPv6, 128
		}
		s.tuple.SrcPort, s.tuple.DstPort = 0, 0
	})
}

// Scan sends SYNs from one address to every port given of one address of the
// prefix after the other, as a scanner for open services does.
func (h *Host) Scan(ctx context.Context, source netip.Addr, targets netip.Prefix, ports []uint16, load Load) (Sent, error) {
	if len(ports) == 0 {
		return Sent{}, errors.New("a scan needs ports")
	}
	return h.send(ctx, load, func(i int, s *segment) {
		s.tuple = ct.Tuple{Proto: ct.TCP, Src: source, Dst: Nth(targets, uint32(i/len(ports))%size(targets)),
			SrcPort: 1024 + uint16(scatter(uint32(i))%64512), DstPort: ports[i%len(ports)]}
		s.flags, s.seq = tcpSYN, scatter(uint32(i))
	})
}

// send injects the segments that next describes.
func (h *Host) send(ctx context.Context, load Load, next func(i int, s *segment)) (Sent, error) {
	w, err := h.openWire(false)
	if err != nil {
		return Sent{}, err
	}
	defer w.close()
	p, err := newPace(ctx, load)
	if err != nil {
		return Sent{}, err
	}
	var s segment
	for i := 0; p.next(i); i++ {
		next(load.First+i, &s)
		if err = w.queue(&s); err != nil {
			break
		}
		if p.breath(i) {
			if err = w.flush(); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = w.flush()
	}
	return Sent{Packets: int(w.sent), Began: p.start, Elapsed: time.Since(p.start)}, err
}

// pace tells a generator when to go on and when to stop.
type pace struct {
	ctx      context.Context
	load     Load
	start    time.Time
	deadline time.Time
}

func newPace(ctx context.Context, load Load) (*pace, error) {
	if load.Packets <= 0 {
		return nil, fmt.Errorf("a load of %d packets has no bound", load.Packets)
	}
	if load.Duration <= 0 || load.Duration > maxLoad {
		load.Duration = maxLoad
	}
	now := time.Now()
	return &pace{ctx: ctx, load: load, start: now, deadline: now.Add(load.Duration)}, nil
}

// next reports whether packet i may be sent. It looks at the clock once a
// batch.
func (p *pace) next(i int) bool {
	if i >= p.load.Packets {
		return false
	}
	return i%batchFrames != 0 || p.ctx.Err() == nil && time.Now().Before(p.deadline)
}

// breath reports whether packet i ends a portion of a paced load, after which
// the generator waits until the next one is due.
func (p *pace) breath(i int) bool {
	if p.load.PerSecond <= 0 {
		return false
	}
	portion := max(1, p.load.PerSecond/200) // one every 5 ms
	if (i+1)%portion != 0 {
		return false
	}
	due := p.start.Add(time.Duration(i+1) * time.Second / time.Duration(p.load.PerSecond))
	if d := time.Until(due); d > 0 {
		select {
		case <-p.ctx.Done():
		case <-time.After(d):
		}
	}
	return true
}

// spread returns the i-th tuple towards a target: every address of the prefix
// once, then every address with another port. All tuples differ until i
// exceeds 64,512 times the size of the prefix.
func spread(proto ct.Proto, sources netip.Prefix, target netip.AddrPort, i int) ct.Tuple {
	return spreadOver(unprivileged, proto, sources, target, i)
}

// Numbers of ports from 1024 on. belowLocal ends where ip_local_port_range begins: a
// socket that is bound to a port of that range keeps it from every connect that
// leaves the choice to the kernel, whatever the address, until TIME_WAIT is over.
const (
	unprivileged = 65536 - 1024
	belowLocal   = 32768 - 1024
)

// spreadOver is spread over so many ports from 1024 on. Their number must share no
// factor with 7919.
func spreadOver(ports uint32, proto ct.Proto, sources netip.Prefix, target netip.AddrPort, i int) ct.Tuple {
	n := size(sources)
	at := uint32(uint64(i) * 2654435761 % uint64(n)) // n is a power of two, the factor odd
	round := uint32(uint64(i) / uint64(n))
	port := 1024 + (round*7919+at*31)%ports
	return ct.Tuple{Proto: proto, Src: Nth(sources, at), Dst: target.Addr(),
		SrcPort: uint16(port), DstPort: target.Port()}
}

// size is the number of addresses of a prefix, 2^31 at most.
func size(p netip.Prefix) uint32 {
	return 1 << min(p.Addr().BitLen()-p.Bits(), 31)
}

// scatter maps numbers to numbers that look random, one to one.
func scatter(x uint32) uint32 {
	x ^= x >> 16
	x *= 0x7feb352d
	x ^= x >> 15
	x *= 0x846ca68b
	return x ^ x>>16
}
