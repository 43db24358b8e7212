package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/evict"
	"github.com/ctwarden/ctwarden/internal/flowexpr"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
)

const evictLong = `Removes chosen entries from the table, after showing how many they are, whose,
and what losing them would break. Nothing is done without --yes, or on a
terminal the number of entries typed in.

--soft shortens timeouts instead: a connection in use has its timeout renewed by
its next packet and stays; what is silent for that long goes. It waits, clears
away what has expired, and says what survived. --undo gives the timeouts of a
soft eviction back to entries that have not moved since.

Some entries are never touched unless each kind is named with --force: SSH
sessions of this machine and connections from whoever is logged in, entries that
are offloaded, have a helper or belong to another entry's, adjust sequence
numbers, carry marks, labels or zones, were opened by this machine, touch its
gateways or nameservers, or belong to routing protocols.

A selection by idle_min or timeout is read twice: what has moved between the
readings is left alone.`

const evictExample = `  ctwarden evict -s 203.0.113.0/24
  ctwarden evict -p tcp --where 'idle_min > 2h' --soft 60s
  ctwarden evict --state SYN_SENT -d 192.0.2.80 --yes --rate 50000
  ctwarden evict --undo 20260131-120000`

// evictor is one run of the command.
type evictor struct {
	env      *Env
	sel      selection
	soft     time.Duration
	settle   time.Duration
	noWait   bool
	rate     int
	limit    int
	force    string
	yes      bool
	json     bool
	undo     string
	stateDir string

	whole  bool
	around surroundings
	filter *flowexpr.Filter
	table  *table
	guard  *evict.Guard
	owners *owners
	at     *flowexpr.Context
	chosen *evict.Selection
	// preview is made while the table is read, which costs no time where the
	// kernel is the slower; nil where a second reading decides.
	preview *evict.Preview
	read    uint64 // entries in the table
	spared  [evict.NumReasons]uint64
	report  evictReport
}

func newEvict(env *Env) *cobra.Command {
	e := &evictor{env: env}
	cmd := &cobra.Command{
		Use: "evict", Short: "Remove chosen entries, or shorten their timeouts, with care",
		Long: evictLong, Example: evictExample, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return e.run(cmd.Context()) },
	}
	fs := cmd.Flags()
	e.sel.register(fs)
	fs.DurationVar(&e.soft, "soft", 0, "shorten timeouts to this instead of deleting")
	fs.BoolVar(&e.noWait, "no-wait", false, "with --soft: do not wait to clear away what expires")
	fs.DurationVar(&e.settle, "settle", 2*time.Second, "time between the two readings of a selection by idle_min or timeout")
	fs.IntVar(&e.rate, "rate", 0, "at most so many entries a second")
	fs.IntVar(&e.limit, "limit", 0, "at most so many entries")
	fs.StringVar(&e.force, "force", "", "kinds of entries not to spare, as ssh,own,mark; whole-table to select every entry")
	fs.BoolVar(&e.yes, "yes", false, "do it without asking")
	fs.BoolVar(&e.json, "json", false, "report as JSON")
	fs.StringVar(&e.undo, "undo", "", "undo the soft eviction of this id")
	fs.StringVar(&e.stateDir, "state-dir", defaultStateDir(env), "where the journal is kept")
	return cmd
}

func (e *evictor) run(ctx context.Context) (err error) {
	if e.undo != "" {
		return e.runUndo(ctx)
	}
	if err := e.check(); err != nil {
		return err
	}
	if e.table, err = e.sel.open(e.env); err != nil {
		return err
	}
	defer e.table.Close()
	e.begin()
	if err := e.protect(); err != nil {
		return err
	}
	if err := e.choose(ctx); err != nil {
		return explainDial(err, e.sel.netns)
	}
	e.describe()
	if e.chosen.Len() == 0 {
		return e.finish(false)
	}
	if err := e.refuseWhole(); err != nil {
		return err
	}
	if ok, err := e.confirm(ctx); err != nil {
		return err
	} else if !ok {
		return errors.Join(e.finish(false), found)
	}
	if err := e.confirmSilence(ctx); err != nil {
		return err
	}
	if err := e.carryOut(ctx); err != nil {
		return err
	}
	return e.finish(true)
}

// check refuses what cannot be meant.
func (e *evictor) check() (err error) {
	var forced evict.Reasons
	if forced, e.whole, err = evict.ParseReasons(e.force); err != nil {
		return err
	}
	e.guard = &evict.Guard{Force: forced}
	if e.filter, err = e.sel.compile(); err != nil {
		return err
	}
	switch {
	case e.filter.Empty():
		return &HintError{errors.New("evict without a selection would remove every connection"),
			"name what is to go: `ctwarden list --by src --top 20` shows who fills the table"}
	case e.soft != 0 && e.soft < time.Second:
		return errors.New("--soft is at least 1s")
	case e.soft > maxSoft:
		return fmt.Errorf("--soft is at most %s", maxSoft)
	case e.rate < 0 || e.limit < 0:
		return errors.New("--rate and --limit cannot be negative")
	case e.settle < time.Second:
		return errors.New("--settle is at least 1s: timeouts are told in whole seconds")
	}
	return nil
}

// maxSoft is beyond every timeout that shortening could help with.
const maxSoft = 24 * time.Hour

// usesTime reports whether entries are chosen by how long they have been
// silent, which one reading cannot prove.
func (e *evictor) usesTime() bool {
	return e.filter.Uses("idle_min") || e.filter.Uses("timeout")
}

// choose reads the table once, and a second time where time decides.
func (e *evictor) choose(ctx context.Context) error {
	e.chosen = new(evict.Selection)
	changed, err := e.recentlyChanged()
	if err != nil {
		return err
	}
	clock := newClock(e.env.Now)
	at := e.table.context(e.env.Now())
	at.Former = e.formerTimeouts()
	e.at = at
	if !e.usesTime() {
		e.preview = evict.NewPreview(e.neighbourhood())
	}
	sum, err := e.table.each(ctx, e.filter, at, true, func(f *ct.Flow) error {
		if f.Status.Any(ct.StatusDying) || changed[f.ID] {
			return nil
		}
		if r, spared := e.guard.Spares(f); spared {
			e.spared[r]++
			return nil
		}
		if e.preview != nil {
			e.preview.Add(f)
		}
		return e.chosen.Add(f, clock.read())
	})
	e.read = uint64(sum.CountBefore)
	if err != nil || !e.usesTime() || e.chosen.Len() == 0 {
		return err
	}
	return e.chooseAgain(ctx)
}

func (e *evictor) chooseAgain(ctx context.Context) error {
	e.say("reading a second time in %s, to leave alone what moves\n", e.settle)
	if err := sleep(ctx, e.settle); err != nil {
		return err
	}
	return e.readAgain(ctx)
}

// readAgain takes out of the selection what has moved since the first reading.
func (e *evictor) readAgain(ctx context.Context) error {
	clock := newClock(e.env.Now)
	e.at.NowNanos = e.env.Now().UnixNano()
	_, err := e.table.each(ctx, e.filter, e.at, true, func(f *ct.Flow) error {
		e.chosen.Again(f, clock.read())
		return nil
	})
	e.report.Active += e.chosen.Settle()
	return err
}

// confirmSilence reads once more where a person has been asked: what was silent
// before the question may have moved since.
func (e *evictor) confirmSilence(ctx context.Context) error {
	if e.yes || !e.usesTime() {
		return nil
	}
	before := e.report.Active
	err := e.readAgain(ctx)
	if n := e.report.Active - before; n > 0 {
		e.say("%d have moved meanwhile, or gone, and are left alone\n", n)
	}
	return err
}

// refuseWhole stops a selection that leaves nothing, or nearly so, since the
// count includes what no reading shows: it is a flush under another name.
func (e *evictor) refuseWhole() error {
	var spared uint64
	for _, n := range e.spared {
		spared += n
	}
	if e.whole || e.read < wholeTableAt || uint64(e.count())+spared < e.read-e.read/100 {
		return nil
	}
	return &HintError{fmt.Errorf("the selection holds every entry of the table (%d)", e.read),
		"narrow it, bound it with --limit, or insist with --force whole-table"}
}

// wholeTableAt is the size from which all of a table is more than a handful.
const wholeTableAt = 50

// confirm asks on a terminal, unless --yes has answered.
func (e *evictor) confirm(ctx context.Context) (bool, error) {
	if e.yes {
		return true, nil
	}
	if !e.env.StdinTTY || e.json {
		e.say("Nothing was done. --yes does it.\n")
		return false, nil
	}
	fmt.Fprintf(e.env.Stderr, "Type %d to go ahead, anything else to leave it: ", e.count())
	if readAnswer(ctx, e.env.Stdin) == strconv.Itoa(e.count()) {
		return true, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	e.say("Nothing was done.\n")
	return false, nil
}

// count is how many entries would be changed at most.
func (e *evictor) count() int {
	if e.limit > 0 {
		return min(e.limit, e.chosen.Len())
	}
	return e.chosen.Len()
}

// say writes to a person: on stdout, or with --json, which owns that, on
// stderr.
func (e *evictor) say(format string, args ...any) {
	w := e.env.Stdout
	if e.json {
		w = e.env.Stderr
	}
	fmt.Fprintf(w, format, args...)
}

// batchWriter changes entries through ctnetlink.
type batchWriter struct{ b *ctnl.Batch }

func (w batchWriter) Delete(f *ct.Flow) error {
	k, err := ctnl.KeyOf(f)
	if err != nil {
		return err
	}
	return w.b.Delete(k)
}

func (w batchWriter) Shorten(f *ct.Flow, seconds uint32) error {
	k, err := ctnl.KeyOf(f)
	if err != nil {
		return err
	}
	return w.b.Update(k, ctnl.Change{TimeoutSeconds: seconds})
}

func (w batchWriter) Flush() error { return w.b.Flush() }
func (w batchWriter) Failed() int  { return w.b.Failed() }

// clock gives times for entries as they are read, asking the machine for the
// time only now and then.
type clock struct {
	now  func() time.Time
	last int64
	n    int
}

func newClock(now func() time.Time) *clock { return &clock{now: now} }

func (c *clock) read() int64 {
	if c.n%256 == 0 {
		c.last = c.now().UnixNano()
	}
	c.n++
	return c.last
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
