package flowgroup

import (
	"bytes"
	"cmp"
	"encoding/binary"
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
	Key []string `json:"key"` // a text a field; "-" where entries lack it
	Stats
}

// DefaultMax is the default bound on groups held at once: a million take about
// 60 MB, with keys of up to two IPv4 or one IPv6 address.
const DefaultMax = 1 << 20

// Table counts flows by key. Up to its bound it is exact. When a flow would
// need one group more, the smaller half is forgotten; from then on the entries
// of a group may be too few by as many as the largest one forgotten had, which
// is summed up in Error.
//
// A large table is as slow as memory: nearly every flow misses the caches, in
// the index and in its group. So flows wait until some dozens can be looked up
// together, and their misses overlap.
type Table struct {
	by      *By
	max     int
	seed    maphash.Seed
	index   []uint64 // open addressing: 0 is free, else upper half of the hash, position + 1
	groups  groupList
	traffic []traffic // of each group, once there is any
	long    []byte    // keys that do not fit into a key
	scratch []byte
	waiting [batch]waiting
	n       int    // of them
	touched uint32 // what flush fetched, so that it is not optimised away
	total   Stats
	dropped uint64
	lost    int
}

// inline is how long a key may be to stand in its group.
const inline = 23

// key is a short key, or with size longKey the place of a long one.
type key struct {
	size  uint8
	bytes [inline]byte
}

const longKey = 255

// group has no more than one line of cache.
type group struct {
	key                         key
	hash, low                   uint32 // both halves of the hash
	entries, assured, unreplied uint32
}

type traffic struct{ packets, bytes uint64 }

// groupList is a list in pieces, so that growing copies nothing: half of what
// counting many groups takes would be spent on new memory.
type groupList struct {
	pieces [][]group
	n      int
}

const pieceLen = 1 << 12

func (l *groupList) at(i int) *group { return &l.pieces[i/pieceLen][i%pieceLen] }

func (l *groupList) add(g group) {
	if l.n%pieceLen == 0 {
		l.pieces = append(l.pieces, make([]group, pieceLen))
	}
	*l.at(l.n) = g
	l.n++
}

// batch is how many flows are looked up together.
const batch = 64

type waiting struct {
	hash               uint64
	key                key
	assured, unreplied bool
	traffic            traffic
}

// New makes a table of at most limit groups; 0 is DefaultMax.
func New(by *By, limit int) *Table {
	if limit <= 0 {
		limit = DefaultMax
	}
	return &Table{by: by, max: max(limit, 2), seed: maphash.MakeSeed(), index: make([]uint64, 1024)}
}

// Total returns the sums over all flows added.
func (t *Table) Total() Stats { return t.total }

// Groups returns how many groups there are, without the forgotten ones.
func (t *Table) Groups() int {
	t.flush()
	return t.groups.n
}

// Error is how many entries a group may lack, 0 while the table is exact, and
// how many groups were given up.
func (t *Table) Error() (entries uint64, forgotten int) {
	t.flush()
	return t.dropped, t.lost
}

// Add counts a flow.
func (t *Table) Add(f *ct.Flow) {
	t.total.add(f)
	b := t.scratch[:0]
	for i := range t.by.parts {
		b = t.by.parts[i].append(b, f)
	}
	t.scratch = b
	w := &t.waiting[t.n]
	w.hash = maphash.Bytes(t.seed, b)
	w.assured, w.unreplied = f.Assured(), !f.Replied()
	w.traffic = traffic{f.OrigCounters.Packets + f.ReplyCounters.Packets, f.OrigCounters.Bytes + f.ReplyCounters.Bytes}
	if w.key = t.keyOf(b); w.key.size == longKey {
		// Its bytes stand at the end of long and must be looked up before more do.
		t.n++
		t.flush()
		return
	}
	if t.n++; t.n == batch {
		t.flush()
	}
}

// keyOf puts a key into its fixed form. A long one is appended to long.
func (t *Table) keyOf(b []byte) (k key) {
	if len(b) <= inline {
		k.size = uint8(len(b))
		copy(k.bytes[:], b)
		return k
	}
	k.size = longKey
	binary.NativeEndian.PutUint32(k.bytes[:], uint32(len(t.long)))
	binary.NativeEndian.PutUint16(k.bytes[4:], uint16(len(b)))
	t.long = append(t.long, b...)
	return k
}

// bytes returns a key as it was written.
func (t *Table) bytes(k *key) []byte {
	if k.size != longKey {
		return k.bytes[:k.size]
	}
	at := binary.NativeEndian.Uint32(k.bytes[:])
	return t.long[at : at+uint32(binary.NativeEndian.Uint16(k.bytes[4:]))]
}

func (t *Table) equal(a, b *key) bool {
	if a.size != longKey {
		return *a == *b
	}
	return b.size == longKey && bytes.Equal(t.bytes(a), t.bytes(b))
}

// flush counts the flows that wait. The first two loops only make the
// processor fetch what the third needs.
func (t *Table) flush() {
	var slots [batch]uint64
	mask := uint64(len(t.index) - 1)
	for i := range t.n {
		slots[i] = t.index[t.waiting[i].hash&mask]
	}
	touched := uint32(0)
	for i := range t.n {
		if at := uint32(slots[i]); at != 0 {
			touched += t.groups.at(int(at - 1)).entries
		}
	}
	t.touched = touched
	for i := range t.n {
		t.count(&t.waiting[i])
	}
	t.n = 0
}

func (t *Table) count(w *waiting) {
	at := t.find(w)
	g := t.groups.at(at)
	g.entries++
	if w.assured {
		g.assured++
	}
	if w.unreplied {
		g.unreplied++
	}
	if w.traffic.packets == 0 {
		return
	}
	for len(t.traffic) < t.groups.n {
		t.traffic = append(t.traffic, traffic{})
	}
	t.traffic[at].packets += w.traffic.packets
	t.traffic[at].bytes += w.traffic.bytes
}

// find returns the position of a flow's group, made if need be.
func (t *Table) find(w *waiting) int {
	for i := w.hash; ; i++ {
		slot := &t.index[i&uint64(len(t.index)-1)]
		if *slot == 0 {
			if t.groups.n >= t.max {
				t.prune(w)
				return t.find(w)
			}
			*slot = w.hash&^(1<<32-1) | uint64(t.groups.n+1)
			return t.insert(w)
		}
		if at := int(uint32(*slot)) - 1; *slot>>32 == w.hash>>32 && t.equal(&t.groups.at(at).key, &w.key) {
			if w.key.size == longKey {
				t.long = t.long[:binary.NativeEndian.Uint32(w.key.bytes[:])]
			}
			return at
		}
	}
}

func (t *Table) insert(w *waiting) int {
	t.groups.add(group{key: w.key, hash: uint32(w.hash >> 32), low: uint32(w.hash)})
	if t.groups.n*2 > len(t.index) {
		t.rehash(len(t.index) * 4)
	}
	return t.groups.n - 1
}

func (t *Table) rehash(size int) {
	t.index = make([]uint64, size)
	for n := range t.groups.n {
		g := t.groups.at(n)
		i := uint64(g.low)
		for t.index[i&uint64(size-1)] != 0 {
			i++
		}
		t.index[i&uint64(size-1)] = uint64(g.hash)<<32 | uint64(n+1)
	}
}

// prune forgets the smaller half of the groups. A group that comes back later
// counts from 0, so it lacks what it had; and that is no more than the largest
// of each pruning, summed. w is being looked up, and its key must live.
func (t *Table) prune(w *waiting) {
	order := make([]int32, t.groups.n)
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Compare(t.groups.at(int(b)).entries, t.groups.at(int(a)).entries)
	})
	keep := order[:t.max/2]
	t.dropped += uint64(t.groups.at(int(order[t.max/2])).entries)
	t.lost += len(order) - len(keep)
	old, oldTraffic, oldLong := t.groups, t.traffic, t.long
	t.groups, t.traffic, t.long = groupList{}, nil, nil
	move := func(k key) key {
		if k.size != longKey {
			return k
		}
		at := binary.NativeEndian.Uint32(k.bytes[:])
		return t.keyOf(oldLong[at : at+uint32(binary.NativeEndian.Uint16(k.bytes[4:]))])
	}
	for _, n := range keep {
		g := *old.at(int(n))
		g.key = move(g.key)
		t.groups.add(g)
		if int(n) < len(oldTraffic) {
			for len(t.traffic) < t.groups.n-1 {
				t.traffic = append(t.traffic, traffic{})
			}
			t.traffic = append(t.traffic, oldTraffic[n])
		}
	}
	w.key = move(w.key)
	t.rehash(len(t.index))
}

// stats returns the sums of a group.
func (t *Table) stats(at int32) Stats {
	g := t.groups.at(int(at))
	s := Stats{Entries: uint64(g.entries), Assured: uint64(g.assured), Unreplied: uint64(g.unreplied)}
	if int(at) < len(t.traffic) {
		s.Packets, s.Bytes = t.traffic[at].packets, t.traffic[at].bytes
	}
	return s
}

// Order is what groups are sorted by, the greatest first.
type Order func(Stats) uint64

// Orders are the orders by name.
var Orders = map[string]Order{
	"entries":   func(s Stats) uint64 { return s.Entries },
	"assured":   func(s Stats) uint64 { return s.Assured },
	"unreplied": func(s Stats) uint64 { return s.Unreplied },
	"packets":   func(s Stats) uint64 { return s.Packets },
	"bytes":     func(s Stats) uint64 { return s.Bytes },
}

// Top returns the n greatest groups in order, all for 0. Equal ones stand in
// the order of their keys.
func (t *Table) Top(n int, by Order) []Group {
	t.flush()
	order := make([]int32, t.groups.n)
	for i := range order {
		order[i] = int32(i)
	}
	if n > 0 && n < len(order) {
		order = t.selectTop(order, n, by)
	}
	slices.SortFunc(order, func(a, b int32) int { return t.compare(a, b, by) })
	out := make([]Group, len(order))
	for i, at := range order {
		out[i] = Group{t.text(t.groups.at(int(at))), t.stats(at)}
	}
	return out
}

// compare orders group a before b when it is greater.
func (t *Table) compare(a, b int32, by Order) int {
	x, y := t.stats(a), t.stats(b)
	if c := cmp.Compare(by(y), by(x)); c != 0 {
		return c
	}
	return bytes.Compare(t.bytes(&t.groups.at(int(a)).key), t.bytes(&t.groups.at(int(b)).key))
}

// selectTop moves the n first into a heap whose root is the last of them.
func (t *Table) selectTop(order []int32, n int, by Order) []int32 {
	heap := order[:0:n]
	var least uint64 // of what is in the heap
	for _, g := range order {
		s := t.stats(g)
		switch {
		case len(heap) < n:
			heap = append(heap, g)
			t.up(heap, by)
		case by(s) < least || t.compare(g, heap[0], by) > 0:
			continue
		default:
			heap[0] = g
			t.down(heap, by)
		}
		s = t.stats(heap[0])
		least = by(s)
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

// text returns the fields of a group's key as texts.
func (t *Table) text(g *group) []string {
	b := t.bytes(&g.key)
	texts := make([]string, 0, len(t.by.parts))
	for i := range t.by.parts {
		var s string
		s, b = t.by.parts[i].print(b)
		texts = append(texts, s)
	}
	return texts
}
