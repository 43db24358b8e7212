package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/evict"
	"github.com/ctwarden/ctwarden/internal/flowrec"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/deadman"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
)

// dataSoft is where an operation keeps the timeout that it gave, in seconds.
const dataSoft = "soft_seconds"

// defaultStateDir is where the journal is, unless the command line says.
func defaultStateDir(env *Env) string {
	if dir := env.Getenv("CTWARDEN_STATE_DIR"); dir != "" {
		return dir
	}
	return journal.DefaultDir
}

func openJournal(env *Env, dir string) *journal.Journal {
	return journal.New(disk.OS{}, dir, journal.Options{Now: env.Now,
		Warn: func(s string) { fmt.Fprintf(env.Stderr, "ctwarden: %s\n", s) }})
}

func bootID() string {
	id, _ := procfs.FS{}.BootID()
	return id
}

// carryOut records the selection, changes the entries and says what came of
// it.
func (e *evictor) carryOut(ctx context.Context) error {
	o := evict.Options{SoftSeconds: uint32(e.soft / time.Second), Limit: e.limit, PerSecond: e.rate, Sleep: sleep}
	deadman.OutliveReaders()
	j := openJournal(e.env, e.stateDir)
	id, err := e.record(ctx, j, o)
	if err != nil {
		return &HintError{fmt.Errorf("nothing was done, for it could not be recorded: %w", err),
			"--state-dir names another place for the journal, as /run/ctwarden"}
	}
	e.report.ID = id
	res, runErr := e.chosen.Run(ctx, batchWriter{e.table.NewBatch()}, o)
	e.report.Changed, e.report.Refused, e.report.AlreadyShort = res.Done(), res.Refused, res.Shorter
	state := journal.Confirmed
	if e.soft > 0 {
		state = journal.Written // open until the timeouts have run down
	}
	counts := map[string]uint64{"changed": uint64(res.Done()), "refused": uint64(res.Refused)}
	// The deed is done whatever becomes of the context.
	err = j.Mark(context.WithoutCancel(ctx), id, journal.Change{State: state, Counts: counts})
	if err = errors.Join(e.stopped(ctx, runErr), err); err != nil {
		return errors.Join(e.finish(true), err)
	}
	if e.soft == 0 {
		return nil
	}
	return e.await(ctx, j, time.Duration(res.LongestSeconds)*time.Second)
}

// stopped says how far a run came that did not end by itself.
func (e *evictor) stopped(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	err = fmt.Errorf("interrupted after %d of %d entries", e.report.Changed, e.count())
	if e.soft == 0 {
		return err
	}
	return &HintError{err, "to take it back: ctwarden evict --undo " + e.report.ID}
}

// record writes the journal and, before it, the tuples and timeouts as they
// are.
func (e *evictor) record(ctx context.Context, j *journal.Journal, o evict.Options) (id string, err error) {
	err = j.Do(ctx, func(tx *journal.Tx) error {
		if err := e.closeRunDown(tx); err != nil {
			return err
		}
		id = tx.NewID()
		side, err := tx.Side(id)
		if err != nil {
			return err
		}
		err = e.chosen.Records(o, side.AddRecords)
		if err = errors.Join(err, side.Close()); err != nil {
			return err
		}
		op := journal.Op{ID: id, Boot: bootID(), Netns: e.table.NetnsInode(), Actor: "evict", Why: "asked for on the command line",
			Entries: &journal.Entries{Filter: e.filter.String(), Action: e.report.Action, SideFile: side.Name(),
				Counts: map[string]uint64{"selected": uint64(e.count())}}}
		if e.soft > 0 {
			op.Data = map[string]string{dataSoft: strconv.Itoa(int(o.SoftSeconds))}
		}
		_, err = tx.Begin(op)
		return err
	})
	return id, err
}

// closeRunDown ends evictions whose timeouts ran down long ago, or whose
// command did not stay to say how they ended.
func (e *evictor) closeRunDown(tx *journal.Tx) error {
	for _, op := range tx.Log().Open() {
		c, ok := e.ranDown(op)
		if !ok {
			continue
		}
		if err := tx.Mark(op.ID, c); err != nil {
			return err
		}
	}
	return nil
}

// ranDown says how an open eviction is to be closed, if nobody will do it any
// more.
func (e *evictor) ranDown(op *journal.Op) (journal.Change, bool) {
	soft, err := strconv.ParseInt(op.Data[dataSoft], 10, 64)
	late := e.env.Now().Sub(op.Time) >= time.Duration(soft)*time.Second+time.Hour
	switch {
	case op.Actor != "evict":
		return journal.Change{}, false
	case op.Boot != bootID():
		return journal.Change{State: journal.Void, Note: "the machine was restarted"}, true
	case !late:
		return journal.Change{}, false
	case err != nil:
		return journal.Change{State: journal.Confirmed, Note: "interrupted; how far it came is not known"}, true
	}
	return journal.Change{State: journal.Confirmed, Note: "ran down"}, true
}

// await waits until the shortened timeouts have run down, has the kernel
// remove what expired, and counts what lives.
func (e *evictor) await(ctx context.Context, j *journal.Journal, longest time.Duration) error {
	if e.noWait {
		e.say("%d entries now end in %s unless they move. Undo: ctwarden evict --undo %s\n", e.report.Changed, e.soft, e.report.ID)
		return nil
	}
	e.say("%d entries end in %s unless they move. Waiting; to take it back: ctwarden evict --undo %s\n", e.report.Changed, longest, e.report.ID)
	over := time.NewTimer(longest + time.Second)
	defer over.Stop()
	keys := slices.AppendSeq(make([]ctnl.Key, 0, e.report.Changed), e.changedKeys())
	var reaper *ctnl.Reaper
	if e.table.walk {
		if r, err := e.table.NewReaper(); err == nil {
			defer r.Close()
			reaper = r
		}
	}
	select {
	case <-ctx.Done(): // interrupted: the timeouts run down all the same
		return nil
	case <-over.C:
	}
	survived, err := e.survivors(ctx, reaper, keys)
	if err != nil {
		return err
	}
	err = j.Mark(ctx, e.report.ID, journal.Change{State: journal.Confirmed, Counts: map[string]uint64{"survived": survived}})
	if errors.Is(err, journal.ErrFinal) {
		e.say("It was taken back meanwhile.\n")
		return nil
	}
	e.report.Survived = &survived
	return err
}

// askingCost is how many entries of a reading cost as much as asking for one.
const askingCost = 8

// survivors has the kernel remove what has expired of the entries that were
// shortened, and counts those that are still there.
func (e *evictor) survivors(ctx context.Context, r *ctnl.Reaper, keys []ctnl.Key) (n uint64, err error) {
	if r != nil {
		if keys, err = r.Reap(ctx, keys); err != nil {
			return 0, err
		}
	}
	if uint64(len(keys))*askingCost <= e.read { // asking removes them too
		p := e.table.NewProbe(func(*ct.Flow) error { n++; return nil })
		for i := range keys {
			if err := p.Ask(ctx, keys[i]); err != nil {
				return n, err
			}
		}
		return n, p.Flush()
	}
	if r == nil && e.table.walk { // unlike a dump, a walk removes nothing
		if err := e.table.Reap(ctx); err != nil {
			return 0, err
		}
	}
	_, err = e.table.Dump(ctx, ctnl.Query{Walk: e.table.walk}, func(f *ct.Flow) error {
		if e.chosen.Changed(f) {
			n++
		}
		return nil
	})
	return n, err
}

// changedKeys yields the keys of the entries that were changed.
func (e *evictor) changedKeys() iter.Seq[ctnl.Key] {
	return func(yield func(ctnl.Key) bool) {
		for f := range e.chosen.AllChanged() {
			// Only what has a key was changed.
			if k, err := ctnl.KeyOf(f); err == nil && !yield(k) {
				return
			}
		}
	}
}

// runUndo gives entries of a soft eviction their timeouts back.
func (e *evictor) runUndo(ctx context.Context) (err error) {
	j := openJournal(e.env, e.stateDir)
	log, err := j.Read()
	if err != nil {
		return err
	}
	op := log.Op(e.undo)
	if op == nil || op.Actor != "evict" || op.Entries == nil {
		return &HintError{fmt.Errorf("no eviction %q in the journal", e.undo), "the id is printed by `evict`, and kept in " + j.Dir()}
	}
	if e.table, err = openTable(e.env, e.sel.netns); err != nil {
		return err
	}
	defer e.table.Close()
	soft, err := strconv.ParseInt(op.Data[dataSoft], 10, 64)
	switch {
	case err != nil:
		return &HintError{errors.New("deleted entries cannot be brought back"),
			fmt.Sprintf("%d entries were deleted; connections in use make new ones where the rules let them", op.Entries.Counts["changed"])}
	case !op.State.Open():
		return fmt.Errorf("eviction %q is over: what survived has its timeout back by itself", e.undo)
	case op.Boot != bootID() || op.Netns != e.table.NetnsInode():
		return fmt.Errorf("eviction %q was in another namespace, or before the machine was restarted", e.undo)
	}
	restored, moved, err := e.restore(ctx, j, op, soft)
	if err != nil {
		return err
	}
	e.say("%d entries have their timeouts back; %d had moved or gone and were left alone\n", restored, moved)
	e.report = evictReport{Schema: evictSchema, identity: e.table.id, Filter: op.Entries.Filter, Action: "undo", ID: op.ID,
		Selected: restored + moved, Changed: restored, Refused: moved, Done: true}
	return errors.Join(e.printJSON(), j.Mark(ctx, op.ID, journal.Change{State: journal.Reverted, Counts: map[string]uint64{"restored": uint64(restored)}}))
}

// restoreSlack is how far the end of an untouched entry may lie from where the
// eviction put it: the time that writing took, and truncated seconds.
const restoreSlack = 5 * time.Second

// restore looks for the entries of an operation and gives those that still run
// down as it left them what they would have now.
func (e *evictor) restore(ctx context.Context, j *journal.Journal, op *journal.Op, soft int64) (restored, moved int, err error) {
	entries, err := j.ReadSide(op)
	if err != nil {
		return 0, 0, err
	}
	byID := make(map[uint32]*flowrec.Entry, len(entries))
	for i := range entries {
		byID[entries[i].ID] = &entries[i]
	}
	type deed struct {
		key     ctnl.Key
		seconds uint32
	}
	var deeds []deed
	_, err = e.table.Dump(ctx, ctnl.Query{}, func(f *ct.Flow) error {
		was, ok := byID[f.ID]
		if !ok || was.Orig != f.Orig || was.State != f.State || !f.Has(ct.HasTimeout) {
			return nil
		}
		now := e.env.Now()
		ends := now.Add(f.Timeout()).Sub(op.Time.Add(time.Duration(soft) * time.Second))
		left := int64(was.TimeoutSeconds) - int64(now.Sub(op.Time)/time.Second)
		if ends > restoreSlack || left <= int64(f.TimeoutSeconds) {
			return nil
		}
		k, err := ctnl.KeyOf(f)
		deeds = append(deeds, deed{k, uint32(left)})
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	b := e.table.NewBatch()
	for _, d := range deeds {
		if err := b.Update(d.key, ctnl.Change{TimeoutSeconds: d.seconds}); err != nil {
			return 0, 0, err
		}
	}
	err = b.Flush()
	restored = len(deeds) - b.Failed()
	return restored, len(entries) - restored, err
}
