package guard

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// Policy decides. It is not safe for concurrent use.
type Policy struct {
	cfg    Config
	around Surroundings

	level     Level
	calledAt  time.Duration // when the level, or a higher one, was last called for
	last      Reading       // without its Table
	trend     trend
	census    *ct.Census // the latest
	tableAt   time.Duration
	tableTook time.Duration
	tables    int // readings of the table so far
	quietAt   time.Duration
	asked     int           // readings of the table asked for in a hurry
	patience  time.Duration // until then the last of them is waited for
	doubts    pause         // between looks at what turned out to be nothing
	confirmAt time.Duration // when a doubt is to be looked at again

	limit   limitState
	thins   thinState
	shares  shareState
	paces   timeoutState
	manage  manageState
	reaps   pause
	effects []effect
	off     map[Kind]time.Duration // means not to be used until then
	busy    map[Kind]int           // the action of that kind under way
	history history                // of peace
	firstAt time.Duration          // of the first reading

	incident *incident
	nextID   int
	notes    []string
	said     map[string]time.Duration
}

// pause spaces attempts out.
type pause struct {
	next time.Duration
	wait time.Duration
}

func (p *pause) due(now time.Duration) bool { return now >= p.next }

// again sets the next attempt: after least where it was worth it, else after
// twice the wait before, up to most.
func (p *pause) again(now, least, most time.Duration, worth bool) {
	if worth || p.wait == 0 {
		p.wait = least
	} else {
		p.wait = min(2*p.wait, most)
	}
	p.next = now + p.wait
}

// New makes a policy in calm.
func New(c Config, s Surroundings) *Policy {
	return &Policy{cfg: c, around: s, off: map[Kind]time.Duration{}, busy: map[Kind]int{},
		said: map[string]time.Duration{}, history: newHistory()}
}

// tick is how often the cheap figures are read.
const tick = 100 * time.Millisecond

// Step takes a reading and decides. Readings come in the order of At.
func (p *Policy) Step(r Reading) Decision {
	p.take(&r)
	o := p.foresee(&r)
	if r.Table != nil && p.census != nil && p.peaceful(&r, &o) {
		p.history.learn(p.census, r.Count)
	}
	p.quiet(&r, &o)
	want, reason := p.call(&o)
	p.move(&r, want, reason)
	var d Decision
	if !p.wait(&r, &o, &d) {
		for _, a := range p.means(&r, &o) {
			p.issue(&r, &d, a)
		}
	}
	p.record(&r, &o, &d)
	p.weigh(&r)
	p.plan(&r, &o, &d)
	d.Level, d.Notes = p.level, p.notes
	p.notes = nil
	return d
}

// take keeps what later readings are compared with.
func (p *Policy) take(r *Reading) {
	if r.HighestCount < r.Count {
		r.HighestCount = r.Count
	}
	if p.trend.n == 0 {
		p.firstAt = r.At
	}
	p.trend.add(r, p.last.Counters)
	p.limit.take(p, r)
	if r.Table != nil {
		span := pairSpan
		if p.incident != nil && !p.incident.over && p.tableAt >= p.incident.at {
			span = pairSpanLong
		}
		p.trend.table(r, span)
		p.tableAt, p.tableTook = r.At, r.Table.Took
		p.tables++
		if r.Table.Census != nil {
			p.census = r.Table.Census
		}
	}
	p.last = *r
	p.last.Table = nil
}

// record keeps the incident, and hands it out when it is over and what was done
// in it is taken back, or some minutes later.
func (p *Policy) record(r *Reading, o *outlook, d *Decision) {
	i := p.incident
	if i == nil {
		return
	}
	i.watch(r, o, p.level)
	if i.over && (p.limit.ours == 0 && p.busy[KindThin] == 0 || r.At-i.end > maxAftermath) {
		d.Ended = &i.rec
		p.incident = nil
		p.thins.total = 0
	}
}

// maxAftermath is how long the record of an incident waits for its last deeds.
const maxAftermath = 15 * time.Minute

// peaceful: nothing moves that could be the beginning of an attack.
func (p *Policy) peaceful(r *Reading, o *outlook) bool {
	return p.incident == nil && o.full >= p.cfg.WatchFull &&
		until(float64(r.Max-r.Count), p.trend.growth(burstSpan)) >= p.cfg.WatchFull
}

// move changes the level: up at once, down a step at a time when nothing has
// called for the present one for a while.
func (p *Policy) move(r *Reading, want Level, reason string) {
	switch {
	case want > p.level:
		p.note("%s -> %s: %s", p.level, want, reason)
		if want >= Pressure {
			p.doubts = pause{}
		}
		p.level, p.calledAt = want, r.At
	case want == p.level:
		p.calledAt = r.At
	case r.At-p.calledAt >= p.cfg.Leave:
		p.note("%s -> %s: nothing has called for %s for %s", p.level, p.level-1, p.level, p.cfg.Leave)
		p.level--
		p.calledAt = r.At
	}
	if p.level >= Pressure && p.incident == nil {
		p.incident = newIncident(r, !p.cfg.Enforce)
		p.thins.total = 0
	}
}

// wait asks for the composition of the table, twice, before anything is decided
// on one that has just begun to move. Where it cannot be read nothing waits for
// long.
func (p *Policy) wait(r *Reading, o *outlook, d *Decision) bool {
	known := p.trend.rateKnown && r.At-p.tableAt <= pairSpan
	switch {
	case p.level < Pressure || known:
		p.asked, p.patience = 0, 0
		return false
	case o.hopeless() && !p.exhausted(r): // the limit rises whatever the table holds
		return false
	case r.Table == nil && r.At < p.patience: // it is being read
		d.Next = p.patience - r.At
		return true
	case p.asked >= 2:
		if p.trend.rateKnown {
			p.asked = 0
		}
		p.patience = 0
		return false
	}
	// The first of two readings of the table comes at once, the second so much
	// later that a rate shows.
	p.asked++
	d.WantTable, d.TableAfter = true, time.Millisecond
	if p.trend.assuredKnown && r.At-p.tableAt <= pairSpan {
		d.TableAfter = max(pairWait-(r.At-p.tableAt), time.Millisecond)
	}
	d.Next = d.TableAfter
	p.patience = r.At + d.TableAfter + max(3*p.tableTook, lookPatience)
	return true
}

// lookPatience is how long a reading of the table is waited for, at least.
const lookPatience = 50 * time.Millisecond

// pairWait is the time between two readings of the table that tell a rate.
const pairWait = 40 * time.Millisecond

// plan says what the next reading should hold and when it should come.
func (p *Policy) plan(r *Reading, o *outlook, d *Decision) {
	d.WantMemory = p.limit.wantsMemory(p, r)
	if d.WantTable {
		return
	}
	d.Next = tick
	every, dearest := p.pace(r, o)
	d.WantTable = p.tableAt == 0 || r.At-p.tableAt >= max(every, dearest*p.tableTook)
	if p.level < Pressure && p.doubts.due(r.At) && p.trend.suspicious(r.Max) {
		// The table is read meanwhile, so that one more reading of it tells a rate.
		p.confirmAt = r.At + confirmIn
		p.doubts.again(r.At, time.Second, time.Minute, false)
		d.WantTable = d.WantTable || r.At-p.tableAt > pairSpan/2
	}
	if left := p.confirmAt - r.At; left > 0 {
		d.Next = min(d.Next, left)
	}
}

// pace is how often the table is read, and how many times as long as a reading
// takes it is left alone at least. Where nothing moves the shares of peace are
// learned: from two readings at the beginning, and then from one now and then,
// for a reading costs the more the larger the table is.
func (p *Policy) pace(r *Reading, o *outlook) (every, dearest time.Duration) {
	const hurry, leisure = 20, 5000
	switch run := r.At - p.firstAt; {
	case p.level == Emergency:
		return 300 * time.Millisecond, hurry
	case p.level == Pressure:
		return 500 * time.Millisecond, hurry
	case p.level == Watch && o.full < p.cfg.WatchFull:
		return time.Second, hurry
	case p.tables < 2:
		return 5 * time.Second, hurry
	case p.limit.ours != 0: // what an attack has left is still to go
		return time.Minute, hurry
	case p.level == Watch || run < 10*time.Minute:
		return time.Minute, leisure
	}
	return 10 * time.Minute, leisure
}

// issue numbers an action and hands it out, or says that it would.
func (p *Policy) issue(r *Reading, d *Decision, a *Action) {
	p.nextID++
	a.ID = p.nextID
	if !p.cfg.Enforce {
		d.Would = append(d.Would, *a)
		p.note("would do: %s, because %s", a, a.Why)
		p.pretend(r, a)
	} else {
		p.busy[a.Kind] = a.ID
		d.Actions = append(d.Actions, *a)
	}
	if p.incident != nil {
		p.incident.deed(r, a)
	}
}

// pretend keeps an observing policy from saying the same thing ten times a
// second.
func (p *Policy) pretend(r *Reading, a *Action) {
	p.off[a.Kind] = r.At + time.Minute
}

// free reports whether a means may be used now.
func (p *Policy) free(k Kind, now time.Duration) bool {
	return p.busy[k] == 0 && now >= p.off[k]
}

// means are the actions of this step, from the softest.
func (p *Policy) means(r *Reading, o *outlook) []*Action {
	var list []*Action
	add := func(a *Action) {
		if a != nil {
			list = append(list, a)
		}
	}
	for _, a := range p.judge(r) {
		add(a)
	}
	list = append(list, p.headroom(r, o)...)
	add(p.resize(r, o))
	add(p.restrict(r, o)) // before all that makes room, or the room is theirs
	add(p.probe(r, o))
	add(p.scale(r, o))
	add(p.reap(r, o))
	add(p.path(r))
	p.explain(r, o)
	return list
}

// probe is what is to be put on probation; of its kind one thing goes on at a
// time.
func (p *Policy) probe(r *Reading, o *outlook) *Action {
	if a := p.over(r, o); a != nil {
		return a
	}
	if a := p.cut(r, o); a != nil {
		return a
	}
	return p.thin(r, o)
}

// explain says why nothing is done where that is the right thing.
func (p *Policy) explain(r *Reading, o *outlook) {
	if o.left && (!o.tight || p.exhausted(r)) {
		p.once(r.At, "copes", "the kernel copes with %s by itself: nothing is done", classify(p.census))
	}
}

// Done tells what became of an action. Results of actions that take a while
// come between later steps.
func (p *Policy) Done(res Result) {
	a := &res.Action
	if p.busy[a.Kind] == a.ID {
		delete(p.busy, a.Kind)
	}
	if p.incident != nil {
		p.incident.result(&res)
	}
	switch {
	case res.Err != nil:
		p.note("%s failed: %v", a, res.Err)
		p.off[a.Kind] = res.At + retryIn(a)
	case res.Foreign:
		p.note("%s was not done: somebody else has written the value, it is left alone", a)
	}
	switch a.Kind {
	case KindMax:
		p.limit.done(p, &res)
	case KindTimeouts:
		p.paces.done(&res)
	case KindThin:
		p.thins.done(p, &res)
	case KindLimit:
		p.shares.done(p, &res)
	case KindReap:
		p.reaps.again(res.At, time.Second, 30*time.Second, p.reapHelped(&res))
	case KindBuckets:
		p.limit.resized(p, &res)
	}
	switch a.Kind {
	case KindUntrack, KindLimit, KindTimeouts: // of our own table
		p.manage.done(p, &res)
	}
	if res.Err == nil && !res.Foreign && !a.Undo {
		p.follow(&res)
	}
}

// retryIn is when something that failed may be tried again. What stands in the
// way of lowering max, a namespace that cannot be seen, does not pass soon.
func retryIn(a *Action) time.Duration {
	switch {
	case a.Undo && a.Kind == KindMax:
		return time.Minute
	case a.Undo:
		return time.Second
	}
	return 5 * time.Second
}

// SetSurroundings tells of a machine that has changed; nothing is undone by
// it.
func (p *Policy) SetSurroundings(s Surroundings) { p.around = s }

// SetConfig replaces the configuration. Nothing is undone by it at once; what
// a means did that is switched off now ends with the incident.
func (p *Policy) SetConfig(c Config) {
	p.cfg = c
	p.limit.aside, p.limit.ladder = false, nil
	clear(p.off)
}

// Level returns the present level.
func (p *Policy) Level() Level { return p.level }

// Undo returns the actions that put everything back, in their order: for the
// end of a run. Max is among them only if the count of the last reading allows
// it; see [Policy.Deferred].
func (p *Policy) Undo(r Reading) []Action {
	if r.HighestCount < r.Count {
		r.HighestCount = r.Count
	}
	var list []Action
	add := func(a *Action) {
		if a != nil {
			p.nextID++
			a.ID = p.nextID
			list = append(list, *a)
		}
	}
	const why = "the guard ends"
	if len(p.shares.active) > 0 {
		add(&Action{Kind: KindLimit, Undo: true, Why: why, Limit: &Limit{}})
	}
	if p.paces.scale < 1 && p.paces.set {
		add(&Action{Kind: KindTimeouts, Undo: true, Why: why, Timeouts: &Timeouts{Scale: 1}})
	}
	if p.manage.specs != "" {
		add(&Action{Kind: KindUntrack, Undo: true, Why: why, Untrack: &Untrack{}})
	}
	add(p.limit.lower(p, &r, why))
	return list
}

// Deferred returns the value that max is to go back to and could not yet, 0 if
// there is none.
func (p *Policy) Deferred() int64 {
	if p.limit.ours != 0 {
		return p.limit.before
	}
	return 0
}

// Ladder lists the values that the policy may give max; empty until a reading
// with memory has been taken.
func (p *Policy) Ladder() []int64 { return p.limit.ladder }

func (p *Policy) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// once notes something at most once a minute.
func (p *Policy) once(now time.Duration, key, format string, args ...any) {
	if at, ok := p.said[key]; ok && now-at < time.Minute {
		return
	}
	p.said[key] = now
	p.note(format, args...)
}

// protected reports whether a prefix holds an address that must never be
// limited or cut.
func (p *Policy) protected(a netip.Prefix) bool {
	for _, list := range [][]netip.Prefix{p.around.Protected, p.cfg.Manage, p.cfg.Protect} {
		for _, b := range list {
			if a.Overlaps(b) {
				return true
			}
		}
	}
	return a.Addr().IsLoopback() || a.Addr().IsMulticast()
}
