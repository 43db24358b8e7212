package guardd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
)

// Errors that the policy hears of.
var (
	errHeld    = errors.New("held (revert-deferred)")
	errBusy    = errors.New("too many actions wait")
	errThin    = errors.New("entries are on probation already")
	errLadder  = errors.New("not a value that could be told from somebody else's later")
	errNoTable = errors.New("there is no table of our own")
	errUnknown = errors.New("idle times cannot be told")
)

// ruleTable is our table of nftables: it vanishes with this process.
type ruleTable interface {
	SetTimeouts(set ct.Timeouts) error
	Limit(l guard.Limit) error
	Untrack(specs string) error
	// Intact returns nil where the table holds what was put there.
	Intact() error
	Policies() bool
	Admission() bool
	// Close takes the table away.
	Close() error
}

// hands carry actions out. They exist only while the guard enforces.
type hands struct {
	log    *logger
	fault  func(string)
	clock  func() time.Duration
	ref    func() string
	around func() *around
	ssh    string
	// bufferBytes is the receive buffer of sockets that write, 0 for the default.
	bufferBytes int

	limits limits
	ledger *ledger
	own    ownTimeouts
	table  ruleTable
	openRT func() (ruleTable, error)

	ring    func() // wakes the loop
	queue   chan guard.Action
	results chan guard.Result
	waiting sync.WaitGroup // the worker, and a probation under way

	mu            sync.Mutex
	before, wrote int64 // max as it was found, and as we left it
	pending       int   // actions queued or being carried out
	probation     *probation
	notBefore     time.Time // no probation until then
}

// queued bounds the actions that wait.
const queued = 64

func newHands(l *logger, o *Options, clock func() time.Duration) *hands {
	return &hands{log: l, fault: o.Fault, clock: clock, ssh: o.SSHConnection, bufferBytes: o.netlinkBufferBytes, ring: func() {},
		queue: make(chan guard.Action, queued), results: make(chan guard.Result, 2*queued)}
}

// start begins to work; the context's end lets a probation go.
func (h *hands) start(ctx context.Context) {
	h.waiting.Go(func() {
		for a := range h.queue {
			h.begin(ctx, a)
		}
	})
}

// submit carries out what is urgent and quick at once and queues the rest, so
// that the order is kept.
func (h *hands) submit(ctx context.Context, a guard.Action) {
	h.mu.Lock()
	idle := h.pending == 0
	h.pending++
	h.mu.Unlock()
	if idle && a.Kind == guard.KindMax && a.Max != nil && a.Max.To > a.Max.From {
		h.done(h.carryOut(ctx, a))
		return
	}
	select {
	case h.queue <- a:
	default:
		h.done(guard.Result{Action: a, Err: errBusy})
	}
}

// begin carries an action out; a probation goes on beside.
func (h *hands) begin(ctx context.Context, a guard.Action) {
	if a.Kind != guard.KindThin || a.Undo {
		h.done(h.carryOut(ctx, a))
		return
	}
	p := &probation{h: h, action: a}
	h.mu.Lock()
	busy := h.probation != nil
	if !busy {
		h.probation = p
		p.ctx, p.cancel = context.WithCancel(ctx)
		p.over = make(chan struct{})
	}
	h.mu.Unlock()
	if busy {
		h.done(guard.Result{Action: a, Err: errThin})
		return
	}
	h.waiting.Go(func() {
		r := p.run()
		p.cancel()
		h.mu.Lock()
		h.probation = nil
		h.mu.Unlock()
		close(p.over)
		h.done(r)
	})
}

func (h *hands) done(r guard.Result) {
	r.At = h.clock()
	h.mu.Lock()
	h.pending--
	h.mu.Unlock()
	h.logResult(&r)
	select {
	case h.results <- r:
	default: // the loop is stuck; the watchdog sees to that
	}
	h.ring()
}

// quickly bounds how long an action other than a probation may take.
const quickly = 5 * time.Second

func (h *hands) carryOut(ctx context.Context, a guard.Action) (r guard.Result) {
	r = guard.Result{Action: a}
	ctx, cancel := context.WithTimeout(ctx, quickly)
	defer cancel()
	if !valid(&a) {
		r.Err = errEmpty
		return r
	}
	h.fault(string(a.Kind) + "-begin")
	had := h.table != nil
	switch a.Kind {
	case guard.KindMax:
		h.setMax(ctx, &r)
	case guard.KindBuckets:
		h.setBuckets(ctx, &r)
	case guard.KindTimeouts:
		r.Err = h.setTimeouts(a.Timeouts.Set)
	case guard.KindLimit:
		r.Err = h.withTable(len(a.Limit.Sources) == 0, func(t ruleTable) error { return t.Limit(*a.Limit) })
	case guard.KindUntrack:
		r.Err = h.withTable(a.Untrack.Specs == "", func(t ruleTable) error { return t.Untrack(a.Untrack.Specs) })
	case guard.KindReap:
		r.Err = h.reap(ctx)
	case guard.KindThin:
		r.Err = h.endProbation(&r)
	default:
		r.Err = fmt.Errorf("unknown means %q", a.Kind)
	}
	r.TableLost = had && h.table == nil
	h.fault(string(a.Kind) + "-done")
	return r
}

// setMax writes the limit, unless somebody else has, or the table needs what
// stands there.
func (h *hands) setMax(ctx context.Context, r *guard.Result) {
	to := r.Action.Max.To
	live, err := h.limits.read(sysctl.Max)
	r.Got = live
	before, wrote := h.maxima()
	switch {
	case err != nil:
		r.Err = err
		return
	case live != wrote:
		r.Foreign = true
		h.adopt(ctx, live)
		return
	case live == to:
		return
	case h.ledger.id() == "":
		r.Err = errNoRecord
		return
	case to != before && !onLadder(before, to):
		r.Err = fmt.Errorf("%d: %w", to, errLadder)
		return
	}
	if lowers(live, to) {
		switch least, err := h.limits.least(ctx); {
		case err != nil:
			r.Err = fmt.Errorf("%w: what other tables need is not known: %w", errHeld, err)
			return
		case to < least:
			r.Err = fmt.Errorf("%w: the fullest table needs %d", errHeld, least)
			return
		}
	}
	h.fault("max-recorded")
	got, err := h.limits.write(sysctl.Max, to)
	h.fault("max-written")
	if err != nil {
		r.Err = err
		return
	}
	r.Got = got
	h.mu.Lock()
	h.wrote = got
	h.mu.Unlock()
}

func (h *hands) maxima() (before, wrote int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.before, h.wrote
}

// adopt takes a value of somebody else's for what was there before.
func (h *hands) adopt(ctx context.Context, live int64) {
	h.mu.Lock()
	h.before, h.wrote = live, live
	h.mu.Unlock()
	h.log.say("somebody else has set nf_conntrack_max to %d: it stays, and counts as what was there before", live)
	if err := h.ledger.rebase(ctx, live); err != nil {
		h.log.say("from now on nf_conntrack_max is left alone, for it cannot be put on record: %v", err)
	}
}

// lowers reports whether a write of max admits fewer entries than now; 0 is no
// limit.
func lowers(now, to int64) bool { return to != 0 && (now == 0 || to < now) }

// setBuckets resizes the hash table: on record first, and only while the record
// can be kept.
func (h *hands) setBuckets(ctx context.Context, r *guard.Result) {
	c := r.Action.Buckets
	live, err := h.limits.read(sysctl.Buckets)
	r.Got = live
	switch {
	case err != nil:
		r.Err = err
		return
	case live == c.To:
		return
	case live != c.From:
		r.Foreign = true
		return
	}
	if !r.Action.Undo {
		data := map[string]string{dataBucketsAfter: itoa(c.To)}
		if h.ledger.bucketsBefore() == 0 { // of several resizes the first knows what was there
			data[dataBucketsBefore] = itoa(c.From)
		}
		r.Err = h.ledger.note(ctx, data)
		if r.Err != nil {
			return
		}
	}
	h.fault("buckets-recorded")
	got, err := h.limits.write(sysctl.Buckets, c.To)
	h.fault("buckets-written")
	r.Got, r.Err = got, err
	if err != nil {
		return
	}
	data := map[string]string{dataBucketsAfter: itoa(got)} // the kernel rounds up to whole pages
	if r.Action.Undo {
		data = map[string]string{dataBucketsBefore: "", dataBucketsAfter: ""}
	}
	if err := h.ledger.note(ctx, data); err != nil {
		h.log.say("the resize is done and its record is not complete: %v", err)
	}
}

func (h *hands) setTimeouts(set ct.Timeouts) error {
	none := set == ct.Timeouts{}
	if !none {
		// Known before the first flow can carry it.
		h.own.change(&set, time.Now())
	}
	err := h.withTable(none, func(t ruleTable) error { return t.SetTimeouts(set) })
	if none && err == nil {
		h.own.change(nil, time.Now())
	}
	return err
}

// withTable opens our table at its first use. Taking back what was never put
// there needs none.
func (h *hands) withTable(undo bool, f func(ruleTable) error) error {
	if h.table == nil {
		if undo {
			return nil
		}
		if h.openRT == nil {
			return errNoTable
		}
		t, err := h.openRT()
		if err != nil {
			return err
		}
		h.table = t
	}
	err := f(h.table)
	if err == nil {
		return nil
	}
	if h.table.Intact() == nil {
		return err
	}
	h.log.say("somebody else has removed or changed our table of rules: it is made anew when it is next needed")
	return errors.Join(err, h.dropTable())
}

func (h *hands) dropTable() error {
	if h.table == nil {
		return nil
	}
	err := h.table.Close()
	h.table = nil
	h.own.change(nil, time.Now())
	return err
}

// dial opens a socket for changes.
func (h *hands) dial() (*ctnl.Conn, error) {
	return ctnl.Dial(ctnl.Options{Netns: h.ref(), ReceiveBufferBytes: h.bufferBytes})
}

func (h *hands) reap(ctx context.Context) error {
	c, err := h.dial()
	if err != nil {
		return err
	}
	return errors.Join(c.Reap(ctx), c.Close())
}

// valid reports whether an action says what its kind needs.
func valid(a *guard.Action) bool {
	switch a.Kind {
	case guard.KindMax:
		return a.Max != nil
	case guard.KindBuckets:
		return a.Buckets != nil
	case guard.KindTimeouts:
		return a.Timeouts != nil
	case guard.KindLimit:
		return a.Limit != nil
	case guard.KindUntrack:
		return a.Untrack != nil
	case guard.KindThin:
		return a.Undo || a.Thin != nil
	}
	return true
}

var errEmpty = errors.New("the action does not say what is meant")

// logResult writes what came of an action. What failed is the policy's to say:
// it knows what follows from it.
func (h *hands) logResult(r *guard.Result) {
	a := &r.Action
	switch {
	case r.Err != nil || r.Foreign:
	case a.Kind == guard.KindThin && !a.Undo && a.Thin.Over:
		h.log.say("%s, because %s: %d chosen, %d given the second, %d spared", a, a.Why, r.Selected, r.Changed, r.Spared)
	case a.Kind == guard.KindThin && !a.Undo:
		h.log.say("%s, because %s: %d chosen, %d of them moved, %d given the short timeout, %d of those lived on, %d spared",
			a, a.Why, r.Selected, r.Active, r.Changed, r.Survived, r.Spared)
	default:
		h.log.say("%s, because %s: done", a, a.Why)
	}
}

// stop ends the work: what is under way is finished or given up, and nothing new
// is taken.
func (h *hands) stop() {
	close(h.queue)
	h.mu.Lock()
	p := h.probation
	h.mu.Unlock()
	if p != nil {
		p.cancel()
	}
	h.waiting.Wait()
}

// leave takes back the limit and closes the record. The worker has stopped.
func (h *hands) leave(ctx context.Context) {
	if err := h.dropTable(); err != nil {
		h.log.say("our table of rules could not be taken away (%v); the kernel does it when this process ends", err)
	}
	before, wrote := h.maxima()
	live, err := h.limits.read(sysctl.Max)
	state, note := journal.Reverted, "the guard ended"
	switch {
	case wrote == before:
	case err != nil:
		state, note = journal.Deferred, err.Error()
		h.log.say("nf_conntrack_max: revert-deferred, it cannot be read (%v); `ctwarden guard cleanup` tries again", err)
	case live != wrote:
		state, note = journal.Foreign, fmt.Sprintf("somebody else has set max to %d; left as it is", live)
		h.log.say("nf_conntrack_max: %s", note)
	default:
		state, note = h.lowerAtLast(ctx, before, live)
	}
	if state != journal.Deferred {
		if err := h.restoreBuckets(); err != nil {
			h.log.say("nf_conntrack_buckets: %v; `ctwarden guard cleanup` tries again", err)
			state, note = journal.Deferred, err.Error()
		}
	}
	h.fault("leave-record")
	if err := h.ledger.finish(ctx, state, note); err != nil {
		h.log.say("the end is not on record: %v", err)
	}
}

// restoreBuckets gives the hash table its size back where we changed it.
func (h *hands) restoreBuckets() error {
	s, ok := h.ledger.current()
	if !ok {
		return nil
	}
	k := &cleaner{log: h.log, limits: h.limits}
	return k.putBucketsBack(&s)
}

func (h *hands) lowerAtLast(ctx context.Context, before, live int64) (journal.State, string) {
	least, err := h.limits.least(ctx)
	if err == nil && before >= least {
		if _, err = h.limits.write(sysctl.Max, before); err == nil {
			h.log.say("nf_conntrack_max %d -> %d: back to what was there before", live, before)
			return journal.Reverted, "the guard ended"
		}
	}
	note := fmt.Sprintf("held at %d: %d would refuse connections while the fullest table needs %d", live, before, least)
	if err != nil {
		note = fmt.Sprintf("held at %d: %v", live, err)
	}
	h.log.say("nf_conntrack_max: revert-deferred, %s; `ctwarden guard cleanup`, or the next guard, lowers it when the table has drained", note)
	return journal.Deferred, note
}
