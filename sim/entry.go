package sim

import (
	"github.com/ctwarden/ctwarden/ct"
)

// Directions of a flow.
const (
	orig  = 0
	reply = 1
)

// entry is one flow, 96 bytes without pointers: what a walk along a chain looks
// at lies in the first 32, within one line of the cache, what the trackers
// remember in the others. What IPv4 flows without NAT do not need lies in a side
// record.
type entry struct {
	src, dst uint32 // IPv4: the original tuple's. With a side record: the hashes of the keys by direction
	ports    uint32
	meta     uint32 // the original tuple's, and metaSide
	// next are the links in the chains of the two directions. A link is the
	// entry's number twice plus the direction; 0 ends the chain.
	next     [2]int32
	deadline uint32 // in jiffies, relative until confirmation
	status   uint16 // low bits of ct.Status
	state    uint8
	tag      uint8

	track track
	side  int32 // number of the side record, 0 for none
}

// metaSide marks an entry with a side record. No key has it.
const metaSide = 1 << 9

// side holds both tuples of a flow with IPv6, NAT or zones by direction.
type side struct {
	keys    [2]key
	srcNext int32 // chain of NAT mappings by original source
	free    int32
}

func (e *entry) proto() ct.Proto         { return ct.Proto(e.meta) }
func (e *entry) has(s ct.Status) bool    { return ct.Status(e.status)&s != 0 }
func (e *entry) set(s ct.Status)         { e.status |= uint16(s) }
func (e *entry) isIPv6() bool            { return e.meta&metaIPv6 != 0 }
func (e *entry) expired(now uint32) bool { return int32(e.deadline-now) <= 0 }

// refresh gives the entry a new timeout in jiffies (nf_ct_refresh_acct).
func (e *entry) refresh(now, timeout uint32) {
	if e.has(ct.StatusFixedTimeout) {
		return
	}
	if e.has(ct.StatusConfirmed) {
		timeout += now
	}
	e.deadline = timeout
}

// key returns the tuple of one direction.
func (t *Table) key(e *entry, dir int) key {
	if e.meta&metaSide != 0 {
		return t.sides[e.side].keys[dir]
	}
	k := key{src: addr{lo: uint64(e.src)}, dst: addr{lo: uint64(e.dst)}, ports: e.ports, meta: e.meta}
	if dir == reply {
		k, _ = k.invert()
	}
	return k
}

// setKeys stores both tuples, with a side record where one is needed.
func (t *Table) setKeys(i int32, o, r *key) {
	e := &t.entries[i]
	e.ports, e.meta = o.ports, o.meta
	plain, _ := o.invert()
	if !o.v6() && plain == *r {
		t.dropSide(e)
		e.src, e.dst = uint32(o.src.lo), uint32(o.dst.lo)
		return
	}
	if e.side == 0 {
		e.side = t.newSide()
	}
	e.meta |= metaSide
	t.sides[e.side].keys = [2]key{*o, *r}
	e.src, e.dst = t.hash(o), t.hash(r)
}

func (t *Table) newSide() int32 {
	if n := t.freeSide; n != 0 {
		t.freeSide = t.sides[n].free
		t.sides[n] = side{}
		return n
	}
	if len(t.sides) == 0 {
		t.sides = make([]side, 1, t.reserve())
	}
	t.sides = append(t.sides, side{})
	return int32(len(t.sides) - 1)
}

func (t *Table) dropSide(e *entry) {
	if e.side != 0 {
		t.sides[e.side].free = t.freeSide
		t.freeSide = e.side
		e.side = 0
		e.meta &^= metaSide
	}
}
