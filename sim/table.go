package sim

import (
	"math/bits"
	"math/rand/v2"
	"unsafe"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim/internal/hook"
)

// Table is the connection tracking of one network namespace. It is not safe
// for concurrent use; make one for each goroutine.
type Table struct {
	era    Era
	rules  *rules
	max    int
	knobs  Knobs
	nat    natState
	events func(Event)
	log    func(Time, string)

	now     Time
	jiffies uint32
	tickEnd Time // the instant at which jiffies grows next
	tick    Time // length of a jiffy

	timeouts    [ct.NumTimeouts]uint32 // in jiffies; wraps where negative
	tcpTimeouts [numTCPTimeouts]uint32
	started     Time

	secret   [4]uint64
	rng      *rand.PCG
	heads    []int32 // first link of each bucket
	entries  []entry // number 0 is not used
	tracks   []track // parallel to entries
	sides    []side  // number 0 is not used
	acct     []acct  // parallel to entries while accounting is on
	free     int32
	freeSide int32
	// count is what nf_conntrack_count shows: confirmed and unconfirmed
	// entries, expired ones that nothing has walked over included.
	count int
	peak  int // the largest count
	ahead ahead

	gc       gcState
	memory   func([]byte)
	limiter  ratelimit
	watch    func(hook.Cell)
	counters ct.Counters
}

// mostReserved is for how many entries room is made at once: 1.5 GiB.
const mostReserved = 1 << 24

// reserve is for how many entries room is made at once. Memory that is not
// touched costs nothing, and a slice that never grows is never copied.
func (t *Table) reserve() int {
	if t.max == 0 {
		return 1 << 10
	}
	return min(t.max+2, mostReserved)
}

// tell announces a slice that will be filled.
func tell[T any](t *Table, s []T) {
	if size := cap(s) * int(unsafe.Sizeof(*new(T))); t.memory != nil && t.max != 0 && size > 0 {
		t.memory(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), size))
	}
}

type acct struct{ dir [2]ct.DirCounters }

// New makes an empty table. Errors are about the configuration.
func New(c Config) (*Table, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	t := &Table{
		era: c.Era, max: c.Max, knobs: c.Knobs, events: c.Events, log: c.Log,
		tick: Time(1e9 / c.Knobs.HZ), rng: rand.NewPCG(c.Seed, 0x63747761726465),
		heads: make([]int32, c.Buckets),
	}
	if c.Scale == 0 {
		c.Scale = 1
	}
	t.gc.scale = c.Scale
	t.rules = &t.era.rules
	for i := range t.secret {
		t.secret[i] = t.rng.Uint64() | 1
	}
	t.memory = c.Memory
	t.entries = make([]entry, 1, t.reserve())
	t.tracks = make([]track, 1, t.reserve())
	tell(t, t.entries)
	tell(t, t.tracks)
	tell(t, t.heads)
	t.nat.init(c.NAT, c.Buckets)
	t.SetTimeouts(&c.Timeouts)
	t.counters.Has = t.counterSet()
	t.started = -1
	return t, nil
}

func (t *Table) counterSet() ct.CounterSet {
	s := ct.CounterFound | ct.CounterInvalid | ct.CounterInsert | ct.CounterInsertFailed |
		ct.CounterDrop | ct.CounterEarlyDrop | ct.CounterError | ct.CounterSearchRestart
	if t.rules.clashCounter {
		s |= ct.CounterClashResolve
	}
	if t.rules.chainCounter {
		s |= ct.CounterChainTooLong
	}
	return s
}

// Era returns the table's kernel era.
func (t *Table) Era() Era { return t.era }

// Now returns the latest instant that the table has seen.
func (t *Table) Now() Time { return t.now }

// Count returns what nf_conntrack_count shows: all entries in the table and in
// flight, with the expired that nothing has walked over yet.
func (t *Table) Count() int { return t.count }

// Peak returns the largest count so far, that of packets in flight included.
func (t *Table) Peak() int { return t.peak }

// Counters returns the counters of conntrack -S. They are 32 bits wide and wrap.
func (t *Table) Counters() ct.Counters { return t.counters }

// Max returns nf_conntrack_max.
func (t *Table) Max() int { return t.max }

// SetMax changes nf_conntrack_max. Nothing is evicted at once; 0 is no limit.
func (t *Table) SetMax(n int) { t.max = n }

// Buckets returns the number of buckets.
func (t *Table) Buckets() int { return len(t.heads) }

// SetBuckets resizes the table, keeping every entry (nf_conntrack_hash_resize).
func (t *Table) SetBuckets(n int) {
	old := t.heads
	t.heads = make([]int32, n)
	tell(t, t.heads)
	for _, l := range old {
		for l != 0 {
			e := &t.entries[l>>1]
			dir := int(l & 1)
			next := e.next[dir]
			k := t.key(e, dir)
			t.push(t.bucket(t.hash(&k)), l)
			l = next
		}
	}
	t.gc.next = 0
}

// SetTimeouts changes the timeouts. As in the kernel, an entry takes the new
// value with its next packet. Timeouts that are not set keep their value.
func (t *Table) SetTimeouts(s *ct.Timeouts) {
	for k := range ct.NumTimeouts {
		if v, ok := s.Get(k); ok {
			t.timeouts[k] = t.seconds(v)
		}
	}
	if _, own := s.Get(ct.TimeoutUDPLite); !own {
		t.timeouts[ct.TimeoutUDPLite] = t.timeouts[ct.TimeoutUDP]
		t.timeouts[ct.TimeoutUDPLiteStream] = t.timeouts[ct.TimeoutUDPStream]
	}
	t.setTCPTimeouts()
}

// seconds converts a timeout to jiffies. Negative ones wrap and are in the past.
func (t *Table) seconds(s int32) uint32 { return uint32(s * int32(t.knobs.HZ)) }

// SetKnobs changes the other settings. HZ cannot change and is ignored.
func (t *Table) SetKnobs(k Knobs) {
	k.HZ = t.knobs.HZ
	t.knobs = k
}

// Advance moves the clock and lets garbage collection work. Packets do it by
// themselves.
func (t *Table) Advance(at Time) {
	if t.started < 0 {
		t.start(at)
		return
	}
	if at <= t.now {
		return
	}
	if at >= t.tickEnd {
		t.runGC(at)
		t.setClock(at)
	}
	t.now = at
}

func (t *Table) start(at Time) {
	t.started = at
	t.now = at
	t.setClock(at)
	t.startGC()
}

func (t *Table) setClock(at Time) {
	n := at / t.tick
	t.jiffies = uint32(n)
	t.tickEnd = (n + 1) * t.tick
	t.now = at
}

// uniform draws from [0, n).
func (t *Table) uniform(n uint32) uint32 {
	return uint32(uint64(uint32(t.rng.Uint64()>>32)) * uint64(n) >> 32)
}

// push puts a link at the head of a bucket.
func (t *Table) push(bucket uint32, link int32) {
	t.ahead.changed(bucket)
	t.entries[link>>1].next[link&1] = t.heads[bucket]
	t.heads[bucket] = link
}

// unlink takes a link out of its bucket.
func (t *Table) unlink(bucket uint32, link int32) {
	t.ahead.changed(bucket)
	p := &t.heads[bucket]
	for *p != link {
		if *p == 0 {
			return // a clash entry stands in one chain only
		}
		p = &t.entries[*p>>1].next[*p&1]
	}
	*p = t.entries[link>>1].next[link&1]
}

// find looks a key up and reaps the expired entries that it walks over
// (____nf_conntrack_find). It matches links of the directions in ways, a bit
// for each.
func (t *Table) find(k *key, h uint32, ways uint8) (link int32) {
	var want [2]sought
	k.sought(&want, ways)
	for l := t.heads[t.bucket(h)]; l != 0; {
		e := &t.entries[l>>1]
		if e.expired(t.jiffies) {
			l = t.reap(l)
			continue
		}
		w := &want[l&1]
		if e.ends == w.ends && e.what == w.what ||
			e.what&metaSide != 0 && ways>>(l&1)&1 != 0 && t.sameSide(e, l&1, k, h) {
			return l
		}
		l = e.next[l&1]
	}
	return 0
}

// sought is how an entry without a side record looks that has a key in one
// direction.
type sought struct{ ends, what uint64 }

// notSought is the what of no entry.
const notSought = metaIPv6

func (k *key) sought(want *[2]sought, ways uint8) {
	want[orig] = sought{k.ends(), k.what()}
	inv, invertible := k.invertPorts()
	want[reply] = sought{bits.RotateLeft64(k.ends(), 32), pair(inv, k.meta)}
	if ways&originals == 0 || k.v6() {
		want[orig].what = notSought
	}
	if ways&replies == 0 || k.v6() || !invertible {
		want[reply].what = notSought
	}
}

// sameSide compares a key with that of an entry with a side record.
func (t *Table) sameSide(e *entry, dir int32, k *key, h uint32) bool {
	return e.mark(dir) == h && t.sides[e.side()].keys[dir] == *k
}

// reap destroys the expired entry of a link and returns the link after it.
func (t *Table) reap(l int32) int32 {
	return t.evict(l, CauseExpired)
}

// alloc takes a slot for an unconfirmed entry, evicting where the table is
// full (__nf_conntrack_alloc). It returns 0 if the packet must be refused.
func (t *Table) alloc(h uint32) int32 {
	t.count++
	if t.max != 0 && t.count > t.max && !t.earlyDrop(h) {
		t.gc.pressed = true
		t.count--
		t.logFull()
		return 0
	}
	t.peak = max(t.peak, t.count)
	i := t.free
	if i != 0 {
		t.free = t.entries[i].next[0]
	} else {
		i = int32(len(t.entries))
		t.entries = append(t.entries, entry{})
		t.tracks = append(t.tracks, track{})
	}
	t.entries[i] = entry{}
	t.tracks[i] = track{}
	if t.knobs.Acct {
		t.setAcct(i, acct{})
	}
	return i
}

func (t *Table) setAcct(i int32, a acct) {
	for int(i) >= len(t.acct) {
		t.acct = append(t.acct, acct{})
	}
	t.acct[i] = a
}

// release gives the slot of an entry back that is in no chain.
func (t *Table) release(i int32) {
	e := &t.entries[i]
	t.dropSide(e)
	e.status = 0
	e.next[0] = t.free
	t.free = i
	t.count--
}

// destroy takes a confirmed entry out of the table.
func (t *Table) destroy(i int32, cause Cause) {
	t.emit(i, EventDestroy, cause)
	e := &t.entries[i]
	for dir := range 2 {
		if dir == orig && e.has(ct.StatusNATClash) {
			continue
		}
		k := t.key(e, dir)
		t.unlink(t.bucket(t.hash(&k)), i<<1|int32(dir))
	}
	if e.side() != 0 {
		t.nat.forget(t, i)
	}
	t.release(i)
}

// Delete removes an entry, as ctnetlink's delete does. It reports whether the
// entry was there.
func (t *Table) Delete(id ID) bool {
	if id <= 0 || int(id) >= len(t.entries) || !t.entries[id].has(ct.StatusConfirmed) {
		return false
	}
	t.destroy(int32(id), CauseDeleted)
	return true
}
