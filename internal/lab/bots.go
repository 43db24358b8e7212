package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// Bots are clients made of packets alone: they complete handshakes, say
// something once or nothing at all, and never close.
type Bots struct {
	// Sources are walked through. Answers to an address that the host owns are
	// reset by its kernel, unless it is muted ([Host.Mute]).
	Sources []netip.Addr
	// Targets are walked through likewise.
	Targets []netip.AddrPort
	// Say is sent with the last packet of each handshake; what the server
	// answers is acknowledged.
	Say []byte
}

// tuple is the i-th connection: all differ until i exceeds 64,512 times the
// number of sources.
func (b *Bots) tuple(i int) ct.Tuple {
	n := len(b.Sources)
	at, round := i%n, i/n
	to := b.Targets[i%len(b.Targets)]
	return ct.Tuple{Proto: ct.TCP, Src: b.Sources[at], Dst: to.Addr(), DstPort: to.Port(),
		SrcPort: 1024 + uint16((round*7919+at*31)%64512)}
}

// Connections lets bots connect as fast as the load says.
func (h *Host) Connections(ctx context.Context, b Bots, load Load) (Shaken, error) {
	if len(b.Sources) == 0 || len(b.Targets) == 0 {
		return Shaken{}, errors.New("bots need sources and targets")
	}
	w, err := h.openWire(true)
	if err != nil {
		return Shaken{}, err
	}
	defer w.close()
	p, err := newPace(ctx, load)
	if err != nil {
		return Shaken{}, err
	}
	targets := make(map[netip.AddrPort]bool)
	for _, t := range b.Targets {
		targets[t] = true
	}
	d := Shaken{Began: p.start}
	answer := func(s segment) error {
		if !targets[netip.AddrPortFrom(s.tuple.Src, s.tuple.SrcPort)] {
			return nil
		}
		return b.answer(w, &s, &d)
	}
	for i := 0; p.next(i); i++ {
		s := segment{tuple: b.tuple(load.First + i), flags: tcpSYN, seq: scatter(uint32(load.First + i))}
		if err := w.queue(&s); err != nil {
			return d, err
		}
		d.SYNs++
		if p.breath(i) || w.n == 0 {
			if err := w.exchange(answer); err != nil {
				return d, err
			}
		}
	}
	d.Elapsed = time.Since(p.start)
	// What is on its way is still answered.
	w.wait(50)
	return d, w.exchange(answer)
}

// answer sends what a client owes to a segment of the server.
func (b *Bots) answer(w *wire, s *segment, d *Shaken) error {
	t, _ := s.tuple.Invert()
	switch {
	case s.flags == tcpSYN|tcpACK:
		d.Completed++
		flags := uint8(tcpACK)
		if len(b.Say) > 0 {
			flags |= tcpPSH
		}
		return w.queue(&segment{tuple: t, flags: flags, seq: s.ack, ack: s.seq + 1, payload: b.Say})
	case len(b.Say) > 0 && s.length > 0:
		return w.queue(&segment{tuple: t, flags: tcpACK, seq: s.ack, ack: s.seq + uint32(s.length)})
	}
	return nil
}

// Mute keeps the host from resetting connections to a TCP port that it knows
// nothing of, so that bots may use addresses that it owns.
func (h *Host) Mute(port uint16) {
	h.t.Helper()
	h.NFT(fmt.Sprintf(`table inet ctwlabmute {
	chain out { type filter hook output priority 0; tcp dport %d tcp flags & rst == rst drop; }
}`, port))
}
