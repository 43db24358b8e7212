package guardd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/ctwarden/ctwarden/internal/evict"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/kernel/service"
)

// actor signs the guard's operations in the journal.
const actor = "guard"

// What an operation of the guard carries. They are data rather than settings:
// what a running guard has changed is no plan that `apply` must finish first.
const (
	dataKind          = "guard" // one of the kinds below
	dataMaxBefore     = "max_before"
	dataMaxLadder     = "max_ladder" // how many values above it may have been written
	dataBucketsBefore = "buckets_before"
	dataBucketsAfter  = "buckets_after"
	// dataSoft is the name under which evict, too, keeps a timeout it gave.
	dataSoft = "soft_seconds"

	kindStanding  = "standing"
	kindProbation = "probation"
	kindIncident  = "incident"
)

// lockWait is how long the guard waits for another command's hold of the
// journal.
const lockWait = 2 * time.Second

// ledger is the guard's part of the journal.
type ledger struct {
	j      *journal.Journal
	boot   string
	inode  uint64
	runDir string

	mu       sync.Mutex
	standing string // the open operation, "" while there is none
}

func newLedger(fsys disk.FS, stateDir, runDir, boot string, inode uint64, warn func(string)) *ledger {
	return &ledger{boot: boot, inode: inode, runDir: runDir,
		j: journal.New(fsys, stateDir, journal.Options{LockWait: lockWait, Warn: warn})}
}

// standing is what a standing operation says.
type standing struct {
	op            *journal.Op
	maxBefore     int64
	bucketsBefore int64 // 0 unless buckets were resized
	bucketsAfter  int64
}

func parseStanding(o *journal.Op) (s standing, ok bool) {
	if o.Data[dataKind] != kindStanding {
		return s, false
	}
	s.op = o
	var err error
	if s.maxBefore, err = strconv.ParseInt(o.Data[dataMaxBefore], 10, 64); err != nil {
		return s, false
	}
	s.bucketsBefore, _ = strconv.ParseInt(o.Data[dataBucketsBefore], 10, 64)
	s.bucketsAfter, _ = strconv.ParseInt(o.Data[dataBucketsAfter], 10, 64)
	return s, true
}

// wrote reports whether a live max is one that the operation's guard may have
// written.
func (s *standing) wrote(live int64) bool {
	return live != s.maxBefore && onLadder(s.maxBefore, live)
}

// ladderTop bounds every ladder: nf_conntrack_max is an int.
const ladderTop = 1<<31 - 1

func onLadder(before, v int64) bool {
	for _, step := range guard.Ladder(before, ladderTop) {
		if step == v {
			return true
		}
	}
	return false
}

// guardAlive reports whether a guard of a namespace answers.
func guardAlive(runDir string, inode uint64) bool {
	_, err := service.Ask(context.Background(), socketPath(runDir, inode))
	return err == nil
}

func socketPath(runDir string, inode uint64) string {
	return filepath.Join(runDir, fmt.Sprintf("guard-%d.sock", inode))
}

func lockPath(runDir string, inode uint64) string {
	return filepath.Join(runDir, fmt.Sprintf("guard-%d.lock", inode))
}

// open begins the standing operation, or takes over one that a guard which
// ended without a word has left. found is what was there before any guard.
func (l *ledger) open(ctx context.Context, live int64, say func(string, ...any)) (found standing, err error) {
	err = l.j.Do(ctx, func(tx *journal.Tx) error {
		found = standing{maxBefore: live}
		var errs []error
		for _, o := range tx.Log().Open() {
			s, ok := parseStanding(o)
			switch {
			case !ok:
			case o.Boot != l.boot:
				errs = append(errs, tx.Mark(o.ID, journal.Change{State: journal.Void, Note: "the machine was restarted"}))
			case o.Netns == l.inode && (s.wrote(live) || s.maxBefore == live):
				found = s
				say("taking over what a guard that ended left in place: nf_conntrack_max was %d and is %d", s.maxBefore, live)
			case o.Netns != l.inode && guardAlive(l.runDir, o.Netns):
				if s.wrote(live) {
					found.maxBefore = s.maxBefore // it will be undone by whichever ends last
				}
			default:
				note := "somebody else has set max since; left as it is"
				if s.wrote(live) {
					found.maxBefore, note = s.maxBefore, "taken over by the guard of another namespace"
				}
				errs = append(errs, tx.Mark(o.ID, journal.Change{State: journal.Foreign, Note: note}))
			}
		}
		if found.op != nil {
			l.setStanding(found.op.ID)
			return errors.Join(errs...)
		}
		id, err := tx.Begin(l.standingOp(found.maxBefore))
		if err == nil {
			l.setStanding(id)
		}
		return errors.Join(append(errs, err)...)
	})
	return found, err
}

func (l *ledger) standingOp(before int64) journal.Op {
	return journal.Op{Boot: l.boot, Netns: l.inode, Actor: actor,
		Why: "nf_conntrack_max may be raised along its ladder while this guard runs",
		Data: map[string]string{dataKind: kindStanding, dataMaxBefore: strconv.FormatInt(before, 10),
			dataMaxLadder: strconv.Itoa(len(guard.Ladder(before, ladderTop)))}}
}

func (l *ledger) setStanding(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.standing = id
}

func (l *ledger) id() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.standing
}

// rebase closes the standing operation because somebody else has written max,
// and begins one from what stands there now.
func (l *ledger) rebase(ctx context.Context, live int64) error {
	old := l.id()
	l.setStanding("")
	return l.j.Do(ctx, func(tx *journal.Tx) error {
		next := l.standingOp(live)
		if old != "" {
			if o := tx.Log().Op(old); o != nil { // the buckets are still ours
				next.Data[dataBucketsBefore], next.Data[dataBucketsAfter] = o.Data[dataBucketsBefore], o.Data[dataBucketsAfter]
			}
			c := journal.Change{State: journal.Foreign, Note: fmt.Sprintf("somebody else has set max to %d; left as it is", live)}
			if err := tx.Mark(old, c); err != nil {
				return err
			}
		}
		id, err := tx.Begin(next)
		if err == nil {
			l.setStanding(id)
		}
		return err
	})
}

// finish moves the standing operation. Deferred leaves it open.
func (l *ledger) finish(ctx context.Context, state journal.State, note string) error {
	id := l.id()
	if id == "" {
		return nil
	}
	return l.j.Mark(ctx, id, journal.Change{State: state, Note: note})
}

// note adds to the standing operation, durably, before a deed.
func (l *ledger) note(ctx context.Context, data map[string]string) error {
	id := l.id()
	if id == "" {
		return errNoRecord
	}
	return l.j.Do(ctx, func(tx *journal.Tx) error { return tx.Note(id, data) })
}

// current is what the open standing operation says.
func (l *ledger) current() (s standing, ok bool) {
	log, err := l.j.Read()
	if err != nil {
		return s, false
	}
	o := log.Op(l.id())
	if o == nil {
		return s, false
	}
	return parseStanding(o)
}

// bucketsBefore is the number of buckets from before the first resize on record,
// 0 if there was none.
func (l *ledger) bucketsBefore() int64 {
	s, _ := l.current()
	return s.bucketsBefore
}

var errNoRecord = errors.New("it could not be put on record, so it is not written")

// beginProbation writes the entries as they are into a side file and begins the
// operation.
func (l *ledger) beginProbation(ctx context.Context, sel *evict.Selection, o evict.Options, why, what string) (id string, err error) {
	err = l.j.Do(ctx, func(tx *journal.Tx) error {
		if err := closeRunDown(tx, l.boot); err != nil {
			return err
		}
		id = tx.NewID()
		side, err := tx.Side(id)
		if err != nil {
			return err
		}
		kept, size := uint64(0), 0
		err = sel.Records(o, func(b []byte) error {
			if size += len(b); size > mostSideBytes/sideFiles {
				return nil // the rest is counted, not kept
			}
			kept++
			return side.AddRecords(b)
		})
		if err = errors.Join(err, side.Close()); err != nil {
			return err
		}
		_, err = tx.Begin(journal.Op{ID: id, Boot: l.boot, Netns: l.inode, Actor: actor, Why: why,
			Entries: &journal.Entries{Filter: what, Action: "shorten", SideFile: side.Name(),
				Counts: map[string]uint64{"selected": uint64(sel.Len()), "kept": kept}},
			Data: map[string]string{dataKind: kindProbation, dataSoft: itoa(int64(o.SoftSeconds))}})
		return err
	})
	return id, err
}

// sideFiles is how many side files the journal keeps at most.
const sideFiles = 16

// closeRunDown ends probations whose guard did not live to see their end.
func closeRunDown(tx *journal.Tx, boot string) error {
	for _, o := range tx.Log().Open() {
		if o.Data[dataKind] != kindProbation {
			continue
		}
		if o.Boot == boot && time.Now().Before(runsUntil(o)) {
			continue
		}
		if err := tx.Mark(o.ID, journal.Change{State: journal.Confirmed, Note: "ran down"}); err != nil {
			return err
		}
	}
	return nil
}

// runsUntil is when the short timeouts of a probation have run down for sure.
func runsUntil(o *journal.Op) time.Time {
	soft, err := strconv.ParseInt(o.Data[dataSoft], 10, 64)
	if err != nil {
		soft = 0
	}
	return o.Time.Add(time.Duration(max(soft, handshakeFloor))*time.Second + restoreSlack)
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
