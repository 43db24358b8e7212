package guardd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/evict"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/quick"
	"github.com/ctwarden/ctwarden/internal/kernel/service"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
	"github.com/ctwarden/ctwarden/internal/kernel/vitals"
)

// daemon is one run of the guard.
type daemon struct {
	o      Options
	log    *logger
	began  time.Time
	place  place
	refNow atomic.Pointer[string] // place.ref, for those outside the loop
	around atomic.Pointer[around]
	vitals *vitals.Vitals
	lock   io.Closer
	socket *service.Answers
	alarm  *quick.Alarm
	hungUp atomic.Bool

	policy Policy
	hands  *hands // nil while it observes
	// able is what the hands were found to be able to when they were made.
	able   struct{ max, policies, admission, table bool }
	panels panels
	record *incidents

	// Of the loop.
	reading  guard.Reading // the last one
	seen     seen
	looking  bool
	looked   chan look
	arounds  chan *around
	nextLook time.Time // around
	// blindLooks counts looks around in succession that could not see everything.
	blindLooks int
	lookNow    bool
	// shrinkSoon: it is calm again, and what the readings took can go.
	shrinkSoon bool
	level      guard.Level
	events     int
	table      *guard.Table // for the next reading
	mem        *memory
	decision   guard.Decision
	ticks      uint64
	lastSlow   time.Time // of what comes once a second
	lastAlive  time.Time
	wantAlive  time.Duration
	asked      chan chan *Status
	errs       errorLog
}

// Run guards until the context ends, and then puts everything back.
func Run(ctx context.Context, o Options) error {
	o.fill()
	service.Small(memoryLimit)
	d := &daemon{o: o, log: &logger{w: o.Log}, began: time.Now(), looked: make(chan look, 1), arounds: make(chan *around, 1),
		asked: make(chan chan *Status, 4)}
	d.panels.seed = rand.Uint64()
	var err error
	if d.alarm, err = quick.NewAlarm(tick); err != nil {
		return err
	}
	if err := d.open(ctx); err != nil {
		return errors.Join(err, d.close())
	}
	err = d.loop(ctx)
	return errors.Join(err, d.close())
}

func (d *daemon) clock() time.Duration { return time.Since(d.began) }
func (d *daemon) ref() string          { return *d.refNow.Load() }

// setRef tells those outside the loop how the namespace is found.
func (d *daemon) setRef() {
	ref := d.place.ref
	d.refNow.Store(&ref)
}

// open finds the namespace, makes sure that no other guard watches it, and
// looks around.
func (d *daemon) open(ctx context.Context) (err error) {
	if d.place, err = findPlace(ctx, d.o.Netns); err != nil {
		return err
	}
	d.setRef()
	if err := d.takeLock(); err != nil {
		return err
	}
	if d.vitals, err = vitals.Open(d.place.ref); err != nil {
		return err
	}
	a := lookAround(d.place.ref, &d.o.Config, d.o.SSHConnection, true)
	d.keepAround(a)
	for _, b := range a.blind {
		d.log.say("cannot see %s; the careful case is taken", b)
	}
	d.record = newIncidents(&d.o, d.place.inode)
	what := "observes"
	if d.o.Config.Enforce {
		what = "enforces"
		if err := d.openHands(ctx, a); err != nil {
			return err
		}
	}
	d.policy = d.o.NewPolicy(d.o.Config, a.Surroundings)
	if d.socket, err = service.Serve(socketPath(d.o.RunDir, d.place.inode), d.answerJSON); err != nil {
		return err
	}
	d.log.say("guard %s %s", what, &d.place)
	d.wantAlive = service.Watchdog() / 3
	d.tell(service.Ready)
	return nil
}

func (d *daemon) takeLock() (err error) {
	fsys := disk.OS{}
	if err := fsys.MkdirAll(d.o.RunDir, 0o700); err != nil {
		return fmt.Errorf("make directory %q: %w", d.o.RunDir, err)
	}
	d.lock, err = fsys.Lock(lockPath(d.o.RunDir, d.place.inode))
	if errors.Is(err, disk.ErrLocked) {
		return fmt.Errorf("%s: %w", &d.place, ErrSecond)
	}
	return err
}

// openHands makes what writes. Where the journal cannot be written the limit is
// left alone; what needs no record is still done.
func (d *daemon) openHands(ctx context.Context, a *around) error {
	for _, err := range service.Harden() {
		d.log.say("%v", err)
	}
	boot, err := procfs.FS{}.BootID()
	if err != nil {
		return err
	}
	h := newHands(d.log, &d.o, d.clock)
	h.ref, h.around = d.ref, d.around.Load
	h.limits = hostLimits()
	h.ledger = newLedger(d.o.Disk, d.o.StateDir, d.o.RunDir, boot, d.place.inode, func(s string) { d.log.say("%s", s) })
	h.openRT = func() (ruleTable, error) { return openRules(d.ref()) }
	d.openTable(h, a)
	if a.MaxOurs {
		live, err := h.limits.read(sysctl.Max)
		if err != nil {
			return err
		}
		h.before, h.wrote = live, live
		found, err := h.ledger.open(ctx, live, d.log.say)
		if err != nil {
			d.log.say("nf_conntrack_max and nf_conntrack_buckets are left alone, for the journal cannot be written: %v", err)
			a.MaxOurs = false
		} else {
			h.before = found.maxBefore
			a.MaxBefore = h.before
		}
	}
	d.able.max = h.ledger.id() != ""
	h.learnJournal(a)
	h.ring = d.alarm.Ring
	h.start(context.WithoutCancel(ctx))
	d.hands = h
	return nil
}

// openTable makes our table of rules while it is calm, so that what it can do is
// known when it is needed.
func (d *daemon) openTable(h *hands, a *around) {
	a.Policies, a.Admission, a.Untrack = false, false, false
	t, err := h.openRT()
	if err != nil {
		d.log.say("new flows get no timeouts of their own and no source can be limited: %v", err)
		return
	}
	h.table = t
	d.able.policies, d.able.admission, d.able.table = t.Policies(), t.Admission(), true
	a.Policies, a.Admission = d.able.policies && a.known, d.able.admission
	a.Untrack = true // tried when it is wanted
}

// learnJournal learns what entries may carry from before this guard: timeouts
// that were changed, and the short ones of a guard that was killed.
func (h *hands) learnJournal(a *around) {
	l := h.ledger
	var ours []*journal.Op
	if log, err := l.j.Read(); err == nil {
		for _, o := range log.Ops {
			if o.Boot == l.boot && o.Netns == l.inode {
				ours = append(ours, o)
			}
		}
	}
	now := time.Now()
	for _, t := range evict.Former(&a.Timeouts, a.Version, ours) {
		h.own.was(t, now)
	}
	for _, o := range ours {
		if o.Data[dataKind] == kindProbation && o.State.Open() {
			if t := runsUntil(o); t.After(h.notBefore) && t.Before(now.Add(5*time.Minute)) {
				h.notBefore = t
			}
		}
	}
}

func (d *daemon) tell(state string) {
	if err := service.Notify(state); err != nil {
		d.errs.say(d.log, "notify", err)
	}
}

// loop reads, decides and acts until the context ends or the namespace goes. It
// sleeps on an alarm of its own: whoever has something for it rings.
func (d *daemon) loop(ctx context.Context) error {
	defer context.AfterFunc(ctx, d.alarm.Ring)()
	defer service.OnHangup(func() {
		d.hungUp.Store(true)
		d.alarm.Ring()
	})()
	due, steady := time.Now(), false
	for {
		// Between the setting of the alarm and the waiting for it everything is
		// heard that somebody may have rung for.
		looked, now := d.hear(), time.Now()
		if ctx.Err() != nil {
			return d.leave()
		}
		if looked || due.Sub(now) < early {
			if err := d.step(ctx); err != nil {
				return errors.Join(err, d.leave())
			}
			nap := d.nap()
			due = now.Add(nap)
			// An alarm that goes on by itself needs no setting.
			if looked || !steady || nap != tick {
				d.alarm.Set(nap)
				steady = nap == tick
				continue
			}
		}
		rung, err := d.alarm.Wait()
		if err != nil {
			return errors.Join(err, d.leave())
		}
		if rung {
			d.alarm.Set(time.Until(due))
		}
	}
}

// early is how much before its time a reading may come.
const early = tick / 10

// hear takes what others have for the loop. It reports whether a look has come,
// on which it is decided at once.
func (d *daemon) hear() (looked bool) {
	var results chan guard.Result
	if d.hands != nil {
		results = d.hands.results
	}
	if d.hungUp.Swap(false) {
		d.reload()
	}
	for {
		select {
		case r := <-results:
			d.policy.Done(r)
			d.events += eventsOf(&r)
			d.reread(&r)
		case l := <-d.looked:
			d.takeLook(l)
			looked = true
		case a := <-d.arounds:
			d.keepAround(a)
			d.policy.SetSurroundings(a.Surroundings)
		case answer := <-d.asked:
			answer <- d.status()
		default:
			return looked
		}
	}
}

// reread forgets the limits that an action may have changed: what was read before
// would look like somebody else's write.
func (d *daemon) reread(r *guard.Result) {
	if r.Action.Kind == guard.KindMax || r.Action.Kind == guard.KindBuckets {
		d.seen.max, d.seen.buckets = 0, 0
	}
}

func (d *daemon) nap() time.Duration {
	if n := d.decision.Next; n > 0 {
		return min(max(n, 10*time.Millisecond), longestNap)
	}
	return tick
}

// step takes one reading and does what the policy decides.
func (d *daemon) step(ctx context.Context) error {
	d.ticks++
	now := time.Now()
	if now.Sub(d.lastSlow) >= time.Second {
		if err := d.slow(ctx, now); err != nil {
			return err
		}
	}
	if !d.read() {
		return nil
	}
	d.decision = d.policy.Step(d.reading)
	d.events, d.table, d.mem = 0, nil, nil
	d.act(ctx)
	return nil
}

// act carries a decision out.
func (d *daemon) act(ctx context.Context) {
	dec := &d.decision
	for _, n := range dec.Notes {
		d.log.say("%s", n)
	}
	if dec.Level != d.level {
		if len(dec.Notes) == 0 {
			d.log.say("%s -> %s", d.level, dec.Level)
		}
		if dec.Level == guard.Calm {
			d.shrinkSoon = true
		}
		if dec.Level > guard.Watch {
			service.Threads(2)
		} else {
			service.Threads(1)
		}
		d.level = dec.Level
	}
	for i := range dec.Actions {
		a := dec.Actions[i]
		if d.hands == nil {
			d.policy.Done(guard.Result{Action: a, At: d.clock(), Err: errors.New("the guard observes")})
			continue
		}
		d.hands.submit(ctx, a)
	}
	if dec.Ended != nil {
		d.ended(dec.Ended)
	}
	if dec.WantTable || dec.WantMemory {
		d.look(ctx, dec.WantTable, dec.WantMemory, dec.TableAfter)
	}
}

func (d *daemon) ended(i *guard.Incident) {
	if err := d.record.add(i); err != nil {
		d.log.say("the incident is kept in memory only: %v", err)
	}
	if d.hands != nil {
		if err := d.hands.ledger.incident(i); err != nil {
			d.log.say("the incident is not in the journal: %v", err)
		}
	}
	d.log.say("incident ended after %.0f s: %s; `ctwarden incidents` shows it", i.Seconds, i.Class)
}

// reload reads the configuration anew, whole or not at all.
func (d *daemon) reload() {
	if d.o.Reload == nil {
		d.log.say("nothing to reload: the guard runs without a configuration file")
		return
	}
	d.tell(service.Reloading(service.Monotonic()))
	defer d.tell(service.Ready)
	c, err := d.o.Reload()
	if err != nil {
		d.log.say("the configuration stays as it was: %v", err)
		return
	}
	if c.Enforce != d.o.Config.Enforce {
		d.log.say("the mode stays as it was: it changes with a restart")
		c.Enforce = d.o.Config.Enforce
	}
	d.o.Config = c
	d.policy.SetConfig(c)
	d.lookNow = true
	d.log.say("configuration reloaded")
}

func (d *daemon) keepAround(a *around) {
	if old := d.around.Load(); old != nil {
		a.MaxBefore = old.MaxBefore
		if d.hands != nil {
			a.MaxOurs = a.MaxOurs && d.able.max
			a.Policies = a.Policies && d.able.policies && a.known
			a.Admission, a.Untrack = a.Admission && d.able.admission, a.Untrack && d.able.table
		} else {
			a.Policies = a.Policies && a.known
		}
		a.remember(old)
		if d.hands != nil && old.Timeouts != a.Timeouts {
			d.hands.own.was(old.Timeouts, time.Now())
		}
	}
	d.around.Store(a)
	// Looking around takes at most one part in five thousand of a core.
	wait := max(time.Minute, 5000*a.took)
	switch {
	case a.hasty:
		wait = afterHaste
	case len(a.blind) == 0:
		d.blindLooks = 0
	default: // what hindered it may pass
		wait = min(wait, afterHaste<<min(d.blindLooks, 8))
		d.blindLooks++
	}
	d.nextLook = time.Now().Add(wait)
}

// afterHaste is when a hasty look around is made good for, and the first one that
// could not see everything.
const afterHaste = 3 * time.Second

// leave undoes what stands: first what the policy names, then the limit.
func (d *daemon) leave() error {
	d.tell(service.Stopping)
	if d.hands == nil {
		d.log.say("guard ended")
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*quickly)
	defer cancel()
	d.hands.stop()
	d.read()
	for _, a := range d.policy.Undo(d.reading) {
		d.log.say("%s, because %s", &a, a.Why)
		r := d.hands.carryOut(ctx, a)
		r.At = d.clock()
		if r.Err != nil {
			d.log.say("%s: not done: %v", &a, r.Err)
		}
		d.policy.Done(r)
	}
	d.hands.leave(ctx)
	if i := d.policy.Unfinished(); i != nil {
		i.Class += " (the guard ended before it was over)"
		d.ended(i)
	}
	d.log.say("guard ended")
	return nil
}

func (d *daemon) close() error {
	var errs []error
	if d.socket != nil {
		errs = append(errs, d.socket.Close())
	}
	if d.vitals != nil {
		errs = append(errs, d.vitals.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	if d.alarm != nil {
		errs = append(errs, d.alarm.Close())
	}
	return errors.Join(errs...)
}

// eventsOf counts the trouble with netlink that a result tells of.
func eventsOf(r *guard.Result) int {
	if r.Err != nil && !errors.Is(r.Err, errHeld) && !errors.Is(r.Err, errThin) {
		return 1
	}
	return 0
}

// errorLog says an error that keeps coming back once a minute.
type errorLog struct {
	last map[string]time.Time
}

func (e *errorLog) say(l *logger, what string, err error) {
	if e.last == nil {
		e.last = make(map[string]time.Time)
	}
	if now := time.Now(); now.Sub(e.last[what]) >= time.Minute {
		e.last[what] = now
		l.say("%s: %v", what, err)
	}
}

// incident puts a summary of an incident into the journal; the deeds are in the
// file of incidents.
func (l *ledger) incident(i *guard.Incident) error {
	ctx := context.Background()
	f := &i.Figures
	id, err := l.j.Begin(ctx, journal.Op{Boot: l.boot, Netns: l.inode, Actor: actor, Why: "incident: " + i.Class,
		Data: map[string]string{dataKind: kindIncident, "seconds": fmt.Sprintf("%.0f", i.Seconds),
			"peak_count": itoa(f.PeakCount), "refused": fmt.Sprint(f.Refused), "on_probation": itoa(int64(f.OnProbation)),
			"evicted": itoa(int64(f.Evicted)), "sources_limited": itoa(int64(f.SourcesLimited))}})
	if err != nil {
		return err
	}
	return l.j.Mark(ctx, id, journal.Change{State: journal.Confirmed})
}

// seen is what the loop read of the slower numbers last.
type seen struct {
	max, buckets int64
	resets       uint64
}

// memory is what a look at memory and the other namespaces found.
type memory struct {
	total, available ct.Value
	highest          int64
	busy             int // namespaces that hold entries
}
