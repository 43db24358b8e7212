package tune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/internal/journal"
)

// Settings reads and writes the settings of one namespace.
type Settings interface {
	Read(key string) (string, error)
	// Write sets a value and returns what stands there afterwards; the error
	// is not nil if that is another.
	Write(key, value string) (got string, err error)
	// Writable reports whether the kernel lets this namespace write the key.
	Writable(key string) (bool, error)
}

// Files reads and replaces whole files, durably.
type Files interface {
	ReadFile(path string) ([]byte, error)
	WriteFile(path string, data []byte) error
	RemoveFile(path string) error
}

// Deadman undoes a trial when nobody else does.
type Deadman interface {
	// Arm starts it for an operation and returns its name once it is known to
	// run; it then calls [Keeper.Expire] at the deadline, on CLOCK_BOOTTIME.
	Arm(id string, deadline time.Duration) (name string, err error)
	// Disarm stops it early. It would do nothing anyway: the journal says so.
	Disarm(id, name string) error
}

// Keeper changes settings under the journal: each is on record before it is
// written, read back after, and taken back by whoever comes next.
type Keeper struct {
	Settings Settings
	Journal  *journal.Journal
	Files    Files
	Deadman  Deadman
	// Boot is the id of this boot and Netns the inode of the namespace that
	// Settings shows.
	Boot  string
	Netns uint64
	// Boottime is CLOCK_BOOTTIME.
	Boottime func() time.Duration
	// HighestCount is the count of the fullest namespace: max bounds each.
	HighestCount func() (int64, error)
	// Available is the memory that could still be had, in bytes; nil or 0 if it
	// is unknown.
	Available func() int64
	// HeadsInPage is how many buckets fit a page of memory: the kernel rounds
	// their number up to a multiple of it. 512 if 0.
	HeadsInPage int64
	// Say hears what was done, a line each; may be nil.
	Say func(format string, args ...any)
	// NoFiles says why no file can bring settings back here, "" if files can:
	// what boots this system must live in the namespace of Settings.
	NoFiles string
	// NoUnits says why no unit of systemd can load rules at boot, "" if one can.
	NoUnits string
}

func (k *Keeper) say(format string, args ...any) {
	if k.Say != nil {
		k.Say(format, args...)
	}
}

// Errors on which callers decide.
var (
	ErrDeadman   = errors.New("the dead-man that would undo the trial could not be armed")
	ErrStale     = errors.New("the machine has changed since the plan was made")
	ErrOnTrial   = errors.New("another trial is running")
	ErrNotHere   = errors.New("it was made in another network namespace")
	ErrNothing   = errors.New("nothing to do")
	ErrMemory    = errors.New("more than four fifths of the memory that is available")
	ErrEntries   = errors.New("it acted on entries of the table, not on settings")
	ErrHostsOnly = errors.New("the setting belongs to the host and cannot be written from this namespace")
)

// marginCount is the least max, in hundredths of the count, that a write of
// ours may leave: below it connections are refused that were not before.
const marginCount = 120

// safeMax returns the least max that may be written now. If the count cannot
// be read nothing is safe.
func (k *Keeper) safeMax() int64 {
	n, err := k.HighestCount()
	if err != nil || n < 0 || n > math.MaxInt64/marginCount {
		return math.MaxInt64
	}
	return (n*marginCount + 99) / 100
}

// defaultHeads is for pages of 4 KiB on a 64-bit machine.
const defaultHeads = 512

// sameValue reports whether live is what the kernel makes of want: buckets are
// rounded up to whole pages of heads.
func (k *Keeper) sameValue(key, want, live string) bool {
	want, live = strings.TrimSpace(want), strings.TrimSpace(live)
	if want == live {
		return true
	}
	w, errW := strconv.ParseInt(want, 10, 64)
	l, errL := strconv.ParseInt(live, 10, 64)
	if errW != nil || errL != nil {
		return false
	}
	if key == KeyBuckets || key == KeyHashsize {
		heads := cmp.Or(k.HeadsInPage, defaultHeads)
		return l >= w && l-w < heads && l%heads == 0
	}
	return l == w
}

// lowersMax reports whether a write of max admits fewer entries than now; 0 is
// no limit.
func lowersMax(now, to string) bool {
	n, errN := strconv.ParseInt(now, 10, 64)
	t, errT := strconv.ParseInt(to, 10, 64)
	if errN != nil || errT != nil {
		return true
	}
	return t != 0 && (n == 0 || t < n)
}

// dataHome marks an operation of the namespace in which the system boots.
const dataHome = "boot_netns"

// here reports whether an operation is of the namespace of Settings. The number
// of a namespace is good for one boot: after it, only the one in which the
// system boots is known again, by whatever number another kernel gives it.
func (k *Keeper) here(o *journal.Op) bool {
	if o.Boot == k.Boot {
		return o.Netns == k.Netns
	}
	return o.Data[dataHome] != "" && k.NoFiles == ""
}

// recover makes the machine whole after a crash: operations of an earlier boot
// are void, one whose confirmation had begun is completed, and one that was
// interrupted while it was being written is taken back.
func (k *Keeper) recover(tx *journal.Tx) error {
	var errs []error
	for _, o := range tx.Log().Ops {
		if len(o.Settings) == 0 {
			continue // an action on entries; its own command finishes it
		}
		switch {
		case k.gone(o):
			errs = append(errs, k.void(tx, o))
		case !k.here(o):
		case o.Data[dataConfirming] != "":
			errs = append(errs, k.finishConfirm(tx, o))
		case o.Data[dataReverting] != "":
			errs = append(errs, k.finishRevert(tx, o, "interrupted"))
		case !o.State.Open():
		case o.State == journal.Planned:
			k.say("%s was interrupted while it was written; taking it back", o.ID)
			errs = append(errs, k.revertOp(tx, o, nil, "interrupted"))
		case k.expired(o):
			errs = append(errs, k.revertOp(tx, o, nil, "the trial has ended"))
		default:
			errs = append(errs, k.revertOp(tx, o, deferred(o), "the table has drained"))
		}
	}
	return errors.Join(errs...)
}

// gone reports whether all that an operation did went with an earlier boot:
// nothing of it is in a file, or half in one.
func (k *Keeper) gone(o *journal.Op) bool {
	if o.Boot == k.Boot || o.State.Final() {
		return false
	}
	if o.Data[dataHome] == "" && len(o.Settings) > 0 {
		return true // and its namespace with it
	}
	return o.State.Open() && o.Data[dataConfirming] == "" && o.Data[dataReverting] != revertFiles
}

// void closes an operation of an earlier boot. It is never replayed.
func (k *Keeper) void(tx *journal.Tx, o *journal.Op) error {
	k.say("%s: the machine was restarted since; its settings are gone and it is void", o.ID)
	if o.Trial != nil && o.Trial.Deadman != "" {
		if err := k.Deadman.Disarm(o.ID, o.Trial.Deadman); err != nil {
			k.say("%s: %v", o.ID, err)
		}
	}
	return tx.Mark(o.ID, journal.Change{State: journal.Void, Note: "the machine was restarted"})
}

// deferred selects the settings of an operation that are being held.
func deferred(o *journal.Op) func(key string) bool {
	return func(key string) bool { return o.Setting(key).State == journal.Deferred }
}

// holds reports whether an operation has settings that are being held.
func holds(o *journal.Op) bool {
	return slices.ContainsFunc(o.Settings, func(s journal.Setting) bool { return s.State == journal.Deferred })
}

func (k *Keeper) expired(o *journal.Op) bool {
	return o.Trial != nil && k.Boottime().Milliseconds() >= o.Trial.DeadlineMillis
}

// do runs f under the journal's lock on a machine made whole.
func (k *Keeper) do(ctx context.Context, f func(*journal.Tx) error) error {
	return k.Journal.Do(ctx, func(tx *journal.Tx) error {
		if err := k.recover(tx); err != nil {
			return fmt.Errorf("finish what an earlier run left: %w", err)
		}
		return f(tx)
	})
}

// mine finds an operation on settings that can be moved from this namespace.
func (k *Keeper) mine(tx *journal.Tx, id string) (*journal.Op, error) {
	o := tx.Log().Op(id)
	if o == nil {
		return nil, fmt.Errorf("%q: %w", id, journal.ErrUnknown)
	}
	if len(o.Settings) == 0 {
		return nil, fmt.Errorf("%s: %w", id, ErrEntries)
	}
	if !k.here(o) {
		return nil, fmt.Errorf("%s: %w (%d, this is %d)", id, ErrNotHere, o.Netns, k.Netns)
	}
	return o, nil
}
