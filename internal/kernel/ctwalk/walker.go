package ctwalk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
)

var native = binary.NativeEndian

// ErrUnsteady says that a bucket could not be read to its end: its chain is
// longer than a run takes, or changes faster.
var ErrUnsteady = errors.New("a bucket of the table could not be read whole")

// Query says what to read.
type Query struct {
	// Netns is a namespace as netns.Path understands it, "" the caller's.
	Netns string
	// NetnsInode, if it is not 0, is the inode number that the namespace must have.
	NetnsInode uint64
	// Status and StatusMask, Mark and MarkMask match entries as in ctnetlink:
	// value & mask == wanted. Family is unix.AF_INET or AF_INET6, 0 for both.
	Status, StatusMask ct.Status
	Mark, MarkMask     uint32
	Family             uint8
	// Orig matches the original tuple.
	Orig TupleQuery
	// IDs asks for ids. LearnIDs must have succeeded.
	IDs bool
	// SecCtx completes a flow that has a security mark: only the kernel's
	// security module can tell its text.
	SecCtx func(*ct.Flow) error
}

// Summary says how a walk went.
type Summary struct {
	Entries int // given to the callback
	// Expired counts entries that were over and not yet removed: they count
	// against the limit, and no other reader shows them.
	Expired int
	// Changed counts entries that became another flow's while they were read,
	// or were removed.
	Changed int
	// Again counts buckets begun anew because an entry moved away under the walk.
	Again int
	// Resized is set where the hash table was replaced meanwhile: any number of
	// entries may be missing.
	Resized bool
	Stopped bool
	Buckets uint32
}

// Walker holds the programs. One walk at a time.
type Walker struct {
	layout *layout
	rec    record
	progs  *programs
	mem    []byte
	where  where
	hz     uint64

	buckets *os.File
	number  [24]byte // what was read of it

	mu      sync.Mutex // of a walk
	peekMu  sync.Mutex
	helpers map[uint64]string
	seed    *seed    // once ids are known to be told right
	noIDs   error    // why they are not
	same    []uint64 // entries of the bucket that is being decoded
}

// Open loads the programs. It says what is missing where it cannot.
func Open() (*Walker, error) {
	t, err := loadTypes()
	if err != nil {
		return nil, err
	}
	w := &Walker{helpers: make(map[uint64]string)}
	if w.layout, err = readLayout(t); err != nil {
		return nil, err
	}
	w.rec = w.layout.record()
	if w.hz, err = tick(); err != nil {
		return nil, err
	}
	if w.progs, err = loadPrograms(w.layout); err != nil {
		return nil, err
	}
	w.mem, err = unix.Mmap(w.progs.slots.FD(), 0, slotSize*slotCount, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		w.progs.close()
		return nil, fmt.Errorf("map BPF map: %w", err)
	}
	if w.buckets, err = os.Open(procBuckets); err == nil {
		w.where, err = w.search()
	}
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	return w, nil
}

// Close frees the programs and their memory.
func (w *Walker) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := unix.Munmap(w.mem)
	w.progs.close()
	if w.buckets != nil {
		_ = w.buckets.Close()
	}
	return err
}

// tick returns the kernel's HZ: its coarse clocks advance once a jiffy.
func tick() (uint64, error) {
	var res unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &res); err != nil || res.Nano() <= 0 {
		return 0, fmt.Errorf("find the kernel's HZ: %w", err)
	}
	return uint64((1e9 + res.Nano()/2) / res.Nano()), nil
}

func (w *Walker) slot(i int) []byte { return w.mem[i*slotSize : (i+1)*slotSize] }

func word(slot []byte, at int) uint64       { return native.Uint64(slot[at:]) }
func setWord(slot []byte, at int, v uint64) { native.PutUint64(slot[at:], v) }

// peek reads kernel memory. The result is a copy.
func (w *Walker) peek(address uint64, n int) ([]byte, error) {
	w.peekMu.Lock()
	defer w.peekMu.Unlock()
	b, err := w.look(address, n)
	return append([]byte(nil), b...), err
}

func (w *Walker) peek64(address uint64) (uint64, error) {
	w.peekMu.Lock()
	defer w.peekMu.Unlock()
	b, err := w.look(address, 8)
	if err != nil {
		return 0, err
	}
	return native.Uint64(b), nil
}

// look is peek with the lock held; the result is valid while it is.
func (w *Walker) look(address uint64, n int) ([]byte, error) {
	s := w.slot(peekSlot)
	setWord(s, wPeekAddr, address)
	setWord(s, wPeekLen, uint64(n))
	if err := run(w.progs.peek, peekSlot); err != nil {
		return nil, fmt.Errorf("run BPF program: %w", err)
	}
	if word(s, wState) != stateGoing {
		return nil, fmt.Errorf("kernel memory at %#x cannot be read", address)
	}
	return s[words : words+n], nil
}

// task returns the address of the calling thread's struct task_struct.
func (w *Walker) task() (uint64, error) {
	w.peekMu.Lock()
	defer w.peekMu.Unlock()
	s := w.slot(peekSlot)
	setWord(s, wPeekLen, 0)
	if err := run(w.progs.peek, peekSlot); err != nil {
		return 0, fmt.Errorf("run BPF program: %w", err)
	}
	return word(s, wTask), nil
}

// Walk reads the table and calls fn with every entry of the namespace that
// passes the filter; with its id if IDs asks for it. The Flow is overwritten by
// the next one.
//
// Entries that stay while the walk lasts are in it once; those that come and go
// meanwhile may be in it or not.
func (w *Walker) Walk(ctx context.Context, q Query, fn func(*ct.Flow) error) (Summary, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if q.IDs && w.seed == nil {
		return Summary{}, ErrNoIDs
	}
	s, err := w.walk(ctx, &q, fn)
	if err != nil {
		return s, fmt.Errorf("walk the connection tracking table: %w", err)
	}
	return s, nil
}

func (w *Walker) walk(ctx context.Context, q *Query, fn func(*ct.Flow) error) (Summary, error) {
	return w.walkRecords(ctx, q, fn, nil)
}

// walkRecords is walk; see, if it is not nil, gets each record before fn is
// called with what it says.
func (w *Walker) walkRecords(ctx context.Context, q *Query, fn func(*ct.Flow) error, see func([]byte)) (s Summary, err error) {
	net, inode, err := w.namespace(q.Netns)
	if err != nil {
		return s, err
	}
	if q.NetnsInode != 0 && q.NetnsInode != inode {
		return s, fmt.Errorf("network namespace %q has changed", q.Netns)
	}
	p := &progress{w: w, q: q, net: net}
	q.Orig.bits(&w.layout.tuple, p.mask[:], p.tuple[:])
	if p.table, err = w.locate(q.Netns); err != nil {
		return s, err
	}
	s.Buckets = uint32(p.table.buckets)
	out := p.start()
	defer p.stop()
	d := decoder{w: w, q: q, fn: fn, see: see, sum: &s}
	for r := range out {
		s.Resized = s.Resized || r.resized
		s.Again, s.Changed = s.Again+r.again, s.Changed+r.changed
		if r.err != nil {
			return s, r.err
		}
		err := d.records(w.slot(r.slot)[words:words+r.used], r.jiffies)
		p.free <- r.slot
		switch {
		case errors.Is(err, ErrStop):
			s.Stopped = true
			return s, nil
		case err != nil:
			return s, err
		case ctx.Err() != nil:
			s.Stopped = true
			return s, ctx.Err()
		}
	}
	return s, nil
}

// ErrStop, returned by a callback, ends the walk early and without error.
var ErrStop = errors.New("stop")
