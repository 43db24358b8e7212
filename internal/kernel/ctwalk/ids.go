package ctwalk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/dchest/siphash"

	"github.com/ctwarden/ctwarden/ct"
)

// seed is the key that the kernel hashes ids with (ct_id_seed in nf_ct_get_id).
type seed struct{ k0, k1 uint64 }

const (
	symbolID = "nf_ct_get_id"
	// idCode is how much of the function is looked through.
	idCode = 512
	// idSamples entries must all get the id from a seed that ctnetlink says they
	// have. By chance one in 2^32 does for one.
	idSamples = 8
)

// ErrNoIDs says that ids cannot be told by walking.
var ErrNoIDs = errors.New("ids cannot be told without asking ctnetlink")

// LearnIDs makes later walks tell ids, which are a hash of an entry's address
// and tuple with a key of the kernel's. ask returns the id that ctnetlink gives
// an entry, false if it has gone.
//
// The key lies where the instructions of nf_ct_get_id point to. Which of the
// places they point to it is, is found by trying: it is the one that gives
// entries the ids that they have. On processors other than x86-64 nobody looks.
func (w *Walker) LearnIDs(ctx context.Context, q Query, ask func(*ct.Flow) (uint32, bool, error)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seed != nil {
		return nil
	}
	if w.noIDs != nil {
		return w.noIDs
	}
	err := w.learnIDs(ctx, &q, ask)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNoIDs, err)
		w.noIDs = err
	}
	return err
}

func (w *Walker) learnIDs(ctx context.Context, q *Query, ask func(*ct.Flow) (uint32, bool, error)) error {
	if runtime.GOARCH != "amd64" {
		return errors.New("not known where they are made on " + runtime.GOARCH)
	}
	code, err := w.idFunction()
	if err != nil {
		return err
	}
	samples, err := w.sampleIDs(ctx, q, ask)
	if err != nil {
		return err
	}
	if len(samples) < idSamples {
		return errors.New("too few entries to be sure")
	}
	tried := make(map[uint64]bool)
	for i := 0; i+4 <= len(code.bytes); i++ {
		v := uint64(int64(int32(native.Uint32(code.bytes[i:]))))
		// An immediate address, or one relative to the next instruction, which
		// begins behind the offset, or one or four bytes after.
		next := code.address + uint64(i) + 4
		for _, at := range []uint64{v, next + v, next + 1 + v, next + 4 + v} {
			if tried[at] || at>>47 != 1<<17-1 { // no kernel address
				continue
			}
			tried[at] = true
			if s, ok := w.trySeed(at, samples); ok {
				w.seed = &s
				return nil
			}
		}
	}
	return errors.New("the kernel's key was not found")
}

// idSymbol is where nf_ct_get_id begins. Reading through /proc/kallsyms takes the
// kernel 60 ms.
var idSymbol = sync.OnceValues(func() (uint64, error) { return symbol(symbolID) })

// FindIDs begins with what takes the longest of [Walker.LearnIDs].
func FindIDs() { _, _ = idSymbol() }

type machineCode struct {
	address uint64
	bytes   []byte
}

func (w *Walker) idFunction() (f machineCode, err error) {
	if f.address, err = idSymbol(); err != nil {
		return f, err
	}
	for at := 0; at < idCode; at += peekMax {
		b, err := w.peek(f.address+uint64(at), peekMax)
		if err != nil {
			return f, err
		}
		f.bytes = append(f.bytes, b...)
	}
	return f, nil
}

// sample is an entry as it lies in memory, and its id.
type sample struct {
	record []byte
	id     uint32
}

// sampleIDs takes the first entries of the table.
func (w *Walker) sampleIDs(ctx context.Context, q *Query, ask func(*ct.Flow) (uint32, bool, error)) (all []sample, err error) {
	var last []byte
	_, err = w.walkRecords(ctx, q, func(f *ct.Flow) error {
		id, ok, err := ask(f)
		if err != nil {
			return err
		}
		if ok {
			all = append(all, sample{last, id})
		}
		if len(all) == idSamples {
			return ErrStop
		}
		return nil
	}, func(r []byte) { last = append([]byte(nil), r...) })
	return all, err
}

func (w *Walker) trySeed(at uint64, samples []sample) (seed, bool) {
	b, err := w.peek(at, 16)
	if err != nil {
		return seed{}, false
	}
	s := seed{native.Uint64(b), native.Uint64(b[8:])}
	for _, c := range samples {
		if w.id(s, c.record) != c.id {
			return seed{}, false
		}
	}
	return s, true
}

// id is nf_ct_get_id on 64 bits. ctnetlink sends it as it lies in memory, and
// everybody reads it in network order.
func (w *Walker) id(s seed, r []byte) uint32 {
	c := &w.layout.conn
	e := r[w.rec.conn:]
	orig := c.hash + w.layout.tuple.at
	var b [32]byte
	native.PutUint64(b[:], word(r, rConn))
	native.PutUint64(b[8:], word(e, c.master))
	native.PutUint64(b[16:], word(e, c.net))
	native.PutUint64(b[24:], siphash.Hash(s.k0, s.k1, e[orig:orig+w.layout.tuple.size]))
	var id [4]byte
	native.PutUint32(id[:], uint32(siphash.Hash(s.k0, s.k1, b[:])))
	return binary.BigEndian.Uint32(id[:])
}
