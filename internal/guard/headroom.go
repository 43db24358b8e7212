package guard

import (
	"fmt"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// limitState is what the policy knows of nf_conntrack_max.
type limitState struct {
	before   int64 // as the administrator has it
	ours     int64 // as we have set it; 0 if we have not
	ladder   []int64
	aside    bool // somebody else writes it
	calmAt   time.Duration
	raisedAt time.Duration
	memory   Reading // the latest with memory
	hasMem   bool
	memAt    time.Duration
	ceiling  int64
	// bucketsBefore is what nf_conntrack_buckets was before we changed it, 0 if
	// we have not; shrunk is set once they were made fewer.
	bucketsBefore int64
	shrunk        bool
	// slight: it was raised only to leave less to chance, in a table that the
	// kernel copes with.
	slight bool
}

// take learns max and notices writes of others.
func (l *limitState) take(p *Policy, r *Reading) {
	if r.HasMemory {
		l.memory, l.hasMem, l.memAt = *r, true, r.At
		l.memory.Table = nil
	}
	if l.before == 0 {
		l.before = r.Max
		if b := p.around.MaxBefore; b > 0 && b != r.Max {
			l.before, l.ours = b, r.Max // an earlier guard has raised it
		}
	}
	expected := l.before
	if l.ours != 0 {
		expected = l.ours
	}
	if p.busy[KindMax] == 0 && r.Max != expected && r.Max > 0 {
		p.note("nf_conntrack_max became %d, and not by this guard (it was %d): it is left to whoever sets it", r.Max, expected)
		l.before, l.ours, l.aside, l.ladder = r.Max, 0, true, nil
	}
	if l.ladder == nil && l.hasMem && l.before > 0 {
		l.ceiling = Ceiling(&p.cfg, l.before, p.around.EntryBytes, l.memory.AvailableBytes, l.memory.BusyNamespaces)
		l.ladder = Ladder(l.before, l.ceiling)
	}
}

// wantsMemory: once at the start, every minute, and often while max waits to
// be lowered or memory is being taken.
func (l *limitState) wantsMemory(p *Policy, r *Reading) bool {
	every := time.Minute
	if l.ours != 0 || p.level >= Pressure {
		every = time.Second
	}
	return !l.hasMem || r.At-l.memAt >= every
}

// horizon is for how long a raised limit is to last at the present growth.
const horizon = 60 * time.Second

// exhausted reports whether max cannot be raised (any more).
func (p *Policy) exhausted(r *Reading) bool {
	l := &p.limit
	return !p.cfg.Headroom || !p.around.MaxOurs || l.aside || len(l.ladder) == 0 ||
		r.Max >= l.ladder[len(l.ladder)-1] || r.At < p.off[KindMax] && p.cfg.Enforce
}

// threatened: the kernel refuses, or will before a slower means can act.
func (p *Policy) threatened(o *outlook) bool {
	return o.trouble < p.cfg.EmergencyFull || o.fill >= p.cfg.EmergencyFill && !o.copes
}

// headroom raises max inside the memory bound, at once, to what a minute of the
// present growth needs, or takes it back when the count allows.
func (p *Policy) headroom(r *Reading, o *outlook) []*Action {
	l := &p.limit
	if (l.ours != 0 || l.bucketsBefore != 0) && p.level < Pressure {
		if l.calmAt == 0 {
			l.calmAt = r.At
		}
		if r.At-l.calmAt >= 2*p.cfg.Leave {
			return l.back(p, r, "the attack is over and the count allows it")
		}
		return nil
	}
	l.calmAt = 0
	if p.level < Pressure || !p.threatened(o) && !o.tight || !p.free(KindMax, r.At) || p.exhausted(r) {
		return nil
	}
	locked, rate := p.trend.unevictable()
	need := int64(locked+rate*horizon.Seconds()) + o.reserve
	if o.tight {
		need = r.Max + 1 // a step at a time
	}
	if !p.trend.assuredKnown {
		need = max(need, r.Count+int64(o.arrivals*horizon.Seconds()))
	}
	to := l.rung(p, r, max(need, r.Max+1))
	grow := p.grow(r, to)
	if grow == nil {
		to = l.within(to, r.Buckets*chainRoom(p.around.Version))
	}
	if to <= r.Max {
		p.once(r.At, "memory", "nf_conntrack_max stays at %d: there is no memory for more, or no room in %d buckets", r.Max, r.Buckets)
		p.off[KindMax] = r.At + 5*time.Second
		return nil
	}
	l.slight = o.tight && (l.ours == 0 || l.slight)
	list := []*Action{{Kind: KindMax, Max: &Change{r.Max, to},
		Why: fmt.Sprintf("%s; a higher limit harms nobody and takes up to %d MiB", p.trouble(o), (to-r.Max)*max(p.around.EntryBytes, 256)>>20)}}
	if grow != nil {
		list = append([]*Action{grow}, list...)
	}
	return list
}

// chainRoom is how many entries a bucket takes before the chain limit refuses
// newcomers (__nf_conntrack_confirm): each stands in two chains, of which none
// may grow beyond 8 to 31 in 5.15 to 6.0, and 50 to 79 later. Before 5.15 long
// chains only cost time.
func chainRoom(v ct.KernelVersion) int64 {
	if v.AtLeast(5, 15) && !v.AtLeast(6, 1) {
		return 2
	}
	return 10
}

// grow makes the hash table larger before max rises beyond what its chains
// hold, where that stalls new entries for some 50 ms at most.
func (p *Policy) grow(r *Reading, to int64) *Action {
	if to <= r.Buckets*chainRoom(p.around.Version) || !p.cfg.Buckets || !p.free(KindBuckets, r.At) || r.Count > cheapResize {
		return nil
	}
	return &Action{Kind: KindBuckets, Buckets: &Change{r.Buckets, (to/4 + 511) / 512 * 512},
		Why: fmt.Sprintf("%d entries would not fit into the chains of %d buckets; with %d entries now the resize takes %d ms", to, r.Buckets, r.Count, r.Count/2000+1)}
}

// cheapResize is the number of entries up to which a resize is hardly felt: it
// takes half a microsecond an entry.
const cheapResize = 100_000

// within is the highest value of the ladder not above a bound, 0 if none is.
func (l *limitState) within(to, bound int64) (best int64) {
	for _, v := range l.ladder {
		if v <= min(to, bound) {
			best = v
		}
	}
	return best
}

// back takes what we have changed back, max first and then the buckets.
func (l *limitState) back(p *Policy, r *Reading, why string) (list []*Action) {
	if a := l.lower(p, r, why); a != nil {
		return []*Action{a}
	}
	if l.ours == 0 && l.bucketsBefore != 0 && p.free(KindBuckets, r.At) && r.Count <= cheapResize {
		return []*Action{{Kind: KindBuckets, Undo: true, Buckets: &Change{r.Buckets, l.bucketsBefore}, Why: why}}
	}
	return nil
}

// resized keeps what became of the buckets.
func (l *limitState) resized(p *Policy, res *Result) {
	switch {
	case res.Err != nil || res.Foreign:
		p.off[KindBuckets] = res.At + time.Minute
	case res.Action.Undo:
		l.bucketsBefore = 0
	default:
		if l.bucketsBefore == 0 {
			l.bucketsBefore = res.Action.Buckets.From
		}
		l.shrunk = l.shrunk || res.Action.Buckets.To < res.Action.Buckets.From
	}
}

// rung is the lowest value of the ladder that is at least need, or the highest
// that memory allows now: a twentieth of it stays free.
func (l *limitState) rung(p *Policy, r *Reading, need int64) int64 {
	best := r.Max
	for _, v := range l.ladder {
		cost := (v - r.Count) * max(p.around.EntryBytes, 256)
		if l.hasMem && l.memory.AvailableBytes-cost < l.memory.TotalBytes/20 {
			break
		}
		if best = max(best, v); best >= need {
			break
		}
	}
	return best
}

// lower takes max back to what it was if the fullest namespace leaves room.
func (l *limitState) lower(p *Policy, r *Reading, why string) *Action {
	if l.ours == 0 || p.busy[KindMax] != 0 || l.aside {
		return nil
	}
	count := r.HighestCount
	if l.hasMem {
		count = max(count, l.memory.HighestCount)
	}
	if count > l.before*5/6 {
		p.once(r.At, "deferred", "nf_conntrack_max stays at %d for now: %d entries are more than %d allows (revert-deferred)", r.Max, count, l.before)
		return nil
	}
	if r.At < p.off[KindMax] {
		return nil
	}
	return &Action{Kind: KindMax, Undo: true, Max: &Change{r.Max, l.before}, Why: why}
}

func (l *limitState) done(p *Policy, res *Result) {
	switch {
	case res.Foreign:
		l.before, l.ours, l.aside, l.ladder = res.Got, 0, true, nil
	case res.Err != nil:
	case res.Action.Undo && res.Got == l.before:
		l.ours = 0
	case res.Got > 0:
		l.ours, l.raisedAt = res.Got, res.At
		if l.ours == l.before {
			l.ours = 0
		}
	}
}

// trouble says in words what is coming.
func (p *Policy) trouble(o *outlook) string {
	switch {
	case o.refusing:
		return fmt.Sprintf("the kernel refuses %.0f new connections a second", p.trend.refused(trendSpan))
	case o.tight:
		return fmt.Sprintf("at %.0f new entries a second early drop, which the kernel copes by, would now and then find no victim by chance", o.arrivals)
	case o.trouble < forever:
		return fmt.Sprintf("at %.0f new entries a second the kernel refuses connections in %s", o.arrivals, roughly(o.trouble))
	}
	return fmt.Sprintf("the table is %.0f %% full", 100*o.fill)
}

// resize takes fewer buckets, once in a run and only where the configuration
// allows it, when early drop finds no victim because of their number and max
// cannot be raised to match them.
func (p *Policy) resize(r *Reading, o *outlook) *Action {
	if !p.cfg.Buckets || p.limit.shrunk || !p.around.MaxOurs || !p.threatened(o) || !p.exhausted(r) ||
		!p.free(KindBuckets, r.At) || r.Buckets <= 2*r.Max {
		return nil
	}
	if r.Count > cheapResize {
		p.once(r.At, "resize", "the hash table is not resized: with %d entries new connections would stall for %d ms", r.Count, r.Count/2000)
		return nil
	}
	to := max(r.Max/2, 1024)
	return &Action{Kind: KindBuckets, Buckets: &Change{r.Buckets, to},
		Why: fmt.Sprintf("early drop finds no victim: %d entries lie in %d buckets", r.Count, r.Buckets)}
}
