package flowgroup

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"slices"

	"github.com/ctwarden/ctwarden/ct"
)

// Stats are the sums over the flows of a group.
type Stats struct {
	Entries   uint64 `json:"entries"`
	Assured   uint64 `json:"assured"`
	Unreplied uint64 `json:"unreplied"`
	Packets   uint64 `json:"packets,omitempty"` // both ways; 0 without accounting
	Bytes     uint64 `json:"bytes,omitempty"`
}

func (s *Stats) add(f *ct.Flow) {
	s.Entries++
	if f.Assured() {
		s.Assured++
	}
	if !f.Replied() {
		s.Unreplied++
	}
	s.Packets += f.OrigCounters.Packets + f.ReplyCounters.Packets
	s.Bytes += f.OrigCounters.Bytes + f.ReplyCounters.Bytes
}

// Group is one group with its key, a text a field.
type Group struct {
	Key []string
	Stats
}

// DefaultMax is the default bound on groups held at once: a million take about
// 90 MB with IPv4 addresses as keys.
const DefaultMax = 1 << 20

// Table counts flows by key. Up to its bound it is exact. When a flow would
// need one group more, the smaller half is forgotten; from then on the entries
// of a group may be too few by as many as the largest one forgotten had, which
// is summed up in Error.
type Table struct {
	by      *By
	max     int
	seed    maphash.Seed
	index   []int32 // open addressing over groups: 0 is free, else position + 1
	groups  []group
	keys    []byte // the keys of all groups, one behind the other
	scratch []byte
	total   Stats
	dropped uint64
	lost    int
}

type group struct {
	hash uint64
	at   uint32 // where the key begins in keys
	size uint16
	Stats
}

// New makes a table of at most limit groups; 0 is DefaultMax.
func New(by *By, limit int) *Table {
	if limit <= 0 {
		limit = DefaultMax
	}
	t := &Table{by: by, max: max(limit, 2), seed: maphash.MakeSeed()}
	t.index = make([]int32, 1024)
	return t
}

// Total returns the sums over all flows added.
func (t *Table) Total() Stats { return t.total }

// Groups returns how many groups there are, without the forgotten ones.
func (t *Table) Groups() int { return len(t.groups) }

// Error is how many entries a group may lack, 0 while the table is exact, and
// Forgotten how many groups were given up.
func (t *Table) Error() (entries uint64, forgotten int) { return t.dropped, t.lost }

// Add counts a flow.
func (t *Table) Add(f *ct.Flow) {
	t.total.add(f)
	b := t.scratch[:0]
	for i := range t.by.parts {
		b = t.by.parts[i].append(b, f)
	}
	t.scratch = b
	t.find(maphash.Bytes(t.seed, b), b).add(f)
}

func (t *Table) find(h uint64, key []byte) *Stats {
	for i := h; ; i++ {
		slot := &t.index[i&uint64(len(t.index)-1)]
		if *slot == 0 {
			if len(t.groups) >= t.max {
				t.prune()
				return t.find(h, key)
			}
			*slot = int32(len(t.groups)) + 1
			return t.insert(h, key)
		}
		g := &t.groups[*slot-1]
		if g.hash == h && bytes.Equal(t.keys[g.at:g.at+uint32(g.size)], key) {
			return &g.Stats
		}
	}
}

func (t *Table) insert(h uint64, key []byte) *Stats {
	t.groups = append(t.groups, group{hash: h, at: uint32(len(t.keys)), size: uint16(len(key))})
	t.keys = append(t.keys, key...)
	if len(t.groups)*2 > len(t.index) {
		t.rehash(len(t.index) * 4)
	}
	return &t.groups[len(t.groups)-1].Stats
}

func (t *Table) rehash(size int) {
	t.index = make([]int32, size)
	for n := range t.groups {
		i := t.groups[n].hash
		for t.index[i&uint64(size-1)] != 0 {
			i++
		}
		t.index[i&uint64(size-1)] = int32(n) + 1
	}
}

// prune forgets the smaller half of the groups. A group that comes back later
// counts from 0, so it lacks what it had; and that is no more than the largest
// of each pruning, summed.
func (t *Table) prune() {
	order := slices.Clone(t.groups)
	slices.SortFunc(order, func(a, b group) int { return cmp.Compare(b.Entries, a.Entries) })
	keep := order[:t.max/2]
	t.dropped += order[t.max/2].Entries
	t.lost += len(order) - len(keep)
	keys := make([]byte, 0, len(t.keys))
	for i := range keep {
		g := &keep[i]
		at := uint32(len(keys))
		keys = append(keys, t.keys[g.at:g.at+uint32(g.size)]...)
		g.at = at
	}
	t.groups, t.keys = append(t.groups[:0], keep...), keys
	t.rehash(len(t.index))
}

// Order is what groups are sorted by, the greatest first.
type Order func(*Stats) uint64

// Orders are the orders by name.
var Orders = map[string]Order{
	"entries":   func(s *Stats) uint64 { return s.Entries },
	"assured":   func(s *Stats) uint64 { return s.Assured },
	"unreplied": func(s *Stats) uint64 { return s.Unreplied },
	"packets":   func(s *Stats) uint64 { return s.Packets },
	"bytes":     func(s *Stats) uint64 { return s.Bytes },
}

// Top returns the n greatest groups in order, all for 0. Equal ones stand in
// the order of their keys.
func (t *Table) Top(n int, by Order) []Group {
	order := make([]int32, len(t.groups))
	for i := range order {
		order[i] = int32(i)
	}
	if n > 0 && n < len(order) {
		order = t.selectTop(order, n, by)
	}
	slices.SortFunc(order, func(a, b int32) int { return t.compare(a, b, by) })
	out := make([]Group, len(order))
	for i, at := range order {
		g := &t.groups[at]
		out[i] = Group{t.key(g), g.Stats}
	}
	return out
}

// compare orders group a before b when it is greater.
func (t *Table) compare(a, b int32, by Order) int {
	x, y := &t.groups[a], &t.groups[b]
	if c := cmp.Compare(by(&y.Stats), by(&x.Stats)); c != 0 {
		return c
	}
	return bytes.Compare(t.keys[x.at:x.at+uint32(x.size)], t.keys[y.at:y.at+uint32(y.size)])
}

// selectTop moves the n first into a heap whose root is the last of them.
func (t *Table) selectTop(order []int32, n int, by Order) []int32 {
	heap := order[:0:n]
	for _, g := range order {
		if len(heap) < n {
			heap = append(heap, g)
			t.up(heap, by)
		} else if t.compare(g, heap[0], by) < 0 {
			heap[0] = g
			t.down(heap, by)
		}
	}
	return heap
}

func (t *Table) up(h []int32, by Order) {
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if t.compare(h[parent], h[i], by) >= 0 {
			return
		}
		h[parent], h[i] = h[i], h[parent]
		i = parent
	}
}

func (t *Table) down(h []int32, by Order) {
	for i := 0; ; {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && t.compare(h[c+1], h[c], by) > 0 {
			c++
		}
		if t.compare(h[i], h[c], by) >= 0 {
			return
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}

func (t *Table) key(g *group) []string {
	b := t.keys[g.at : g.at+uint32(g.size)]
	texts := make([]string, 0, len(t.by.parts))
	for i := range t.by.parts {
		var s string
		s, b = t.by.parts[i].print(b)
		texts = append(texts, s)
	}
	return texts
}
