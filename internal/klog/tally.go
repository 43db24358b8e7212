package klog

import (
	"cmp"
	"slices"
	"time"
)

// key is what lines must have in common to be counted together.
type key struct {
	kind   Kind
	axis   axis
	host   string
	netns  uint64
	detail string
}

// slot sums up the lines of one key in one short span of time.
type slot struct {
	first, last int64 // positions of the first and last line
	lines       uint64
	suppressed  uint64
	sources     []int32 // where they stand, ascending; few
}

// about is what is kept of a key besides its slots.
type about struct {
	era    Era
	event  event // buckets and max of a Loaded line
	sample string
}

// tally counts lines by key and by time in bounded memory: slots of a minute,
// which double in width when there are too many of them.
type tally struct {
	width int64
	keys  map[key]*about
	slots map[slotID]*slot
	// The slot of the last line, which is mostly that of the next one.
	recent   slotID
	recentTo *slot
}

type slotID struct {
	key  key
	cell int64
}

const (
	minWidth  = int64(time.Minute)
	maxSlots  = 1 << 16
	maxKeys   = 4096
	maxSample = 256
)

func newTally() *tally {
	return &tally{width: minWidth, keys: map[key]*about{}, slots: map[slotID]*slot{}}
}

// add counts an event. It returns false, and counts nothing, if the key is one
// too many.
func (t *tally) add(k key, pos int64, e *event, source int32) bool {
	a := t.keys[k]
	if a == nil {
		if len(t.keys) >= maxKeys {
			return false
		}
		a = &about{sample: string(e.text[:min(len(e.text), maxSample)])}
		t.keys[k] = a
	}
	a.era = max(a.era, e.era)
	if e.max.Known {
		a.event.buckets, a.event.max = e.buckets, e.max
	}
	t.addSlot(k, &slot{first: pos, last: pos, lines: e.times,
		suppressed: e.suppressed * e.times, sources: []int32{source}})
	return true
}

func (t *tally) addSlot(k key, s *slot) {
	id := slotID{k, floorDiv(s.first, t.width)}
	if t.recentTo != nil && t.recent == id {
		t.recentTo.merge(s)
		return
	}
	to := t.slots[id]
	if to == nil {
		if len(t.slots) >= maxSlots {
			t.widen()
			id.cell = floorDiv(s.first, t.width)
			to = t.slots[id]
		}
		if to == nil {
			to = &slot{first: s.first, last: s.last}
			t.slots[id] = to
		}
	}
	to.merge(s)
	t.recent, t.recentTo = id, to
}

// merge adds o to s.
func (s *slot) merge(o *slot) {
	s.first, s.last = min(s.first, o.first), max(s.last, o.last)
	s.lines = addSaturating(s.lines, o.lines)
	s.suppressed = addSaturating(s.suppressed, o.suppressed)
	for _, n := range o.sources {
		if i, found := slices.BinarySearch(s.sources, n); !found && len(s.sources) < 64 {
			s.sources = slices.Insert(s.sources, i, n)
		}
	}
}

// widen doubles the width until the slots are at most half as many as may be,
// or one a key.
func (t *tally) widen() {
	for len(t.slots) > maxSlots/2 && t.width < 1<<61 {
		t.width *= 2
		wider := make(map[slotID]*slot, len(t.slots)/2)
		for id, s := range t.slots {
			id.cell = floorDiv(s.first, t.width)
			if to := wider[id]; to != nil {
				to.merge(s)
			} else {
				wider[id] = s
			}
		}
		t.slots = wider
	}
	t.recentTo = nil
}

// absorb adds all of o, whose positions move turns into the positions here.
func (t *tally) absorb(o *tally, move func(axis, int64) (axis, int64)) (overflow uint64) {
	for id, s := range o.slots {
		k := id.key
		axis, first := move(id.key.axis, s.first)
		_, last := move(id.key.axis, s.last)
		k.axis = axis
		if t.keys[k] == nil {
			if len(t.keys) >= maxKeys {
				overflow += s.lines
				continue
			}
			copied := *o.keys[id.key]
			t.keys[k] = &copied
		}
		t.keys[k].era = max(t.keys[k].era, o.keys[id.key].era)
		t.addSlot(k, &slot{first: min(first, last), last: max(first, last),
			lines: s.lines, suppressed: s.suppressed, sources: s.sources})
	}
	return overflow
}

// series returns the slots of every key in their order.
func (t *tally) series() map[key][]*slot {
	m := make(map[key][]*slot, len(t.keys))
	for id, s := range t.slots {
		m[id.key] = append(m[id.key], s)
	}
	for _, slots := range m {
		slices.SortFunc(slots, func(a, b *slot) int { return cmp.Compare(a.first, b.first) })
	}
	return m
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b != 0 && a < 0 {
		q--
	}
	return q
}

func addSaturating(a, b uint64) uint64 {
	if s := a + b; s >= a {
		return s
	}
	return ^uint64(0)
}
