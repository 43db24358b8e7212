package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
)

// Churned is what the generators of short exchanges count.
type Churned struct {
	Asked    int // exchanges begun, each from a port of its own
	Answered int // of which an answer came within a quarter of a second
	Refused  int // of which not even the question could be sent: not connected
	Began    time.Time
	Elapsed  time.Duration
}

// DNSChurn asks a resolver again and again, every time from another address or
// port, as resolvers' clients do: every question is an entry of its own for
// half a minute. The target should run [Host.ServeDNS].
func (h *Host) DNSChurn(ctx context.Context, target netip.AddrPort, sources netip.Prefix, load Load) (Churned, error) {
	return h.churn(ctx, ct.UDP, target, sources, load)
}

// TCPChurn opens a connection, sends a byte, waits for the answer and closes,
// again and again, every time from another address or port. The target should
// serve [Echo].
func (h *Host) TCPChurn(ctx context.Context, target netip.AddrPort, sources netip.Prefix, load Load) (Churned, error) {
	return h.churn(ctx, ct.TCP, target, sources, load)
}

const (
	// churnBatch is how many exchanges are in flight together.
	churnBatch = 32
	// patience is how long a batch waits for its answers.
	patience = 250 * time.Millisecond
)

func (h *Host) churn(ctx context.Context, proto ct.Proto, target netip.AddrPort, sources netip.Prefix, load Load) (Churned, error) {
	p, err := newPace(ctx, load)
	if err != nil {
		return Churned{}, err
	}
	c := Churned{Began: p.start}
	err = h.Do(func() error {
		var batch []question
		for i := 0; p.next(i); i++ {
			q, err := open(spreadOver(belowLocal, proto, sources, target, load.First+i), uint16(i))
			c.Asked++
			switch {
			case err == nil:
				batch = append(batch, q)
			case transient(err):
				c.Refused++
			default:
				return errors.Join(err, c.finish(batch))
			}
			if p.breath(i) || len(batch) == churnBatch {
				if err := c.finish(batch); err != nil {
					return err
				}
				batch = batch[:0]
			}
		}
		return c.finish(batch)
	})
	c.Elapsed = time.Since(p.start)
	return c, err
}

// question is an exchange in flight.
type question struct {
	fd   int
	data []byte
}

// open makes the socket that a tuple describes and begins to connect it.
func open(t ct.Tuple, id uint16) (question, error) {
	family, kind, data := unix.AF_INET, unix.SOCK_STREAM, []byte{1}
	if !t.Is4() {
		family = unix.AF_INET6
	}
	if t.Proto == ct.UDP {
		kind, data = unix.SOCK_DGRAM, dnsQuery(id)
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return question{}, fmt.Errorf("socket: %w", err)
	}
	q := question{fd, data}
	if err := q.connect(t); err != nil {
		unix.Close(fd)
		return question{}, err
	}
	return q, nil
}

func (q question) connect(t ct.Tuple) error {
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	err := errors.Join(
		unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptTimeval(q.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(q.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait))
	if err != nil {
		return fmt.Errorf("socket options: %w", err)
	}
	if err := unix.Bind(q.fd, sockaddr(t.Src, t.SrcPort)); err != nil {
		return fmt.Errorf("bind to %s port %d: %w", t.Src, t.SrcPort, err)
	}
	err = unix.Connect(q.fd, sockaddr(t.Dst, t.DstPort))
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect %s: %w", t, err)
	}
	return unix.SetNonblock(q.fd, false)
}

// finish asks the questions, waits for the answers, for all of them together no
// longer than the patience allows, and closes the sockets.
func (c *Churned) finish(batch []question) error {
	deadline := time.Now().Add(patience)
	flags := func() int {
		if time.Now().After(deadline) {
			return unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
		}
		return unix.MSG_NOSIGNAL
	}
	var failed error
	asked := batch[:0]
	for _, q := range batch {
		err := unix.Sendto(q.fd, q.data, flags(), nil)
		if err == nil {
			asked = append(asked, q)
			continue
		}
		unix.Close(q.fd)
		c.Refused++
		if !transient(err) {
			failed = fmt.Errorf("ask: %w", err)
		}
	}
	var buf [512]byte
	for _, q := range asked {
		n, _, err := unix.Recvfrom(q.fd, buf[:], flags())
		unix.Close(q.fd)
		if err == nil && n > 0 {
			c.Answered++
		} else if err != nil && !transient(err) {
			failed = fmt.Errorf("await an answer: %w", err)
		}
	}
	return failed
}

// transient tells the errors that a full table or a lost packet causes from
// mistakes of the generator.
func transient(err error) bool {
	for _, errno := range []unix.Errno{unix.EPERM, unix.ETIMEDOUT, unix.EAGAIN, unix.EINTR, unix.EINPROGRESS,
		unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, unix.EADDRINUSE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
}
