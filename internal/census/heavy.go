package census

import "slices"

// heavy counts the most frequent keys of a stream in a table of fixed size:
// the algorithm of Misra and Gries in the form of Anderson et al. ("A
// High-Performance Algorithm for Identifying Frequent Items in Data Streams",
// 2017), with the bounds of Metwally's space-saving sketch. When the table is
// full, what half of the keys have at most is taken from all of them. A key's
// true count is at least its counter, and at most its counter plus taken.
type heavy struct {
	hash  hasher
	slots *[heavySlots]heavySlot
	spare *[heavySlots]heavySlot // takes the survivors of the next purge
	used  int
	taken uint64
}

type heavySlot struct {
	key
	n uint64 // 0 is an empty slot
}

const (
	heavySlots = 2048 // a power of two
	heavyMask  = heavySlots - 1
	// heavyLoad keys are in the table at most. Each purge frees half of them,
	// so that taken stays below the entries divided by heavyLoad/2.
	heavyLoad = heavySlots / 4 * 3
)

func newHeavy(h hasher) heavy {
	return heavy{hash: h, slots: new([heavySlots]heavySlot), spare: new([heavySlots]heavySlot)}
}

// add counts a key whose hash is sum.
func (h *heavy) add(k key, sum uint64) {
	for i := sum; ; i++ {
		s := &h.slots[i&heavyMask]
		if s.key == k && s.n != 0 {
			s.n++
			return
		}
		if s.n == 0 {
			break
		}
	}
	if h.used == heavyLoad {
		h.purge()
	}
	h.insert(k, sum, 1)
}

func (h *heavy) insert(k key, sum uint64, n uint64) {
	i := sum
	for h.slots[i&heavyMask].n != 0 {
		i++
	}
	h.slots[i&heavyMask] = heavySlot{k, n}
	h.used++
}

func (h *heavy) purge() {
	cut := h.median()
	old := h.slots
	h.slots, h.spare = h.spare, old
	clear(h.slots[:])
	h.used = 0
	h.taken += cut
	for i := range old {
		if s := &old[i]; s.n > cut {
			h.insert(s.key, h.hash.sum(s.key), s.n-cut)
		}
	}
}

// median returns the least count that at least half of the keys do not exceed.
func (h *heavy) median() uint64 {
	var small [64]int
	for i := range h.slots {
		if n := h.slots[i].n; n < uint64(len(small)) {
			small[n]++
		}
	}
	below := 0
	for n := 1; n < len(small); n++ {
		if below += small[n]; below >= h.used/2 {
			return uint64(n)
		}
	}
	// Rare: a table of heavy keys only.
	var all [heavySlots]uint64
	counts := all[:0]
	for i := range h.slots {
		if n := h.slots[i].n; n != 0 {
			counts = append(counts, n)
		}
	}
	slices.Sort(counts)
	return counts[(len(counts)-1)/2]
}

// top returns the n most frequent keys, with upper bounds of their counts.
func (h *heavy) top(n int) []heavySlot {
	all := make([]heavySlot, 0, h.used)
	for i := range h.slots {
		if s := h.slots[i]; s.n != 0 {
			s.n += h.taken
			all = append(all, s)
		}
	}
	slices.SortFunc(all, compareSlots)
	return all[:min(n, len(all))]
}

// compareSlots puts the larger count first, and breaks ties by the key so that
// the order does not depend on the hash.
func compareSlots(a, b heavySlot) int {
	switch {
	case a.n != b.n:
		return order(a.n > b.n)
	case a.hi != b.hi:
		return order(a.hi < b.hi)
	case a.lo != b.lo:
		return order(a.lo < b.lo)
	}
	return 0
}

func order(first bool) int {
	if first {
		return -1
	}
	return 1
}
