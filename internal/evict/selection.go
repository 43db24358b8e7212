package evict

import (
	"cmp"
	"errors"
	"iter"
	"math"
	"slices"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowrec"
)

// entry is one selected entry. The rest of it is in the records, which take
// less memory than flows.
type entry struct {
	expires int64 // nanoseconds on the reader's clock; 0 if not known
	at      uint32
	id      uint32
	kept    bool  // seen again, as idle as it was
	changed bool  // by Run, as far as is known
	floor   uint8 // seconds that a shortened timeout is not to undercut
}

// Selection is what a first reading chose.
type Selection struct {
	entries []entry
	records []byte
	byID    []int32 // positions in the order of ids, once asked for
}

// ErrTooMany says that a selection has outgrown what can be kept: some tens of
// millions of entries.
var ErrTooMany = errors.New("too many entries are selected; narrow the filter")

// Len returns how many entries are selected.
func (s *Selection) Len() int { return len(s.entries) }

// Add selects an entry that was read at a time on the reader's clock.
func (s *Selection) Add(f *ct.Flow, nowNanos int64) error {
	if len(s.records) > math.MaxUint32-256 {
		return ErrTooMany
	}
	e := entry{at: uint32(len(s.records)), id: f.ID, floor: hardFloor(f)}
	rec := flowrec.Of(f)
	s.records = flowrec.Append(s.records, &rec)
	if f.Has(ct.HasTimeout) {
		e.expires = nowNanos + int64(f.Timeout())
	}
	s.entries = append(s.entries, e)
	return nil
}

// read returns what was kept of an entry.
func (s *Selection) read(e *entry) flowrec.Entry {
	rec, _, _, _ := flowrec.Next(s.records[e.at:]) // written by Add
	return rec
}

// hardFloor is what shortening never undercuts, in seconds: a handshake takes
// that long.
func hardFloor(f *ct.Flow) uint8 {
	if f.Orig.Proto == ct.TCP && (f.State == ct.TCPSynSent || f.State == ct.TCPSynRecv) {
		return 15
	}
	return 1
}

// Floor returns the least timeout in seconds that the RFCs ask of a gateway
// for an entry: 5382 for TCP, 4787 for UDP, 5508 for ICMP; 0 where they ask
// nothing.
func Floor(f *ct.Flow) uint32 {
	switch f.Orig.Proto {
	case ct.TCP:
		if f.State == ct.TCPEstablished {
			return 7440
		}
		return 240
	case ct.UDP, ct.UDPLite:
		return 120
	case ct.ICMP, ct.ICMPv6:
		return 60
	}
	return 0
}

// expirySlack is by how much the moment of expiry may seem to move between two
// readings of an idle entry, in nanoseconds: the kernel truncates to seconds
// each time, and the clock is read once for many entries.
const expirySlack = 1_250_000_000

// Again takes note of an entry of the second reading that still matches the
// filter. It stays selected if its timeout ran down by exactly the time that
// passed: then no packet has passed either.
func (s *Selection) Again(f *ct.Flow, nowNanos int64) {
	e := s.find(f)
	if e == nil || e.expires == 0 || !f.Has(ct.HasTimeout) {
		return
	}
	d := nowNanos + int64(f.Timeout()) - e.expires
	e.kept = d >= -expirySlack && d <= expirySlack
}

// Settle ends the second reading, or a later one: entries not confirmed by it
// leave the selection. It returns how many did.
func (s *Selection) Settle() (active int) {
	before := len(s.entries)
	s.entries = slices.DeleteFunc(s.entries, func(e entry) bool { return !e.kept })
	for i := range s.entries {
		s.entries[i].kept = false // until the next reading
	}
	s.byID = nil
	return before - len(s.entries)
}

// Holds reports whether a flow, as read now, is one of the selected entries.
func (s *Selection) Holds(f *ct.Flow) bool { return s.find(f) != nil }

// Changed reports whether a flow, as read now, is an entry that Run changed.
func (s *Selection) Changed(f *ct.Flow) bool {
	e := s.find(f)
	return e != nil && e.changed
}

// AllChanged yields every entry that Run changed, as it was before. The flow is
// overwritten by the next.
func (s *Selection) AllChanged() iter.Seq[*ct.Flow] {
	return func(yield func(*ct.Flow) bool) {
		var f ct.Flow
		for i := range s.entries {
			if !s.entries[i].changed {
				continue
			}
			rec := s.read(&s.entries[i])
			if f = rec.Flow(); !yield(&f) {
				return
			}
		}
	}
}

// find returns the selected entry that a flow is, nil if none.
func (s *Selection) find(f *ct.Flow) *entry {
	if s.byID == nil {
		s.sortByID()
	}
	n, _ := slices.BinarySearchFunc(s.byID, f.ID, func(i int32, id uint32) int {
		return cmp.Compare(s.entries[i].id, id)
	})
	for ; n < len(s.byID); n++ {
		e := &s.entries[s.byID[n]]
		if e.id != f.ID {
			break
		}
		if s.read(e).Orig == f.Orig {
			return e
		}
	}
	return nil
}

func (s *Selection) sortByID() {
	s.byID = make([]int32, len(s.entries))
	for i := range s.byID {
		s.byID[i] = int32(i)
	}
	slices.SortFunc(s.byID, func(a, b int32) int { return cmp.Compare(s.entries[a].id, s.entries[b].id) })
}

// Choose keeps the selected entries whose positions are listed, counted from 0
// in the order in which they were added, in the order of the list.
func (s *Selection) Choose(positions []int) {
	chosen := make([]entry, len(positions))
	for i, p := range positions {
		chosen[i] = s.entries[p]
	}
	s.entries, s.byID = chosen, nil
}

// Each calls yield with what was kept of every selected entry, as it was when
// it was added.
func (s *Selection) Each(yield func(*flowrec.Entry) bool) {
	for i := range s.entries {
		rec := s.read(&s.entries[i])
		if !yield(&rec) {
			return
		}
	}
}
