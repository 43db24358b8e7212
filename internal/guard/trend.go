package guard

import (
	"math"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// trend keeps the readings of the last seconds and tells rates.
type trend struct {
	ring [128]point
	n    int // readings taken so far

	// assured and its growth a second, told from readings of the table.
	assured      float64
	assuredRate  float64
	assuredAt    time.Duration
	rateKnown    bool
	assuredKnown bool
}

type point struct {
	at                                time.Duration
	count                             int64
	drop, early, invalid, insertFails uint64
	resets                            uint64
}

func (t *trend) last() *point { return &t.ring[(t.n-1)%len(t.ring)] }

// add takes a reading. The kernel's counters are 32 bits wide and wrap; what
// is kept are totals since the first reading.
func (t *trend) add(r *Reading, before ct.Counters) {
	p := point{at: r.At, count: r.Count, resets: r.Resets}
	if t.n > 0 {
		l, d := t.last(), r.Counters.Sub(before)
		p.drop, p.early = l.drop+uint64(d.Drop), l.early+uint64(d.EarlyDrop)
		p.invalid, p.insertFails = l.invalid+uint64(d.Invalid), l.insertFails+uint64(d.InsertFailed)
	}
	t.ring[t.n%len(t.ring)] = p
	t.n++
}

// since returns the latest reading that is at least d older than the last,
// the oldest kept if none is.
func (t *trend) since(d time.Duration) *point {
	l := t.last()
	for back := 2; back <= min(t.n, len(t.ring)); back++ {
		p := &t.ring[(t.n-back)%len(t.ring)]
		if l.at-p.at >= d || back == min(t.n, len(t.ring)) {
			return p
		}
	}
	return l
}

// perSecond is the growth of a figure over the last d.
func (t *trend) perSecond(d time.Duration, of func(*point) float64) float64 {
	l, p := t.last(), t.since(d)
	if l.at <= p.at {
		return 0
	}
	return (of(l) - of(p)) / (l.at - p.at).Seconds()
}

func (t *trend) growth(d time.Duration) float64 {
	return t.perSecond(d, func(p *point) float64 { return float64(p.count) })
}

func (t *trend) refused(d time.Duration) float64 {
	return t.perSecond(d, func(p *point) float64 { return float64(p.drop) })
}

func (t *trend) evicted(d time.Duration) float64 {
	return t.perSecond(d, func(p *point) float64 { return float64(p.early) })
}

// harm is what grows when a defence hurts: resets and invalid packets.
func (t *trend) harm(d time.Duration) float64 {
	return t.perSecond(d, func(p *point) float64 { return float64(p.resets + p.invalid) })
}

// arrivals estimates new entries a second: what the table grew by and what was
// evicted or refused besides.
func (t *trend) arrivals(d time.Duration) float64 {
	return max(t.growth(d), 0) + t.evicted(d) + t.refused(d)
}

// table takes a reading of the composition: how many entries the kernel may
// not evict, and how fast they become more.
//
// span is how old the reading before may be to tell a rate with this one. What
// has just begun does not show against one from before it.
func (t *trend) table(r *Reading, span time.Duration) {
	c := r.Table.Census
	if c == nil || c.Entries == 0 {
		return
	}
	// The count moves while the table is read, and under a flood by much: what was
	// read to its end is taken as it is.
	n, at := float64(r.Count), r.At
	if r.Table.Count > 0 {
		n, at = float64(r.Table.Count+r.Count)/2, r.At-r.Table.Took/2
	}
	if c.Complete {
		n = float64(c.Entries)
	}
	a := c.Share(c.Sum(func(k ct.ClassKey) bool { return k.Assured })) * n
	switch since := at - t.assuredAt; {
	case !t.assuredKnown || since > span:
		// The best guess: what comes is like what is there.
		t.assuredRate, t.rateKnown = a/float64(max(r.Count, 1))*max(t.growth(burstSpan), 0), false
	case since > 0 && t.rateKnown:
		t.assuredRate = (t.assuredRate + t.lockRate(r, a, at)) / 2
	case since > 0:
		t.assuredRate, t.rateKnown = t.lockRate(r, a, at), true
	}
	t.assured, t.assuredAt, t.assuredKnown = a, at, true
}

// How old a reading of the table may be to tell a rate with the next, in calm
// and in the midst of an incident.
const (
	pairSpan     = 1500 * time.Millisecond
	pairSpanLong = 15 * time.Second
)

// lockRate is the growth of assured entries since the reading of the table
// before.
func (t *trend) lockRate(r *Reading, assured float64, at time.Duration) float64 {
	d := assured - t.assured
	scale := max(float64(r.Count)/float64(r.Table.Census.Entries), 1)
	if math.Abs(d) < 2*math.Sqrt(math.Abs(d)*scale) {
		return 0 // as much may be the panel's chance
	}
	return d / (at - t.assuredAt).Seconds()
}

// unevictable estimates the entries that early drop cannot evict now, and how
// fast they become more. Where the composition was never read, all are.
func (t *trend) unevictable() (n, perSecond float64) {
	l := t.last()
	if !t.assuredKnown {
		return float64(l.count), max(t.growth(time.Second), 0)
	}
	grown := t.assuredRate * min((l.at-t.assuredAt).Seconds(), 2)
	return min(max(t.assured+grown, 0), float64(l.count)), max(t.assuredRate, 0)
}
