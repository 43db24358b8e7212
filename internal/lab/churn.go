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
	Refused  int // of which the client's own kernel refused to send or connect
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

// churnBatch is how many exchanges are in flight together.
const churnBatch = 32

func (h *Host) churn(ctx context.Context, proto ct.Proto, target netip.AddrPort, sources netip.Prefix, load Load) (Churned, error) {
	p, err := newPace(ctx, load)
	if err != nil {
		return Churned{}, err
	}
	var c Churned
	err = h.Do(func() error {
		var batch []int
		for i := 0; p.next(i); i++ {
			fd, err := ask(spread(proto, sources, target, i), i)
			c.Asked++
			switch {
			case err == nil:
				batch = append(batch, fd)
			case transient(err):
				c.Refused++
			default:
				return errors.Join(err, c.gather(batch))
			}
			if p.breath(i) || len(batch) == churnBatch {
				if err := c.gather(batch); err != nil {
					return err
				}
				batch = batch[:0]
			}
		}
		return c.gather(batch)
	})
	c.Elapsed = time.Since(p.start)
	return c, err
}

// transient tells the errors that a full table or a lost packet causes from
// mistakes of the generator.
func transient(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.ETIMEDOUT) || errors.Is(err, unix.EAGAIN) ||
		errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.ECONNREFUSED) ||
		errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EADDRINUSE)
}

const patience = 250 * time.Millisecond

// ask begins the exchange that a tuple describes and returns its socket.
func ask(t ct.Tuple, i int) (int, error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if !t.Is4() {
		family = unix.AF_INET6
	}
	question := []byte{1}
	if t.Proto == ct.UDP {
		kind, question = unix.SOCK_DGRAM, dnsQuery(uint16(i))
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err = begin(fd, t, question); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func begin(fd int, t ct.Tuple, question []byte) error {
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait))
	if err != nil {
		return fmt.Errorf("socket options: %w", err)
	}
	if err := unix.Bind(fd, sockaddr(t.Src, t.SrcPort)); err != nil {
		return fmt.Errorf("bind to %s port %d: %w", t.Src, t.SrcPort, err)
	}
	if err := unix.Connect(fd, sockaddr(t.Dst, t.DstPort)); err != nil {
		return fmt.Errorf("connect %s: %w", t, err)
	}
	if _, err := unix.Write(fd, question); err != nil {
		return fmt.Errorf("send %s: %w", t, err)
	}
	return nil
}

// gather waits for the answers and closes the sockets.
func (c *Churned) gather(batch []int) error {
	var buf [512]byte
	var failed error
	for _, fd := range batch {
		n, err := unix.Read(fd, buf[:])
		if err == nil && n > 0 {
			c.Answered++
		} else if err != nil && !transient(err) && failed == nil {
			failed = fmt.Errorf("await an answer: %w", err)
		}
		unix.Close(fd)
	}
	return failed
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
}
