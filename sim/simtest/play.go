package simtest

import (
	"net/netip"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// Addresses of conversations. The nth has two on either side, so that an ICMP
// error can speak of a host next door.
var (
	Clients4 = netip.MustParsePrefix("10.0.0.0/9")
	Servers4 = netip.MustParsePrefix("172.16.0.0/13")
	Clients6 = netip.MustParsePrefix("fd0a::/64")
	Servers6 = netip.MustParsePrefix("fd0b::/64")
	// Outside4 and Outside6 are what a gateway translates clients to.
	Outside4 = netip.MustParseAddr("172.31.0.1")
	Outside6 = netip.MustParseAddr("fd1b::1")
)

// PeersOf returns the two hosts of the nth conversation.
func PeersOf(n int, v6, nat bool) Peers {
	p := Peers{ClientPort: 10000, ServerPort: 80}
	c, s, out := Clients4, Servers4, Outside4
	if v6 {
		c, s, out = Clients6, Servers6, Outside6
	}
	p.Client, p.Server = nth(c.Addr(), 2*n+2), nth(s.Addr(), 2*n+2)
	if nat {
		// Behind one address the clients are told apart by their ports.
		p.Seen = out
		p.ClientPort = uint16(1024 + 4*(n%16000))
	}
	return p
}

func nth(a netip.Addr, n int) netip.Addr {
	if a.Is4() {
		b := a.As4()
		b[1] |= byte(n >> 16)
		b[2], b[3] = byte(n>>8), byte(n)
		return netip.AddrFrom4(b)
	}
	b := a.As16()
	b[13], b[14], b[15] = byte(n>>16), byte(n>>8), byte(n)
	return netip.AddrFrom16(b)
}

// ConversationOf finds the number of the conversation that a tuple belongs to.
func ConversationOf(t *ct.Tuple) (n int, ok bool) {
	for _, a := range [2]netip.Addr{t.Src, t.Dst} {
		switch {
		case Clients4.Contains(a):
			b := a.As4()
			return (int(b[1])<<16|int(b[2])<<8|int(b[3]))/2 - 1, true
		case Servers4.Contains(a):
			b := a.As4()
			return (int(b[1]&7)<<16|int(b[2])<<8|int(b[3]))/2 - 1, true
		case Clients6.Contains(a), Servers6.Contains(a):
			b := a.As16()
			return (int(b[13])<<16|int(b[14])<<8|int(b[15]))/2 - 1, true
		}
	}
	return 0, false
}

// Masquerade is the NAT of the gateway that conversations with NAT cross.
func Masquerade() []sim.NATRule {
	return []sim.NATRule{
		{Kind: sim.Masquerade, To: Outside4, Dst: Servers4},
		{Kind: sim.Masquerade, To: Outside6, Dst: Servers6},
	}
}

// Play runs all cases of a scenario through the model and returns the outcomes
// by case and step.
func (s *Scenario) Play(e sim.Era) ([][][]string, error) {
	c := sim.Config{Era: e, Buckets: 1024, Timeouts: e.Timeouts(), Knobs: s.Knobs}
	for k, v := range s.Timeouts {
		c.Timeouts.Set(k, v)
	}
	if s.NAT {
		c.NAT = Masquerade()
	}
	t, err := sim.New(c)
	if err != nil {
		return nil, err
	}
	out := make([][][]string, len(s.Cases))
	now := sim.Time(time.Second)
	for step, more := 0, true; more; step++ {
		more = false
		pause := time.Duration(0)
		for i := range s.Cases {
			if steps := s.Cases[i].Sequence.Steps; step < len(steps) {
				pause = max(pause, steps[step].Wait)
			}
		}
		now += sim.Time(pause)
		for i := range s.Cases {
			q := &s.Cases[i].Sequence
			if step >= len(q.Steps) {
				continue
			}
			more = true
			peers := PeersOf(i, q.V6, s.NAT)
			p := q.Steps[step].Place(&peers)
			res := t.Packet(now, &p)
			out[i] = append(out[i], Lines(res, flowsOf(t, i)))
		}
	}
	return out, nil
}

func flowsOf(t *sim.Table, n int) (flows []ct.Flow) {
	for _, f := range t.Dump() {
		if i, ok := ConversationOf(&f.Orig); ok && i == n {
			flows = append(flows, *f)
		}
	}
	return flows
}
