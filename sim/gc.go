package sim

import (
	"math"

	"github.com/ctwarden/ctwarden/ct"
)

// Cost of garbage collection in nanoseconds, measured on 6.18 over a table of
// 262144 buckets and as many entries. It decides how many buckets one slice of
// 10 ms covers.
const (
	gcBucketNanos = 100
	gcLinkNanos   = 250
	gcSliceNanos  = 10e6
)

type gcState struct {
	due     Time    // when the next slice runs
	next    uint32  // bucket at which it starts
	pressed bool    // an allocation failed since the flag was last cleared
	scale   float64 // see [Config.Scale]
	// Adaptive kernels.
	allowed float64 // evictions left over from slices before
	begin   Time
	mean    int64 // jiffies
	seen    int64
	// 4.12 to 5.14.
	interval int64 // jiffies

	// While no packet comes, passes that find nothing to do are left out.
	quiet    int    // buckets looked at in a row without an eviction
	earliest uint32 // the first deadline among their entries
}

// note keeps the first deadline.
func (g *gcState) note(deadline uint32) {
	if int32(deadline-g.earliest) < 0 {
		g.earliest = deadline
	}
}

// startGC lets collection begin at a random point of its period, as if the
// host had been up for long.
func (t *Table) startGC() {
	period := 60 * int64(t.knobs.HZ)
	switch t.rules.gc {
	case gcSlices:
		period = max(16*int64(t.knobs.HZ)/128, 1)
		t.gc.interval = period
	case gcPasses:
		period *= 2
	}
	t.gc.due = t.now + Time(1+int64(t.uniform(uint32(period))))*t.tick
}

// runGC runs the slices that are due before at, each at its own instant.
func (t *Table) runGC(at Time) {
	g := &t.gc
	if g.due > at {
		return
	}
	g.rest(t.jiffies)
	for g.due <= at {
		if g.due > t.now {
			t.setClock(g.due)
		}
		delay := max(t.gcSlice(), t.tick)
		g.due = t.now + delay
		if g.quiet >= len(t.heads) {
			t.skipQuiet(at, delay)
		}
	}
}

// skipQuiet leaves out the passes before anything can run out, once a whole
// pass has found nothing: without packets nothing changes meanwhile.
func (t *Table) skipQuiet(at, delay Time) {
	g := &t.gc
	until := at
	if t.count > 0 {
		until = min(until, t.now+Time(int32(g.earliest-t.jiffies))*t.tick)
	}
	if n := (until - g.due) / delay; n > 0 {
		g.due += n * delay
	}
	g.rest(t.jiffies)
}

// rest begins the search for a quiet pass anew.
func (g *gcState) rest(jiffies uint32) { g.quiet, g.earliest = 0, jiffies+1<<30 }

// look notes what a slice found in one bucket.
func (g *gcState) look(evicted bool) {
	g.quiet++
	if evicted {
		g.quiet = 0
	}
}

// gcSlice does one piece of work and returns how long to wait after it.
func (t *Table) gcSlice() Time {
	if t.rules.gc == gcSlices {
		return t.gcFraction()
	}
	return t.gcScan()
}

// threshold returns the count from which collection evicts live entries, 0 if
// it must not.
func (t *Table) threshold() int {
	if !t.gc.pressed {
		return 0
	}
	return t.max / 100 * 95
}

// gcFraction looks at one 128th of the buckets; a slice of which more than half
// had expired brings the next one early (gc_worker of 4.12 to 5.14).
func (t *Table) gcFraction() Time {
	limit := t.threshold()
	b := t.gc.next
	var scanned, expired int64
	for range max(len(t.heads)/128, 1) {
		if b++; int(b) >= len(t.heads) {
			b = 0
		}
		if b%BatchSize == 0 {
			t.warmBuckets(int(b), false)
		}
		before := t.count
		for l := t.heads[b]; l != 0; {
			scanned++
			e := &t.entries[l>>1]
			switch {
			case e.expired(t.jiffies):
				expired++
				l = t.reap(l)
			case limit != 0 && t.count >= limit && canEvict(e):
				l = t.evict(l, CauseGC)
			default:
				t.gc.note(e.deadline)
				l = e.next[l&1]
			}
		}
		t.gc.look(t.count != before)
	}
	t.gc.next = b
	t.gc.pressed = false
	shortest := max(int64(t.knobs.HZ)/128, 1)
	if scanned > 0 && expired*100/scanned > 50 {
		t.gc.interval = shortest
	} else {
		t.gc.interval = min(t.gc.interval+shortest, int64(t.knobs.HZ)*16/128)
	}
	return Time(t.gc.interval) * t.tick
}

// gcScan goes on with the pass for at most 10 ms, and waits at its end for 120 s;
// from 5.19 on also for at most a budget of evictions, and for the mean of what is
// left on the entries (gc_worker).
func (t *Table) gcScan() Time {
	hz := int64(t.knobs.HZ)
	g := &t.gc
	if g.next == 0 {
		g.mean, g.seen, g.begin = 60*hz, max(int64(float64(t.rules.gcInitial)*g.scale), 1), t.now
	}
	// The kernel stops when it has gone over its budget by one.
	g.allowed += float64(64000/hz+1) * g.scale
	if t.rules.gc == gcPasses {
		g.allowed = math.Inf(1)
	}
	limit, spent := t.threshold(), int64(0)
	spend := int64(gcSliceNanos * g.scale)
	for ; int(g.next) < len(t.heads); g.next++ {
		if spent > spend {
			g.endSlice()
			return Time(float64(spent) / g.scale)
		}
		if g.next%BatchSize == 0 {
			t.warmBuckets(int(g.next), false)
		}
		spent += gcBucketNanos
		before := t.count
		for l := t.heads[g.next]; l != 0; {
			if g.allowed < 1 {
				// The flag goes down unless the pass is overdue.
				if t.now-g.begin < 60e9 {
					g.pressed = false
				}
				return t.tick
			}
			spent += gcLinkNanos
			e := &t.entries[l>>1]
			if e.expired(t.jiffies) {
				l = t.reap(l)
				g.allowed--
				continue
			}
			g.seen++
			left := min(max(int64(int32(e.deadline-t.jiffies)), hz), 300*hz)
			g.mean += (left - g.mean) / g.seen
			if limit != 0 && t.count >= limit && canEvict(e) {
				l = t.evict(l, CauseGC)
				g.allowed--
				continue
			}
			g.note(e.deadline)
			l = e.next[l&1]
		}
		g.look(t.count != before)
	}
	g.next = 0
	g.endSlice()
	g.pressed = false
	if t.rules.gc == gcPasses {
		return 120e9
	}
	wait := Time(min(max(g.mean, hz), 60*hz)) * t.tick
	return max(wait-max(t.now-g.begin, t.tick), t.tick)
}

// endSlice lets what was not used of the budget go; on a thinned table as much
// of it stays as stands for less than one entry.
func (g *gcState) endSlice() { g.allowed = min(g.allowed, 1-g.scale) }

// canEvict reports whether collection may take a live entry under pressure
// (gc_worker_can_early_drop).
func canEvict(e *entry) bool {
	if !e.has(ct.StatusAssured) {
		return true
	}
	switch e.proto() {
	case ct.TCP:
		return tcpClosing(ct.State(e.state))
	case ct.SCTP:
		s := ct.State(e.state)
		return s == ct.SCTPShutdownSent || s == ct.SCTPShutdownRecd || s == ct.SCTPShutdownAckSent
	case ct.DCCP:
		s := ct.State(e.state)
		return s == ct.DCCPCloseReq || s == ct.DCCPClosing || s == ct.DCCPTimeWait
	}
	return false
}
