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
	var b batch
	for i := range ps {
		t.pack(&b.keys[i], &ps[i].Tuple, zones(&ps[i]).orig)
		b.hashes[i] = t.hash(&b.keys[i])
	}
	t.warm(&b, len(ps))
	for i := range ps {
		p := &ps[i]
		results[i] = t.through(at[i], t.in(at[i], p, &b.keys[i], b.hashes[i]), p)
	}
}

// batch holds what is known of packets before they are tracked.
type batch struct {
	keys   [BatchSize]key
	hashes [BatchSize]uint32
}

// warmSteps is how far chains are followed in advance.
const warmSteps = 3

// warm brings the buckets and entries that the packets will look at into the
// processor's caches, and changes nothing. What it finds is only likely.
func (t *Table) warm(b *batch, n int) {
	links := t.follow(b, n)
	heat := uint32(0)
	var fresh batch
	m := 0
	for i := range n {
		e := &t.entries[links[i]>>1]
		heat += e.track.lastSeq
		if links[i] == 0 && m < n {
			// A new flow: the chain of its answers will be measured too.
			fresh.keys[m], _ = b.keys[i].invert()
			fresh.hashes[m] = t.hash(&fresh.keys[m])
			m++
		}
		links[i] = e.side
	}
	if m > 0 {
		t.follow(&fresh, m)
		heat += t.entries[t.free].ports
		if t.max != 0 && t.count+m > t.max {
			heat += t.warmVictims(b, n)
		}
	}
	if len(t.sides) > 0 {
		for i := range n {
			s := &t.sides[links[i]]
			heat += s.keys[reply].meta
		}
	}
	t.heat = heat
}

// warmVictims fetches the first entries of the buckets in which early drop would
// search.
func (t *Table) warmVictims(b *batch, n int) (heat uint32) {
	for i := range n {
		from := int(t.bucket(b.hashes[i]))
		for _, l := range t.heads[from:min(from+t.rules.evictBuckets, len(t.heads))] {
			heat += t.entries[l>>1].deadline
		}
	}
	return heat
}

// follow walks the chains of keys and returns the links at which they probably
// end, 0 where a chain does. Loads that do not depend on each other overlap; so
// each step is done for all keys, without a branch that would wait for memory.
func (t *Table) follow(b *batch, n int) (links [BatchSize]int32) {
	for i := range n {
		links[i] = t.heads[t.bucket(b.hashes[i])]
	}
	for range warmSteps {
		for i := range n {
			l, k, h := links[i], &b.keys[i], b.hashes[i]
			e := &t.entries[l>>1]
			next := e.next[l&1]
			// The addresses have the same sum either way; side records are
			// known by the key's hash.
			plain := ((e.src + e.dst) ^ uint32(k.src.lo+k.dst.lo)) | (e.meta ^ k.meta)
			aside := (e.src ^ h) * (e.dst ^ h)
			found := -int32(((uint64(plain) - 1) | (uint64(aside) - 1)) >> 63)
			links[i] = next ^ (next^l)&found
		}
	}
	return links
}
