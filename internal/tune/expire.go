package tune

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/ctwarden/ctwarden/internal/journal"
)

func atLeast(value string, least int64) bool {
	n, err := strconv.ParseInt(value, 10, 64)
	return err == nil && (n == 0 || n >= least)
}

func needs(least int64) string {
	if least == math.MaxInt64 {
		return "a count that could not be read"
	}
	return strconv.FormatInt(least, 10)
}

// Expire is what the dead-man does at its deadline: it takes the trial back if
// that is still to be done, and reports whether anything is left to do later.
// It may be called any number of times.
func (k *Keeper) Expire(ctx context.Context, id string) (left bool, err error) {
	err = k.Journal.Do(ctx, func(tx *journal.Tx) error {
		o := tx.Log().Op(id)
		switch {
		case o == nil:
			return fmt.Errorf("%q: %w", id, journal.ErrUnknown)
		case !o.State.Open():
			return nil
		case o.Boot != k.Boot:
			return tx.Mark(id, journal.Change{State: journal.Void, Note: "the machine was restarted"})
		case o.Netns != k.Netns:
			return fmt.Errorf("%s: %w", id, ErrNotHere)
		}
		if o.Data[dataConfirming] != "" {
			return k.finishConfirm(tx, o)
		}
		err := k.revertOp(tx, o, nil, "not confirmed in time")
		left = o.State.Open()
		return err
	})
	return left || err != nil && retriable(err), err
}

// retriable reports whether trying again may help.
func retriable(err error) bool {
	return !errors.Is(err, journal.ErrUnknown) && !errors.Is(err, ErrNotHere) && !errors.Is(err, journal.ErrNewer)
}

// Clock waits.
type Clock interface {
	// Until returns when CLOCK_BOOTTIME has reached t, or early with the
	// context's error.
	Until(ctx context.Context, t time.Duration) error
}

// retryAfter is the pause between two attempts to finish a trial.
const retryAfter = 10 * time.Second

// running reports whether anything is in force, or about to be: the dead-man is
// armed before the first write.
func running(o *journal.Op) bool {
	return slices.ContainsFunc(o.Settings, func(s journal.Setting) bool {
		return s.State.Open() && s.State != journal.Deferred
	})
}

// revertLost takes back an operation whose record somebody has removed or
// damaged, unless our files say that it was confirmed before. What was read of
// it is enough. It reports whether anything is left to do later.
func (k *Keeper) revertLost(o *journal.Op) (left bool, err error) {
	kept, err := k.kept()
	if err != nil {
		return true, err
	}
	if slices.ContainsFunc(o.Settings, func(s journal.Setting) bool { return kept[s.Key] == s.After }) {
		return false, nil
	}
	held := false
	for i := len(o.Settings) - 1; i >= 0; i-- {
		s := &o.Settings[i]
		if s.State.Final() {
			continue
		}
		state, note, e := k.revertOne(*s, held)
		if e != nil {
			left, err = true, errors.Join(err, e)
			continue
		}
		held = held || state == journal.Deferred
		if state != s.State {
			k.sayReverted(*s, state, note)
		}
		s.State = state
	}
	return left || held, err
}

// Guard is the life of a dead-man: it watches the trial until the deadline,
// takes it back, and stays while something is deferred. look may be nil; it
// reads the machine's health for the watch.
func (k *Keeper) Guard(ctx context.Context, id string, clock Clock, look func() (Health, error)) error {
	log, err := k.Journal.Read()
	if err != nil {
		return err
	}
	o := log.Op(id)
	if o == nil {
		return fmt.Errorf("%q: %w", id, journal.ErrUnknown)
	}
	var deadline time.Duration
	if o.Trial != nil {
		deadline = time.Duration(o.Trial.DeadlineMillis) * time.Millisecond
	}
	w := newWatch(o)
	for running(o) && k.Boottime() < deadline {
		next := min(k.Boottime()+watchEvery, deadline)
		if err := clock.Until(ctx, next); err != nil {
			return err
		}
		var done bool
		if o, done = k.watchOnce(ctx, o, w, look); done {
			return nil
		}
	}
	for {
		left, err := k.Expire(ctx, id)
		if errors.Is(err, journal.ErrUnknown) {
			k.say("%s is no longer in the journal; taking it back from memory", id)
			left, err = k.revertLost(o)
		}
		if !left {
			return err
		}
		if err != nil {
			k.say("%s: %v; trying again", id, err)
		}
		if err := clock.Until(ctx, k.Boottime()+retryAfter); err != nil {
			return err
		}
	}
}
