package survival

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// alive counts connections that were open before the attack.
type alive struct {
	Held  int `json:"held"`
	Alive int `json:"alive"`
}

func (a alive) plus(b alive) alive { return alive{a.Held + b.Held, a.Alive + b.Alive} }

// talkers are connections on which a byte goes to and fro at an interval.
type talkers struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
	alive  []bool // at the end
}

// talk starts the conversations. A connection breaks on an error; lossy ones
// are only late when a message gets lost.
func talk(conns []net.Conn, interval time.Duration, lossy bool) *talkers {
	ctx, cancel := context.WithCancel(context.Background())
	k := &talkers{cancel: cancel, alive: make([]bool, len(conns))}
	for i, c := range conns {
		k.all.Go(func() {
			defer c.Close()
			pause := interval * time.Duration(i) / time.Duration(len(conns))
			for ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
				pause = interval
				if err := echo(c, interval, lossy); err != nil && !lossy {
					return
				}
			}
			// The last word decides; a lost datagram is asked for again.
			for n := 0; n < 3 && !k.alive[i]; n++ {
				k.alive[i] = echo(c, time.Second, lossy) == nil
			}
		})
	}
	return k
}

// stop has every connection talk once more and says how many still do.
func (k *talkers) stop() alive {
	k.cancel()
	k.all.Wait()
	a := alive{Held: len(k.alive)}
	for _, ok := range k.alive {
		if ok {
			a.Alive++
		}
	}
	return a
}

func echo(c net.Conn, interval time.Duration, lossy bool) error {
	wait := 5 * time.Second
	if lossy {
		wait = interval
	}
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	var b [16]byte
	_, err := c.Read(b[:])
	return err
}

// readers take bulk transfers slowly, so that the sender always has data that
// waits to be acknowledged or for a window.
type readers struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
	bytes  []atomic.Int64
}

var smallBuffer = lab.SocketOption{Level: syscall.SOL_SOCKET, Name: syscall.SO_RCVBUF, Value: 32 << 10}

func readSlowly(conns []net.Conn) *readers {
	ctx, cancel := context.WithCancel(context.Background())
	r := &readers{cancel: cancel, bytes: make([]atomic.Int64, len(conns))}
	for i, c := range conns {
		r.all.Go(func() {
			defer c.Close()
			buf := make([]byte, 8<<10)
			for ctx.Err() == nil {
				if c.SetDeadline(time.Now().Add(5*time.Second)) != nil {
					return
				}
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				r.bytes[i].Add(int64(n))
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	return r
}

// stop watches for a while which transfers still move.
func (r *readers) stop() alive {
	a := alive{Held: len(r.bytes)}
	before := make([]int64, len(r.bytes))
	for i := range r.bytes {
		before[i] = r.bytes[i].Load()
	}
	for range 20 {
		time.Sleep(100 * time.Millisecond)
		a.Alive = 0
		for i := range r.bytes {
			if r.bytes[i].Load() > before[i] {
				a.Alive++
			}
		}
		if a.Alive == a.Held {
			break
		}
	}
	r.cancel()
	r.all.Wait()
	return a
}

// silent are connections that say nothing until the end.
type silent struct {
	near []net.Conn // the side that connected
	mu   sync.Mutex
	far  map[uint32]net.Conn // the side that accepted, by number
	over func()              // lets the accepting side's functions return
	done <-chan struct{}
}

// holdSilent opens n connections from one host to another, each with one
// exchange that numbers it.
func holdSilent(t testing.TB, from, to *lab.Host, target netip.AddrPort, sources netip.Prefix, n int) (*silent, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &silent{far: make(map[uint32]net.Conn), over: cancel, done: ctx.Done()}
	to.ServeTCP(target.Port(), s.accept)
	t.Cleanup(cancel)
	var err error
	if s.near, err = from.Connect(ctx, target, sources, n); err != nil {
		return nil, err
	}
	for i, c := range s.near {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write(binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
			return nil, fmt.Errorf("silent connection %d: %w", i, err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return nil, fmt.Errorf("silent connection %d: %w", i, err)
		}
	}
	return s, nil
}

func (s *silent) accept(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetKeepAlive(false) // it would not be silent
	}
	var id [4]byte
	if _, err := io.ReadFull(c, id[:]); err != nil {
		return
	}
	s.mu.Lock()
	s.far[binary.BigEndian.Uint32(id[:])] = c
	s.mu.Unlock()
	if _, err := c.Write([]byte{1}); err != nil {
		return
	}
	// What is heard is remembered by who waits for it: the connection lives as
	// long as this function.
	<-s.done
}

// tuples are the original directions of the connections, as their own side
// sees them.
func (s *silent) tuples() (list []ct.Tuple) {
	for _, c := range s.near {
		from, to := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
		list = append(list, ct.Tuple{Proto: ct.TCP, Src: from.Addr(), SrcPort: from.Port(), Dst: to.Addr(), DstPort: to.Port()})
	}
	return list
}

func addrPort(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// speak has every connection say one thing, the accepting side on those for
// which farFirst says so, and counts those that hear it: the fresh and the aged.
func (s *silent) speak(farFirst func(i int) bool) (heard [2]alive) {
	defer s.over()
	var lives [2]atomic.Int64
	var all sync.WaitGroup
	for i, near := range s.near {
		kind := 0
		if old(i) {
			kind = 1
		}
		heard[kind].Held++
		s.mu.Lock()
		speaker, hearer := near, s.far[uint32(i)]
		s.mu.Unlock()
		if hearer == nil {
			continue
		}
		if farFirst(i) {
			speaker, hearer = hearer, speaker
		}
		all.Go(func() {
			deadline := time.Now().Add(5 * time.Second)
			_ = speaker.SetDeadline(deadline)
			_ = hearer.SetDeadline(deadline)
			if _, err := speaker.Write([]byte{2}); err != nil {
				return
			}
			if _, err := io.ReadFull(hearer, make([]byte, 1)); err == nil {
				lives[kind].Add(1)
			}
		})
	}
	all.Wait()
	for kind := range heard {
		heard[kind].Alive = int(lives[kind].Load())
	}
	return heard
}
