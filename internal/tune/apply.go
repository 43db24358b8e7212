package tune

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"github.com/ctwarden/ctwarden/internal/journal"
)

// ApplyOptions say how a plan is carried out.
type ApplyOptions struct {
	// Trial is how long to wait for a confirmation; 0 takes it as given.
	Trial time.Duration
	Actor string
	Why   string
	// Baseline is how the machine did before, for the watch during the trial.
	Baseline *Health
}

// Shortest and longest trial.
const (
	MinTrial = time.Second
	MaxTrial = 30 * 24 * time.Hour
)

// Apply carries out a plan: everything is checked first, then journalled, then
// written in the plan's order, each value read back. If anything fails, what
// was written is taken back. It returns the operation's id, "" with ErrNothing
// if all values stand already.
func (k *Keeper) Apply(ctx context.Context, p *Plan, o ApplyOptions) (id string, err error) {
	if o.Trial != 0 && (o.Trial < MinTrial || o.Trial > MaxTrial) {
		return "", fmt.Errorf("a trial lasts from %s to %s, not %s", MinTrial, MaxTrial, o.Trial)
	}
	if n := p.Netns.Inode; n != 0 && n != k.Netns {
		return "", fmt.Errorf("the plan: %w (%d, this is %d)", ErrNotHere, n, k.Netns)
	}
	err = k.do(ctx, func(tx *journal.Tx) error {
		if t := k.trialOf(tx.Log()); t != nil {
			return fmt.Errorf("%w: %s", ErrOnTrial, t.ID)
		}
		settings, err := k.check(p)
		if err != nil {
			return err
		}
		id, err = k.begin(tx, settings, o)
		if err != nil {
			return err
		}
		return k.carryOut(tx, id, o)
	})
	return id, err
}

// trialOf finds an operation of this namespace that is in force and may still be
// undone: two at a time could not be taken back in any order. One that only
// waits for the table to drain is none: a full table may need more room now.
func (k *Keeper) trialOf(log *journal.Log) *journal.Op {
	for _, o := range log.Open() {
		if k.here(o) && running(o) {
			return o
		}
	}
	return nil
}

// check looks at everything that could stop the plan before a single value is
// written, and returns what is to be written.
func (k *Keeper) check(p *Plan) ([]journal.Setting, error) {
	var settings []journal.Setting
	var errs []error
	for _, it := range p.Items {
		s, err := k.checkItem(it)
		switch {
		case err != nil:
			errs = append(errs, err)
		case s != nil:
			settings = append(settings, *s)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if len(settings) == 0 {
		return nil, ErrNothing
	}
	return settings, nil
}

// checkItem returns nil without an error for a value that stands already.
func (k *Keeper) checkItem(it Item) (*journal.Setting, error) {
	if err := checkValue(it.Key, it.To); err != nil {
		return nil, err
	}
	live, err := k.Settings.Read(it.Key)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("this kernel or namespace has no %s: %w", it.Key, err)
		}
		return nil, err
	}
	if k.sameValue(it.Key, it.To, live) {
		return nil, nil
	}
	if it.From != "" && !k.sameValue(it.Key, it.From, live) {
		return nil, fmt.Errorf("%s is %s, the plan was made for %s: %w", it.Key, live, it.From, ErrStale)
	}
	ok, err := k.Settings.Writable(it.Key)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%s: %w", it.Key, ErrHostsOnly)
	}
	if err := k.affordable(it, live); err != nil {
		return nil, err
	}
	if it.Key == KeyMax && lowersMax(live, it.To) {
		if to, _ := strconv.ParseInt(it.To, 10, 64); to < k.safeMax() {
			return nil, fmt.Errorf("%s = %s would refuse connections: it must stay at 1.2 times the fullest table, %d", it.Key, it.To, k.safeMax())
		}
	}
	return &journal.Setting{Key: it.Key, Before: live, After: it.To}, nil
}

// fullEntryBytes is an entry's object and a block of extensions on 64-bit
// kernels of today.
const fullEntryBytes = fallbackObject + extensionBytes

// affordable refuses sizes that this machine has no memory for: a plan may have
// been made for another. A plan made here takes at most half of what is available,
// at the present size of an entry, which extensions can make half as large again:
// so the bound is above three quarters. What is lowered is always affordable.
func (k *Keeper) affordable(it Item, live string) error {
	var each int64
	switch it.Key {
	case KeyMax:
		each = fullEntryBytes
	case KeyBuckets, KeyHashsize:
		each = bucketBytes
	default:
		return nil
	}
	if k.Available == nil || k.Available() <= 0 {
		return nil
	}
	to, err1 := strconv.ParseInt(it.To, 10, 64)
	now, err2 := strconv.ParseInt(live, 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if it.Key == KeyMax && now == 0 {
		return nil // no limit is the dearest of all
	}
	if more := (to - now) * each; more > k.Available()/5*4 {
		return fmt.Errorf("%s = %s would take up to %s more: %w, %s", it.Key, it.To, byteSize(more), ErrMemory, byteSize(k.Available()))
	}
	return nil
}

func (k *Keeper) begin(tx *journal.Tx, settings []journal.Setting, o ApplyOptions) (string, error) {
	op := journal.Op{Boot: k.Boot, Netns: k.Netns, Actor: o.Actor, Why: o.Why, Settings: settings}
	if o.Trial > 0 {
		op.Trial = &journal.Trial{Seconds: int64(o.Trial / time.Second),
			DeadlineMillis: (k.Boottime() + o.Trial).Milliseconds()}
	}
	op.Data = map[string]string{}
	if o.Baseline != nil {
		op.Data = o.Baseline.data()
	}
	if k.NoFiles == "" {
		op.Data[dataHome] = "1"
	}
	return tx.Begin(op)
}

// carryOut arms the dead-man, writes and verifies. On an error everything is
// back as it was, as far as the kernel and others let it.
func (k *Keeper) carryOut(tx *journal.Tx, id string, o ApplyOptions) error {
	op := tx.Log().Op(id)
	if o.Trial > 0 {
		if err := k.arm(tx, op); err != nil {
			return err
		}
	}
	err := k.writeAll(tx, op)
	if err == nil {
		err = k.verifyAll(tx, op)
	}
	if err == nil && o.Trial == 0 {
		err = k.confirm(tx, op)
	}
	if err == nil {
		return nil
	}
	err = errors.Join(err, k.revertOp(tx, op, nil, "apply failed"))
	return errors.Join(err, k.disarm(op))
}

// arm starts the dead-man before the first write, and closes the operation if
// it cannot.
func (k *Keeper) arm(tx *journal.Tx, op *journal.Op) error {
	name, err := k.Deadman.Arm(op.ID, time.Duration(op.Trial.DeadlineMillis)*time.Millisecond)
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrDeadman, err),
			tx.Mark(op.ID, journal.Change{State: journal.Void, Note: "the dead-man could not be armed"}))
	}
	t := *op.Trial
	t.Deadman = name
	if err := tx.Mark(op.ID, journal.Change{State: journal.Planned, Trial: &t}); err != nil {
		return errors.Join(err, k.Deadman.Disarm(op.ID, name))
	}
	return nil
}

// disarm stops the dead-man of an operation that is closed.
func (k *Keeper) disarm(op *journal.Op) error {
	if op.Trial == nil || op.Trial.Deadman == "" || op.State.Open() {
		return nil
	}
	return k.Deadman.Disarm(op.ID, op.Trial.Deadman)
}

func (k *Keeper) writeAll(tx *journal.Tx, op *journal.Op) error {
	for _, s := range slices.Clone(op.Settings) {
		if live, err := k.Settings.Read(s.Key); err != nil {
			return err
		} else if !k.sameValue(s.Key, s.Before, live) {
			return fmt.Errorf("%s became %s meanwhile: %w", s.Key, live, ErrStale)
		}
		got, err := k.Settings.Write(s.Key, s.After)
		if err != nil {
			return fmt.Errorf("write %s: %w", s.Key, err)
		}
		k.say("%s: %s -> %s", s.Key, orNothing(s.Before), orNothing(got))
	}
	return tx.Mark(op.ID, journal.Change{State: journal.Written})
}

func (k *Keeper) verifyAll(tx *journal.Tx, op *journal.Op) error {
	for _, s := range op.Settings {
		live, err := k.Settings.Read(s.Key)
		if err != nil {
			return err
		}
		if !k.sameValue(s.Key, s.After, live) {
			return fmt.Errorf("%s reads %s right after %s was written: somebody else writes it too", s.Key, live, s.After)
		}
	}
	return tx.Mark(op.ID, journal.Change{State: journal.Verified})
}
