package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Moved is what the generators of long connections count.
type Moved struct {
	Bytes    int64 // received by the clients
	Messages int64 // answered, of interactive connections
	Broken   int   // connections that ended before the generator did
}

// Drain reads from connections as fast as data comes until ctx ends, as bulk
// downloads do, and then closes them.
func Drain(ctx context.Context, conns []net.Conn) (Moved, error) {
	var bytes atomic.Int64
	broken := together(ctx, conns, func(c net.Conn) error {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			bytes.Add(int64(n))
			if err != nil {
				return err
			}
		}
	})
	return Moved{Bytes: bytes.Load(), Broken: broken}, nil
}

// Upload writes to connections as fast as the peer takes it until ctx ends, and
// then closes them. The bytes counted are those sent.
func Upload(ctx context.Context, conns []net.Conn) (Moved, error) {
	var bytes atomic.Int64
	broken := together(ctx, conns, func(c net.Conn) error {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Write(buf)
			bytes.Add(int64(n))
			if err != nil {
				return err
			}
		}
	})
	return Moved{Bytes: bytes.Load(), Broken: broken}, nil
}

// Chat sends a byte on each connection and waits for the echo, once in every
// interval, until ctx ends. One goroutine goes round all connections, so that
// thousands cost little.
func Chat(ctx context.Context, conns []net.Conn, interval time.Duration) (Moved, error) {
	var m Moved
	alive := append([]net.Conn(nil), conns...)
	for len(alive) > 0 && ctx.Err() == nil {
		round := time.Now()
		alive = m.goRound(ctx, alive)
		select {
		case <-ctx.Done():
		case <-time.After(interval - time.Since(round)):
		}
	}
	return m, nil
}

// goRound talks once on each connection and returns those that still work.
func (m *Moved) goRound(ctx context.Context, conns []net.Conn) []net.Conn {
	alive := conns[:0]
	for i, c := range conns {
		if ctx.Err() != nil {
			return append(alive, conns[i:]...)
		}
		switch err := say(c); {
		case err == nil:
			m.Messages++
			m.Bytes++
			alive = append(alive, c)
		case errors.Is(err, os.ErrDeadlineExceeded):
			alive = append(alive, c)
		default:
			m.Broken++
			c.Close()
		}
	}
	return alive
}

func say(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	var b [1]byte
	_, err := io.ReadFull(c, b[:])
	return err
}

// together runs f on every connection until ctx ends, closes them all, and
// returns on how many f ended of its own accord.
func together(ctx context.Context, conns []net.Conn, f func(net.Conn) error) (broken int) {
	var wg sync.WaitGroup
	var early atomic.Int64
	for _, c := range conns {
		wg.Go(func() {
			_ = f(c)
			if ctx.Err() == nil {
				early.Add(1)
			}
		})
	}
	<-ctx.Done()
	for _, c := range conns {
		c.Close()
	}
	wg.Wait()
	return int(early.Load())
}

// Throttle limits what leaves the host by its cable to a rate, holding back up
// to a quarter of a second of it in a queue behind connection tracking: what
// a slow line does to bulk transfers, whose data is then always waiting to be
// acknowledged. It reports whether this kernel has the queue.
func (h *Host) Throttle(megabits int) bool {
	h.t.Helper()
	_, err := h.TryExec("tc", "qdisc", "add", "dev", h.Dev, "root", "tbf",
		"rate", fmt.Sprintf("%dmbit", megabits), "burst", "128kb", "latency", "250ms")
	return err == nil
}

// Lose makes the host lose a share of the packets that come to it from a TCP
// port and that it sends there, before and after anything else sees them.
func (h *Host) Lose(percent int, port uint16) {
	h.t.Helper()
	h.NFT(fmt.Sprintf(`table inet ctwlabloss {
	chain in { type filter hook prerouting priority -450; tcp sport %[2]d numgen random mod 100 < %[1]d drop; }
	chain out { type filter hook postrouting priority 450; tcp dport %[2]d numgen random mod 100 < %[1]d drop; }
}`, percent, port))
}
