package ctnl

import (
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// pipeFrom is the number of entries from which a second thread pays.
	pipeFrom = 32_768
	// blockRoom is more than the kernel puts into one block of a dump
	// (netlink_dump in net/netlink/af_netlink.c).
	blockRoom = 32 << 10
	// segmentLen and segments bound the memory of a pipe. A segment holds several
	// hundred entries, so that waking its reader counts for little.
	segmentLen = 128 << 10
	segments   = 3
)

// source yields the blocks of messages of one answer, each valid until the
// next.
type source interface {
	next() ([]byte, error)
	// stop ends the reading; the socket may be used again after it.
	stop()
}

// turns receives and hands over in turns.
type turns struct{ c *Conn }

func (s turns) next() ([]byte, error) { return s.c.receive() }
func (turns) stop()                   {}

// source chooses how to receive a dump. The kernel composes it inside recvfrom:
// a thread that does nothing else has it working all the time, while another
// decodes. That pays for large tables, and where there are two processors.
func (r *reading) source() source {
	if r.q.Serial || r.q.Limit > 0 || r.sum.CountBefore < pipeFrom || runtime.GOMAXPROCS(0) < 2 {
		return turns{r.c}
	}
	return newPipe(r.c.fd)
}

// pipe receives on a goroutine of its own, into a few segments that are used
// again and again.
type pipe struct {
	fd         int
	free, full chan *segment
	quit       atomic.Bool
	cur        *segment
	block, at  int // what of cur has been handed over
}

// segment is a number of blocks one behind the other, and the error that ended
// the receiving behind them.
type segment struct {
	buf  []byte
	ends []int
	err  error
}

func newPipe(fd int) *pipe {
	p := &pipe{fd: fd, free: make(chan *segment, segments), full: make(chan *segment, segments)}
	for range segments {
		p.free <- &segment{buf: make([]byte, segmentLen), ends: make([]int, 0, segmentLen/blockRoom)}
	}
	go p.receive()
	return p
}

func (p *pipe) receive() {
	defer close(p.full)
	var from unix.RawSockaddrNetlink
	for s := range p.free {
		if p.quit.Load() {
			return
		}
		p.fill(s, &from)
		p.full <- s
		if s.err != nil {
			return
		}
	}
}

func (p *pipe) fill(s *segment, from *unix.RawSockaddrNetlink) {
	s.ends, s.err = s.ends[:0], nil
	for n := 0; len(s.ends) < cap(s.ends) && !p.quit.Load(); {
		b, err := recvFrom(p.fd, s.buf[n:n+blockRoom], from)
		if err != nil {
			s.err = err
			return
		}
		n += len(b)
		s.ends = append(s.ends, n)
	}
}

func (p *pipe) next() ([]byte, error) {
	for p.cur == nil || p.block == len(p.cur.ends) {
		if p.cur != nil {
			if p.cur.err != nil {
				return nil, p.cur.err
			}
			p.free <- p.cur
		}
		p.cur, p.block, p.at = <-p.full, 0, 0
	}
	end := p.cur.ends[p.block]
	b := p.cur.buf[p.at:end]
	p.block, p.at = p.block+1, end
	return b, nil
}

// stop waits for the receive under way, if any.
func (p *pipe) stop() {
	p.quit.Store(true)
	close(p.free)
	for range p.full {
	}
}
