package sim

// BatchSize is how many packets [Table.Packets] looks ahead.
const BatchSize = 32

// Packets tracks packets one after the other, with the same results as
// [Table.Packet] for each in turn, and faster on tables that do not fit into the
// processor's caches: what the next [BatchSize] packets will look at is fetched
// from memory together. at and results must be as long as ps.
func (t *Table) Packets(at []Time, ps []Packet, results []Result) {
	for len(ps) > 0 {
		n := min(len(ps), BatchSize)
		t.packets(at[:n], ps[:n], results[:n])
		at, ps, results = at[n:], ps[n:], results[n:]
	}
}

func (t *Table) packets(at []Time, ps []Packet, results []Result) {
	a := &t.ahead
	t.lookAhead(ps)
	var f Flight
	for i := range ps {
		p := &ps[i]
		if at[i] >= t.tickEnd || t.started < 0 {
			t.Advance(at[i])
		} else if at[i] > t.now {
			t.now = at[i]
		}
		h, link := a.hashes[i], a.links[i]
		if a.stale(t.bucket(h), t.jiffies) {
			link = linkUnknown
		}
		t.in(p, &a.keys[i], h, link, &f)
		t.through(at[i], &f, p, &results[i])
	}
}

// ahead holds what is known of packets before they are tracked.
type ahead struct {
	keys   [BatchSize]key
	hashes [BatchSize]uint32
	wants  [BatchSize][2]sought
	// links are where the packets' keys were found, 0 where there was no entry.
	links   [BatchSize]int32
	jiffies uint32 // when they were
	// touched has a bit for every group of buckets of which a chain has changed
	// since.
	touched [8]uint64

	heat uint32 // keeps loads from being left out
}

// changed notes that the chain of a bucket is another.
func (a *ahead) changed(bucket uint32) { a.touched[bucket>>6&7] |= 1 << (bucket & 63) }

// allChanged notes that what is expired is no longer known.
func (a *ahead) allChanged() {
	for i := range a.touched {
		a.touched[i] = ^uint64(0)
	}
}

// stale reports whether the walk along a bucket's chain may have another result
// now.
func (a *ahead) stale(bucket, jiffies uint32) bool {
	return jiffies != a.jiffies || a.touched[bucket>>6&7]>>(bucket&63)&1 != 0
}

// lookAhead finds the packets' links, and brings what tracking them will look at
// into the processor's caches. It changes nothing.
func (t *Table) lookAhead(ps []Packet) {
	a := &t.ahead
	for i := range ps {
		k := &a.keys[i]
		t.pack(k, &ps[i].Tuple, zones(&ps[i]).orig)
		k.sought(&a.wants[i], bothWays)
		a.hashes[i] = t.hash(k)
	}
	n := len(ps)
	a.jiffies = t.jiffies
	a.touched = [len(a.touched)]uint64{}
	t.follow(a, n)
	fresh := 0
	heat := uint32(0)
	for _, l := range a.links[:n] {
		heat += t.tracks[max(l, 0)>>1].lastSeq
		fresh += int(uint32(l-1) >> 31 &^ (uint32(l) >> 31))
	}
	a.heat += heat
	if len(t.sides) > 0 {
		t.sidesAhead(a, n)
	}
	for i := range ps {
		if ps[i].ZoneDir != ZoneBoth {
			a.links[i] = linkUnknown
		}
	}
	if fresh > 0 {
		t.warmFresh(a, n, fresh)
	}
}

// follow walks the chains of all keys at once, one step for each at a time: loads
// that do not depend on each other overlap. Branches that depend on what was
// loaded would keep them from it, so there are none.
func (t *Table) follow(a *ahead, n int) {
	var open [BatchSize]uint8
	for i := range n {
		a.links[i] = t.heads[t.bucket(a.hashes[i])]
		open[i] = uint8(i)
	}
	entries, now, heat := t.entries, t.jiffies, uint32(0)
	sided := len(t.sides) > 0
	for walkers := n; walkers > 0; {
		for _, i := range open[:walkers] {
			heat += entries[a.links[i&(BatchSize-1)]>>1].deadline
		}
		still := 0
		for _, i := range open[:walkers] {
			i &= BatchSize - 1
			l := a.links[i]
			e, w := &entries[l>>1], &a.wants[i][l&1]
			fits := zero((e.ends ^ w.ends) | (e.what ^ w.what))
			if sided {
				fits |= zero(uint64(e.mark(l&1)^a.hashes[i]) | ^e.what&metaSide)
			}
			left := int32(e.deadline - now)
			dead := (left | (left - 1)) >> 31 & (-l >> 31)
			next := e.next[l&1]
			l = next ^ (next^l)&fits
			a.links[i] = l | dead // linkUnknown: whoever walks there reaps
			// What is neither found nor expired goes on, unless the chain ends.
			open[still] = i
			still += int(uint32(-l&^fits&^dead) >> 31)
		}
		walkers = still
	}
	a.heat += heat
}

// zero returns all ones for 0, and 0 for any other number.
func zero(x uint64) int32 { return int32(int64(^x&(x-1)) >> 63) }

// sidesAhead compares the keys of entries that were found by their hashes.
func (t *Table) sidesAhead(a *ahead, n int) {
	for _, l := range a.links[:n] {
		e := &t.entries[max(l, 0)>>1]
		a.heat += t.sides[e.side()].keys[reply].meta
	}
	for i, l := range a.links[:n] {
		if l <= 0 {
			continue
		}
		if e := &t.entries[l>>1]; e.side() != 0 && !t.sameSide(e, l&1, &a.keys[i], a.hashes[i]) {
			a.links[i] = linkUnknown
		}
	}
}

// warmFresh fetches what packets without an entry will look at besides: the chains
// of their answers, an entry to use, and the victims of early drop.
func (t *Table) warmFresh(a *ahead, n, fresh int) {
	var links [BatchSize]int32
	m := 0
	for i, l := range a.links[:n] {
		if l == 0 {
			k, _ := a.keys[i].invert()
			links[m] = t.heads[t.bucket(t.hash(&k))]
			m++
		}
	}
	heat := t.touch(links[:m], false) + t.tracks[t.free].lastSeq
	if t.max != 0 && t.count+fresh > t.max {
		for i := range n {
			from := int(t.bucket(a.hashes[i]))
			for _, l := range t.heads[from:min(from+t.rules.evictBuckets, len(t.heads))] {
				heat += t.entries[l>>1].deadline
			}
		}
	}
	a.heat += heat
}

// warmBuckets fetches the chains of the [BatchSize] buckets from one on, with or
// without what trackers remember.
func (t *Table) warmBuckets(from int, tracks bool) {
	var links [BatchSize]int32
	n := copy(links[:], t.heads[from:])
	t.ahead.heat += t.touch(links[:n], tracks)
}

// touch looks at the first entries from each link on.
func (t *Table) touch(links []int32, tracks bool) (heat uint32) {
	const steps = 4
	for range steps {
		for i, l := range links {
			e := &t.entries[l>>1]
			heat += e.deadline
			if tracks {
				heat += t.tracks[l>>1].lastSeq
			}
			links[i] = e.next[l&1]
		}
	}
	return heat
}
