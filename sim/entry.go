package sim

import (
	"github.com/ctwarden/ctwarden/ct"
)

// Directions of a flow.
const (
	orig  = 0
	reply = 1
)

// entry is the part of a flow that walks along chains look at: 32 bytes without
// pointers, half a line of the cache. What the trackers remember lies in the
// [track] of the same number; what IPv4 flows without NAT do not need, in a side
// record.
type entry struct {
	// ends are the original tuple's source and destination. With a side record:
	// the hashes of the original and the reply key.
	ends uint64
	// what is the original tuple's ports and meta. With a side record: its number,
	// and meta with metaSide.
	what uint64
	// next are the links in the chains of the two directions. A link is the
	// entry's number twice plus the direction; 0 ends the chain.
	next     [2]int32
	deadline uint32 // in jiffies, relative until confirmation
	status   uint16 // low bits of ct.Status
	state    uint8
	tag      uint8
}

// metaSide marks an entry with a side record. No key has it.
const metaSide = 1 << 9

// side holds both tuples of a flow with IPv6, NAT or zones by direction.
type side struct {
	keys    [2]key
	srcNext int32 // chain of NAT mappings by original source
	free    int32
}

func (e *entry) proto() ct.Proto         { return ct.Proto(e.what) }
func (e *entry) has(s ct.Status) bool    { return ct.Status(e.status)&s != 0 }
func (e *entry) set(s ct.Status)         { e.status |= uint16(s) }
func (e *entry) isIPv6() bool            { return e.what&metaIPv6 != 0 }
func (e *entry) expired(now uint32) bool { return int32(e.deadline-now) <= 0 }

// side returns the number of the side record, 0 without one.
func (e *entry) side() int32 {
	if e.what&metaSide == 0 {
		return 0
	}
	return int32(e.what >> 32)
}

// mark is the hash of one direction's key, where there is a side record.
func (e *entry) mark(dir int32) uint32 { return uint32(e.ends >> (32 &^ (dir << 5))) }

func pair(hi, lo uint32) uint64 { return uint64(hi)<<32 | uint64(lo) }

// refresh gives the entry a new timeout in jiffies (nf_ct_refresh_acct).
func (t *Table) refresh(e *entry, timeout uint32) {
	switch {
	case e.has(ct.StatusFixedTimeout):
	case e.has(ct.StatusConfirmed):
		t.setDeadline(e, timeout)
	default:
		e.deadline = timeout
	}
}

// setDeadline lets an entry of the table run out a number of jiffies from now.
func (t *Table) setDeadline(e *entry, timeout uint32) {
	e.deadline = t.jiffies + timeout
	if int32(timeout) <= 0 {
		t.ahead.allChanged()
	}
}

// key returns the tuple of one direction.
func (t *Table) key(e *entry, dir int) key {
	if n := e.side(); n != 0 {
		return t.sides[n].keys[dir]
	}
	k := key{src: addr{lo: e.ends >> 32}, dst: addr{lo: uint64(uint32(e.ends))},
		ports: uint32(e.what >> 32), meta: uint32(e.what)}
	if dir == reply {
		k, _ = k.invert()
	}
	return k
}

// setKeys stores both tuples, with a side record where one is needed.
func (t *Table) setKeys(i int32, o, r *key) {
	e := &t.entries[i]
	if !o.v6() && o.answeredBy(r) {
		t.dropSide(e)
		e.ends, e.what = o.ends(), o.what()
		return
	}
	n := e.side()
	if n == 0 {
		n = t.newSide()
	}
	t.sides[n].keys = [2]key{*o, *r}
	e.ends, e.what = pair(t.hash(o), t.hash(r)), pair(uint32(n), o.meta|metaSide)
}

func (t *Table) newSide() int32 {
	if n := t.freeSide; n != 0 {
		t.freeSide = t.sides[n].free
		t.sides[n] = side{}
		return n
	}
	if len(t.sides) == 0 {
		t.sides = make([]side, 1, t.reserve())
		tell(t, t.sides)
	}
	t.sides = append(t.sides, side{})
	return int32(len(t.sides) - 1)
}

// dropSide gives the side record back. The tuples have to be set anew.
func (t *Table) dropSide(e *entry) {
	if n := e.side(); n != 0 {
		t.sides[n].free = t.freeSide
		t.freeSide = n
		e.what &^= metaSide
	}
}
