package guard

import (
	"fmt"
	"math"
	"time"
)

// outlook is what the readings foretell.
type outlook struct {
	fill     float64
	arrivals float64 // entries a second
	// full is when the table reaches max at the present growth, trouble when
	// the kernel begins to refuse: not before the table is full and what it
	// could evict is used up. forever if neither comes.
	full, trouble time.Duration
	// soon is full, if what has just begun goes on: reason to look, not to act.
	soon time.Duration
	// reserve is how many entries must be free or disposable at the limit.
	reserve  int64
	refusing bool
	// copes: the table is or will be full, and early drop finds a victim for
	// every newcomer.
	copes bool
	// left: it is full or about to be, and best left to the kernel.
	left bool
	// tight: left to the kernel, it would refuse a packet now and then by chance,
	// which a higher limit prevents.
	tight bool
}

// hopeless: whatever the table is made of, early drop does not keep up, because
// it looks at too few entries in so many buckets.
func (o *outlook) hopeless() bool { return o.reserve == noReserve }

const forever = time.Duration(math.MaxInt64)

// spans over which growth is told: a burst shows in the first, a trend in the
// second.
const (
	burstSpan = 250 * time.Millisecond
	trendSpan = time.Second
)

func (p *Policy) foresee(r *Reading) (o outlook) {
	t := &p.trend
	o.full, o.trouble, o.soon = forever, forever, forever
	if r.Max <= 0 {
		return o
	}
	o.fill = float64(r.Count) / float64(r.Max)
	fast, slow := t.growth(burstSpan), t.growth(trendSpan)
	if t.last().at-t.since(trendSpan).at < trendSpan*4/5 {
		slow = 0 // too few readings for a trend
	}
	burst := t.burst(r.Max)
	fast = max(t.sustained(fast, r.Max), burst)
	// One burst is no trend: it counts at once only where little is left.
	growth := slow
	if fast > slow && until(float64(r.Max-r.Count), fast) < p.cfg.EmergencyFull {
		growth = fast
	}
	o.arrivals = max(t.arrivals(trendSpan), growth)
	o.full = until(float64(r.Max-r.Count), growth)
	o.soon = min(o.full, until(float64(r.Max-r.Count), burst))
	// What was refused before max rose is past.
	span := min(trendSpan, max(r.At-p.limit.raisedAt, burstSpan))
	o.refusing = o.fill >= 0.9 && (t.refused(span) >= max(2, o.arrivals/1000) || t.refusesFew(r.At-p.limit.raisedAt))
	if p.level == Calm && o.fill < p.cfg.WatchFill && o.full >= p.cfg.WatchFull {
		return o // nothing that asks for more: in calm each reading is to cost next to nothing
	}
	o.reserve = reserve(p.around.Version, max(o.arrivals, 1), fewRefusals, r.Max, r.Buckets)

	locked, lockedRate := t.unevictable()
	room := float64(r.Max) - float64(o.reserve) - locked
	locks := until(room, lockedRate)
	o.trouble = max(o.full, locks)
	if !t.assuredKnown || !t.rateKnown && t.last().at-t.assuredAt > 2*pairSpan {
		o.trouble = o.full
	}
	if o.refusing {
		o.trouble = 0
	}
	o.copes = !o.refusing && t.rateKnown && locks > p.cfg.PressureFull && room > 0
	o.left = o.copes && (o.fill >= p.cfg.EmergencyFill || o.full < p.cfg.EmergencyFull)
	o.tight = o.left && float64(r.Max)-locked < float64(reserve(p.around.Version, o.arrivals, almostNone, r.Max, r.Buckets))
	return o
}

// refusesFew: of the few that come, a good part is refused. One refused packet, or
// one in a thousand, is a race of processors or a chance that early drop had not.
func (t *trend) refusesFew(sinceRaised time.Duration) bool {
	span := min(10*time.Second, sinceRaised)
	l, p := t.last(), t.since(span)
	n := l.drop - p.drop
	return n >= 2 && float64(n) >= t.arrivals(span)*(l.at-p.at).Seconds()/10
}

// sustained is the growth of a burst that goes on. A handful of connections
// opened at once is none: it is over with the next reading, and a few
// milliseconds tell no rate unless a good part of the table went in them.
func (t *trend) sustained(fast float64, limit int64) float64 {
	l, p := t.last(), t.since(burstSpan)
	if l.at-p.at < burstSpan/2 && l.count-p.count < limit/10 {
		return 0
	}
	if recent := t.growth(burstSpan / 3); recent < fast/2 {
		return max(recent, 0)
	}
	return fast
}

// burst is the growth that two readings in succession show, if it is more than
// what a busy moment brings.
func (t *trend) burst(limit int64) float64 {
	l, m := t.last(), t.since(confirmIn*3/4)
	f := t.since(l.at - m.at + confirmIn*3/4)
	if m.at >= l.at || f.at >= m.at || l.count-f.count < max(limit/200, leastBurst) {
		return 0
	}
	now, before := float64(l.count-m.count)/(l.at-m.at).Seconds(), float64(m.count-f.count)/(m.at-f.at).Seconds()
	if now < before/2 || before < now/20 {
		return 0
	}
	return now
}

// leastBurst is how many entries a service may well come by at once: when it
// begins, or after a hiccup of the network.
const leastBurst = 400

// suspicious: the last reading shows that something may have begun.
func (t *trend) suspicious(limit int64) bool {
	l, p := t.last(), t.since(confirmIn)
	return l.at-p.at < 2*tick && l.count-p.count >= max(limit/100, leastBurst/2)
}

// confirmIn is how soon after a reading that shows that something may have begun
// the next one is taken.
const confirmIn = 40 * time.Millisecond

// until is when a quantity that grows reaches a distance.
func until(distance, perSecond float64) time.Duration {
	if distance <= 0 {
		return 0
	}
	if perSecond <= 0 {
		return forever
	}
	s := distance / perSecond
	if s > 1e9 {
		return forever
	}
	return time.Duration(s * float64(time.Second))
}

// call says which level the outlook calls for, and why.
func (p *Policy) call(o *outlook) (Level, string) {
	c := &p.cfg
	switch {
	case o.refusing:
		return Emergency, fmt.Sprintf("the kernel refuses %.0f new connections a second", p.trend.refused(trendSpan))
	case !p.trend.rateKnown && (p.asked < 2 || p.trend.last().at < p.patience) && o.trouble < c.EmergencyFull:
		return Pressure, fmt.Sprintf("the table would be full in %s", roughly(o.full))
	case o.left:
		return Pressure, "the table fills, but with entries that the kernel evicts for newcomers"
	case o.trouble < c.EmergencyFull:
		return Emergency, fmt.Sprintf("the kernel will refuse connections in %s", roughly(o.trouble))
	case o.fill >= c.EmergencyFill:
		return Emergency, fmt.Sprintf("the table is %.0f %% full", 100*o.fill)
	case o.trouble < c.PressureFull:
		return Pressure, fmt.Sprintf("the kernel will refuse connections in %s", roughly(o.trouble))
	case o.fill >= c.PressureFill:
		return Pressure, fmt.Sprintf("the table is %.0f %% full", 100*o.fill)
	case o.soon < c.WatchFull:
		return Watch, fmt.Sprintf("the table would be full in %s", roughly(o.soon))
	case o.fill >= c.WatchFill:
		return Watch, fmt.Sprintf("the table is %.0f %% full", 100*o.fill)
	}
	return Calm, ""
}

func roughly(d time.Duration) string {
	switch {
	case d < 100*time.Millisecond:
		return "no time"
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
