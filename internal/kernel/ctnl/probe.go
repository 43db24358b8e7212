package ctnl

import (
	"context"
	"errors"
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
)

// probeKeys is how many entries are asked for at once. Each answer takes some 5
// KiB of the receive buffer, which may be as small as net.core.rmem_max.
const probeKeys = 64

// Probe asks for entries by their keys, many at a time. That costs by the entry
// asked for, not by the size of the table, and has the kernel remove those that
// have expired (____nf_conntrack_find).
type Probe struct {
	c    *Conn
	fn   func(*ct.Flow) error
	keys []Key
	flow ct.Flow
	// anyID takes what has the tuple, whatever its id: for keys made of entries
	// that were seen without one.
	anyID bool
}

// NewProbe returns a Probe that calls fn with every entry that is still there,
// and not with another that has taken its place. Flow and errors of fn are as
// with Dump, except that there is no ErrStop.
func (c *Conn) NewProbe(fn func(*ct.Flow) error) *Probe {
	return &Probe{c: c, fn: fn, keys: make([]Key, 0, probeKeys)}
}

// Ask asks for one entry. Answers come during later calls; Flush waits for the
// last.
func (p *Probe) Ask(ctx context.Context, k Key) error {
	if !k.valid() {
		return errNoKey
	}
	if len(p.keys) == probeKeys {
		if err := errors.Join(ctx.Err(), p.Flush()); err != nil {
			return err
		}
	}
	p.keys = append(p.keys, k)
	return nil
}

// Flush sends what has been asked for and hears the answers.
func (p *Probe) Flush() error {
	if len(p.keys) == 0 {
		return nil
	}
	defer func() { p.keys = p.keys[:0] }()
	if err := p.c.ready(); err != nil {
		return err
	}
	first := p.c.nextSeq(probeKeys)
	e := encoder{p.c.out[:0]}
	for i := range p.keys {
		k := &p.keys[i]
		orig := k.Orig()
		start := e.begin(subsysCT, ctGet, 0, first+uint32(i), family(orig))
		e.names(orig, k.zone, k.zoneOrig)
		e.end(start)
	}
	p.c.out = e.b
	p.c.dec.unknown = nil
	err := p.c.send(e.b)
	for n := 0; n < len(p.keys) && err == nil; {
		var block []byte
		if block, err = p.c.receive(); err == nil {
			n, err = p.answers(block, first, n)
		}
	}
	if err != nil {
		p.c.stale = true // answers may still wait
		return fmt.Errorf("ask for %d entries: %w", len(p.keys), err)
	}
	return nil
}

// answers deals with the answers in a block and returns how many have come.
func (p *Probe) answers(block []byte, first uint32, n int) (int, error) {
	for len(block) > 0 {
		m, rest, err := nextMessage(block)
		if err != nil {
			return n, err
		}
		block = rest
		i := m.seq - first
		if int64(i) >= int64(len(p.keys)) {
			continue
		}
		n++
		if err := p.answer(m, &p.keys[i]); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (p *Probe) answer(m message, k *Key) error {
	if m.typ == nlmsgError {
		if err := m.errno(); !errors.Is(err, ErrNotFound) {
			return err
		}
		return nil
	}
	a, _, err := m.attrs()
	if err != nil {
		return err
	}
	if err := p.c.dec.entry(a, &p.flow); err != nil {
		return err
	}
	if !p.anyID && p.flow.ID != k.id {
		return nil
	}
	return p.fn(&p.flow)
}
