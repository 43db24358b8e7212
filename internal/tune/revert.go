package tune

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/ctwarden/ctwarden/internal/journal"
)

// Revert takes back an operation: the one named, or the newest that can be
// taken back if id is "". Values that somebody else has changed since stay.
// A max that the table has outgrown is held; the operation is then Deferred
// and [Keeper.Expire] or any later run finishes it.
func (k *Keeper) Revert(ctx context.Context, id, why string) (*journal.Op, error) {
	var op *journal.Op
	err := k.do(ctx, func(tx *journal.Tx) error {
		if id == "" {
			id = k.newest(tx.Log())
			if id == "" {
				return ErrNothing
			}
		}
		o, err := k.mine(tx, id)
		if err != nil {
			return err
		}
		op = o
		if o.State.Final() {
			return fmt.Errorf("%s is %s already: %w", id, o.State, ErrNothing)
		}
		what := revertLive
		if o.State == journal.Confirmed {
			what = revertFiles
		}
		err = tx.Note(id, map[string]string{dataReverting: what})
		if err != nil && what == revertFiles {
			return err
		}
		// On a full disk a trial is taken back all the same: the next run sees
		// by the values that it was.
		return errors.Join(err, k.finishRevert(tx, o, why))
	})
	if op == nil {
		return nil, err
	}
	if op.State == journal.Deferred {
		k.finishLater(op)
	}
	k.dismiss(op)
	return op, err
}

// dataReverting marks an operation that is being taken back: whoever comes
// next completes it.
const dataReverting = "reverting"

// What is taken back.
const (
	revertLive  = "live"
	revertFiles = "files" // our files too: it was confirmed
)

// finishRevert takes an operation out of our files and off the machine. It can
// be repeated.
func (k *Keeper) finishRevert(tx *journal.Tx, o *journal.Op, why string) error {
	if o.Data[dataReverting] == revertFiles {
		if err := k.unkeep(tx.Log(), o); err != nil {
			return err
		}
	}
	if err := k.revertOp(tx, o, nil, why); err != nil {
		return err
	}
	return tx.Note(o.ID, map[string]string{dataReverting: ""})
}

// finishLater sees to it that a deferred operation is finished by somebody: a
// dead-man that still runs, or a new one.
func (k *Keeper) finishLater(o *journal.Op) {
	if o.Trial != nil && o.Trial.Deadman != "" && !k.expired(o) {
		return
	}
	if _, err := k.Deadman.Arm(o.ID, k.Boottime()); err != nil {
		k.say("%s: nobody waits for the table to drain (%v); any later run of ctwarden finishes it", o.ID, err)
	}
}

// newest finds the last operation of this namespace that changed settings and
// still stands.
func (k *Keeper) newest(log *journal.Log) string {
	for _, o := range slices.Backward(log.Ops) {
		if len(o.Settings) > 0 && k.here(o) && !o.State.Final() {
			return o.ID
		}
	}
	return ""
}

// revertOp takes back the settings of an operation that select lets through
// (all if nil), in the reverse order of writing, so that max comes down before
// buckets. The operation's record is moved setting by setting.
func (k *Keeper) revertOp(tx *journal.Tx, o *journal.Op, selected func(key string) bool, why string) error {
	if t := k.trialOf(tx.Log()); t != nil && t.ID != o.ID && !running(o) {
		return nil // it goes on once that trial is over
	}
	var errs []error
	held := false
	for _, s := range slices.Backward(slices.Clone(o.Settings)) {
		if s.State.Final() || selected != nil && !selected(s.Key) {
			continue
		}
		state, note, err := k.revertOne(s, held)
		held = held || state == journal.Deferred
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if note == "" {
			note = why
		}
		if state == s.State && note == s.Note {
			continue
		}
		k.sayReverted(s, state, note)
		errs = append(errs, tx.Mark(o.ID, journal.Change{State: state, Keys: []string{s.Key}, Note: note}))
	}
	return errors.Join(errs...)
}

// orNothing names the value of a table that is not there.
func orNothing(value string) string {
	if value == "" {
		return "nothing"
	}
	return value
}

func (k *Keeper) sayReverted(s journal.Setting, state journal.State, note string) {
	switch state {
	case journal.Reverted:
		k.say("%s: back to %s", s.Key, orNothing(s.Before))
	default:
		k.say("%s: %s (%s)", s.Key, state, note)
	}
}

// revertOne writes one value back, unless somebody else has written since, or
// the table is too full for it. held says that max is being held, and with it
// the buckets that it needs.
func (k *Keeper) revertOne(s journal.Setting, held bool) (journal.State, string, error) {
	live, err := k.Settings.Read(s.Key)
	if errors.Is(err, fs.ErrNotExist) {
		return journal.Void, "the setting is gone: the module was unloaded", nil
	}
	if err != nil {
		return "", "", err
	}
	switch {
	case k.sameValue(s.Key, s.Before, live):
		return journal.Reverted, "", nil
	case !k.sameValue(s.Key, s.After, live):
		return journal.Foreign, fmt.Sprintf("somebody else has set it to %s; left as it is", live), nil
	case s.Key == KeyMax && lowersMax(live, s.Before):
		if least := k.safeMax(); !atLeast(s.Before, least) {
			return journal.Deferred, fmt.Sprintf("held: %s would refuse connections while the fullest table needs %s", s.Before, needs(least)), nil
		}
	case held && (s.Key == KeyBuckets || s.Key == KeyHashsize):
		return journal.Deferred, "held until max has come down", nil
	}
	_, err = k.Settings.Write(s.Key, s.Before)
	live, readErr := k.Settings.Read(s.Key)
	switch {
	case readErr == nil && !k.sameValue(s.Key, s.Before, live) && !k.sameValue(s.Key, s.After, live):
		return journal.Foreign, fmt.Sprintf("somebody else has set it to %s as it was taken back; left as it is", live), nil
	case err != nil:
		return "", "", fmt.Errorf("write %s back: %w", s.Key, err)
	}
	return journal.Reverted, "", nil
}
