package sim

import (
	"iter"

	"github.com/ctwarden/ctwarden/ct"
)

// Flow fills f with an entry as ctnetlink would show it. It reports false for
// numbers that stand for no confirmed entry. It does not reap an expired one.
func (t *Table) Flow(id ID, f *ct.Flow) bool {
	if id <= 0 || int(id) >= len(t.entries) {
		return false
	}
	e := &t.entries[id]
	if !e.has(ct.StatusConfirmed) {
		return false
	}
	o, r := t.key(e, orig), t.key(e, reply)
	*f = ct.Flow{
		Orig: o.unpack(), Reply: r.unpack(), Status: ct.Status(e.status),
		State: ct.State(e.state), Fields: ct.HasTimeout | ct.HasZone,
	}
	switch zo, zr := o.zone(), r.zone(); {
	case zo == zr:
		f.Zone = zo
	default:
		f.ZoneOrig, f.ZoneReply = zo, zr
	}
	if left := int32(e.deadline - t.jiffies); left > 0 {
		f.TimeoutSeconds = uint32(left) / uint32(t.knobs.HZ)
	}
	if p := e.proto(); p == ct.TCP {
		s := &t.tracks[id].seen
		f.TCP = ct.TCPInfo{WScaleOrig: s[orig].scale, WScaleReply: s[reply].scale,
			FlagsOrig: s[orig].flags, FlagsReply: s[reply].flags}
		f.Fields |= ct.HasProtoInfo
	} else if p == ct.SCTP || p == ct.DCCP && t.rules.dccp {
		f.Fields |= ct.HasProtoInfo
	}
	if int(id) < len(t.acct) {
		f.OrigCounters, f.ReplyCounters = t.acct[id].dir[orig], t.acct[id].dir[reply]
		f.Fields |= ct.HasCounters
	}
	return true
}

// Dump yields every entry as a ctnetlink dump does: it walks the buckets, reaps
// what has expired, and leaves clash entries out. The Flow is used again for
// the next entry; the loop may not change the table.
func (t *Table) Dump() iter.Seq2[ID, *ct.Flow] {
	return func(yield func(ID, *ct.Flow) bool) {
		var f ct.Flow
		for b := range t.heads {
			if b%BatchSize == 0 {
				t.warmBuckets(b, true)
			}
			for l := t.heads[b]; l != 0; {
				e := &t.entries[l>>1]
				if e.expired(t.jiffies) {
					l = t.reap(l)
					continue
				}
				// As the kernel: each entry once, in its original direction.
				if l&1 == orig && t.Flow(ID(l>>1), &f) && !yield(ID(l>>1), &f) {
					return
				}
				l = e.next[l&1]
			}
		}
	}
}

// All yields every entry of the count, expired ones included, without touching
// the table.
func (t *Table) All() iter.Seq2[ID, *ct.Flow] {
	return func(yield func(ID, *ct.Flow) bool) {
		var f ct.Flow
		for i := range t.entries {
			if t.Flow(ID(i), &f) && !yield(ID(i), &f) {
				return
			}
		}
	}
}

// Tally is the number of entries by protocol and state. Protocols without
// states have theirs under state 0.
type Tally struct {
	Entries int
	Assured int
	Expired int // entries that count though their timeout has passed
	States  map[ct.Proto]*[ct.NumDCCPStates]int
	Replied map[ct.Proto]int // entries that have seen a reply
}

// Tally counts the entries by state in one pass over the table, without
// touching it.
func (t *Table) Tally() Tally {
	s := Tally{States: make(map[ct.Proto]*[ct.NumDCCPStates]int), Replied: make(map[ct.Proto]int)}
	var row *[ct.NumDCCPStates]int
	var replied [256]int
	last := ct.Proto(255)
	for i := range t.entries {
		e := &t.entries[i]
		if !e.has(ct.StatusConfirmed) {
			continue
		}
		s.Entries++
		s.Assured += b2i(e.has(ct.StatusAssured))
		s.Expired += b2i(e.expired(t.jiffies))
		if p := e.proto(); p != last || row == nil {
			last = p
			if row = s.States[p]; row == nil {
				row = new([ct.NumDCCPStates]int)
				s.States[p] = row
			}
		}
		row[e.state]++
		replied[last] += b2i(e.has(ct.StatusSeenReply))
	}
	for p, n := range replied {
		if n > 0 {
			s.Replied[ct.Proto(p)] = n
		}
	}
	return s
}
