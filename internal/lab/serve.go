package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// ServeTCP accepts connections on a port of both families and hands each to
// handle in a goroutine of its own. Listener and connections are closed when
// the test ends.
func (h *Host) ServeTCP(port uint16, handle func(net.Conn)) {
	h.t.Helper()
	var ln net.Listener
	err := h.Do(func() (err error) {
		// Without keepalives, so that a silent connection is one.
		ln, err = (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		h.t.Fatalf("lab: %s: serve port %d: %v", h.Name, port, err)
	}
	s := &connections{open: make(map[net.Conn]bool)}
	go s.accept(ln, handle)
	h.t.Cleanup(func() {
		ln.Close()
		s.close()
	})
}

// connections are those that a server has accepted.
type connections struct {
	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
	all    sync.WaitGroup
}

func (s *connections) accept(ln net.Listener, handle func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		if !s.add(c) {
			c.Close()
			return
		}
		go func() {
			defer s.remove(c)
			handle(c)
		}()
	}
}

func (s *connections) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[c] = true
	s.all.Add(1)
	return true
}

func (s *connections) remove(c net.Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	s.all.Done()
}

func (s *connections) close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.all.Wait()
}

// Echo is a handler that sends back what it reads.
func Echo(c net.Conn) {
	var buf [512]byte
	for {
		n, err := c.Read(buf[:])
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// Discard is a handler that reads and forgets.
func Discard(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// Flow is a handler that sends as much as the peer takes.
func Flow(c net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// ServeDNS answers every datagram on a UDP port of both families that looks
// like a DNS query with the same message, marked as an answer: all that
// connection tracking sees of a resolver.
func (h *Host) ServeDNS(port uint16) {
	h.t.Helper()
	h.serveUDP(port, func(query []byte) []byte {
		if len(query) < 12 {
			return nil
		}
		query[2] |= 0x80 // QR
		return query
	})
}

// ServeUDP sends every datagram on a UDP port of both families back.
func (h *Host) ServeUDP(port uint16) {
	h.t.Helper()
	h.serveUDP(port, func(data []byte) []byte { return data })
}

func (h *Host) serveUDP(port uint16, answer func([]byte) []byte) {
	h.t.Helper()
	// A socket bound to no address might answer from another than was asked.
	for _, addr := range []netip.Addr{h.Addr4, h.Addr6} {
		at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port))
		var conn *net.UDPConn
		err := h.Do(func() (err error) {
			if conn, err = net.ListenUDP("udp", at); err == nil {
				err = conn.SetReadBuffer(4 << 20)
			}
			return err
		})
		if err != nil {
			h.t.Fatalf("lab: %s: serve UDP on %s: %v", h.Name, at, err)
		}
		go answerUDP(conn, answer)
		h.t.Cleanup(func() { conn.Close() })
	}
}

func answerUDP(conn *net.UDPConn, answer func([]byte) []byte) {
	var buf [2048]byte
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			return
		}
		if reply := answer(buf[:n]); reply != nil {
			_, _ = conn.WriteToUDPAddrPort(reply, from)
		}
	}
}

// dnsQuery is a query for the address of example.org, RFC 1035 section 4.1.
func dnsQuery(id uint16) []byte {
	q := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0,
		7, 'e', 'x', 'a', 'm', 'p', 'l', 'e', 3, 'o', 'r', 'g', 0, 0, 1, 0, 1}
	binary.BigEndian.PutUint16(q, id)
	return q
}

// Connect opens n TCP connections to a target, the i-th from the address
// [Nth](sources, i) modulo their number. They are closed when the test ends.
func (h *Host) Connect(ctx context.Context, target netip.AddrPort, sources netip.Prefix, n int, options ...SocketOption) ([]net.Conn, error) {
	var conns []net.Conn
	h.t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	err := h.Do(func() error {
		for i := range n {
			if err := ctx.Err(); err != nil {
				return err
			}
			c, err := dial(ctx, target, Nth(sources, uint32(i)%size(sources)), 10*time.Second, options)
			if err != nil {
				return fmt.Errorf("connection %d of %d: %w", i+1, n, err)
			}
			conns = append(conns, c)
		}
		return nil
	})
	return conns, err
}

// ConnectUDP opens n UDP sockets towards a target, from addresses as
// [Host.Connect] takes them; they send nothing by themselves. With [Chat] they
// become streams, as QUIC and WireGuard are.
func (h *Host) ConnectUDP(target netip.AddrPort, sources netip.Prefix, n int) ([]net.Conn, error) {
	var conns []net.Conn
	h.t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	err := h.Do(func() error {
		for i := range n {
			from := netip.AddrPortFrom(Nth(sources, uint32(i)%size(sources)), 0)
			c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(target))
			if err != nil {
				return fmt.Errorf("socket %d of %d: %w", i+1, n, err)
			}
			conns = append(conns, c)
		}
		return nil
	})
	return conns, err
}

// SocketOption is an integer option of a socket, set before it connects.
type SocketOption struct{ Level, Name, Value int }

// SmallWindow keeps a receiver's buffer, and so its window, at the least that
// the kernel allows.
var SmallWindow = SocketOption{syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1}

// Dial opens one connection from an address of the host. It is the caller's to
// close.
func (h *Host) Dial(ctx context.Context, target netip.AddrPort, source netip.Addr, timeout time.Duration) (c net.Conn, err error) {
	err = h.Do(func() (err error) {
		c, err = dial(ctx, target, source, timeout, nil)
		return err
	})
	return c, err
}

func dial(ctx context.Context, target netip.AddrPort, source netip.Addr, timeout time.Duration, options []SocketOption) (net.Conn, error) {
	d := net.Dialer{
		Timeout:   timeout,
		KeepAlive: -1,
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0)),
		Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			ctlErr := raw.Control(func(fd uintptr) {
				for _, o := range options {
					if e := syscall.SetsockoptInt(int(fd), o.Level, o.Name, o.Value); e != nil {
						err = e
					}
				}
			})
			if ctlErr != nil {
				return ctlErr
			}
			return err
		},
	}
	return d.DialContext(ctx, "tcp", target.String())
}
