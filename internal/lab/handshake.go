package lab

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
)

// Shaken is what [Host.Handshakes] counts.
type Shaken struct {
	SYNs      int       // sent
	Completed int       // SYN-ACKs answered: connections that both ends call established
	Began     time.Time // before the first
	Elapsed   time.Duration
}

// Handshakes opens connections from addresses of a prefix, completes each
// handshake and says nothing more. Packets alone stand for the clients, so
// that thousands of addresses open thousands of connections a second and stay
// silent for ever; the prefix must be one of the host's Spoof ones, or its
// kernel would reset them. The server should [Host.Hold] the port.
func (h *Host) Handshakes(ctx context.Context, target netip.AddrPort, sources netip.Prefix, load Load) (Shaken, error) {
	if h.Sources4.Overlaps(sources) || h.Sources6.Overlaps(sources) {
		return Shaken{}, fmt.Errorf("%s owns %s and would reset the connections", h.Name, sources)
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
	d := Shaken{Began: p.start}
	answer := func(s segment) error { return w.completeHandshake(&s, target, &d) }
	for i := 0; p.next(i); i++ {
		n := load.First + i
		s := segment{tuple: spread(ct.TCP, sources, target, n), flags: tcpSYN, seq: scatter(uint32(n))}
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
	// What the server did not answer at once it may answer later.
	for last := time.Now(); time.Since(last) < time.Second && d.Completed < d.SYNs; {
		before := d.Completed
		w.wait(50)
		if err := w.exchange(answer); err != nil {
			return d, err
		}
		if d.Completed > before {
			last = time.Now()
		}
	}
	d.Elapsed = time.Since(p.start)
	return d, w.exchange(answer)
}

// exchange sends what is queued, reads what has come and sends the answers.
func (w *wire) exchange(answer func(segment) error) error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.receive(answer); err != nil {
		return err
	}
	return w.flush()
}

// completeHandshake answers a SYN-ACK of the target with the last ACK.
func (w *wire) completeHandshake(s *segment, target netip.AddrPort, d *Shaken) error {
	if s.flags != tcpSYN|tcpACK || s.tuple.Src != target.Addr() || s.tuple.SrcPort != target.Port() {
		return nil
	}
	t, _ := s.tuple.Invert()
	d.Completed++
	return w.queue(&segment{tuple: t, flags: tcpACK, seq: s.ack, ack: s.seq + 1})
}

// Hold listens on a TCP port of both families and never accepts: the kernel
// completes up to n handshakes and keeps the connections, at the cost of no
// file descriptor, until the test ends or the result is called.
func (h *Host) Hold(port uint16, n int) (letGo func()) {
	h.t.Helper()
	h.SetSysctl("net.core.somaxconn", fmt.Sprint(n))
	h.SetSysctl("net.ipv4.tcp_max_syn_backlog", fmt.Sprint(n))
	var fd int
	err := h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return err
		}
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if err = unix.Bind(fd, &unix.SockaddrInet6{Port: int(port)}); err != nil {
			return err
		}
		return unix.Listen(fd, n)
	})
	if err != nil {
		h.t.Fatalf("lab: %s: hold port %d: %v", h.Name, port, err)
	}
	letGo = sync.OnceFunc(func() { unix.Close(fd) })
	h.t.Cleanup(letGo)
	return letGo
}
