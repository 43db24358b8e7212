package guardd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ctwarden/ctwarden/internal/flowrec"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/kernel/guardtable"
	"github.com/ctwarden/ctwarden/internal/kernel/nslist"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
)

// Cleaned says what a cleanup found and did.
type Cleaned struct {
	// Found counts what guards that ended without a word had left.
	Found int
	// Deferred is set where something is held until the table has drained.
	Deferred bool
}

// Cleanup puts back what guards that no longer run have left: the limit, the
// hash table's size, and the timeouts of entries that are on probation still.
// What a running guard has changed is its own.
func Cleanup(ctx context.Context, o Options) (c Cleaned, err error) {
	o.fill()
	boot, err := procfs.FS{}.BootID()
	if err != nil {
		return c, err
	}
	k := &cleaner{o: &o, log: &logger{w: o.Log}, limits: hostLimits()}
	k.removeLeftTable(ctx)
	l := newLedger(o.Disk, o.StateDir, o.RunDir, boot, 0, func(s string) { k.log.say("%s", s) })
	// An empty journal is not written just to say so.
	log, err := l.j.Read()
	if err != nil || len(log.Open()) == 0 {
		return c, err
	}
	var errs []error
	err = l.j.Do(ctx, func(tx *journal.Tx) error {
		for _, op := range tx.Log().Open() {
			if op.Data[dataKind] == "" || guardAlive(o.RunDir, op.Netns) && op.Boot == boot {
				continue
			}
			if op.Boot != boot {
				errs = append(errs, tx.Mark(op.ID, journal.Change{State: journal.Void, Note: "the machine was restarted"}))
				continue
			}
			c.Found++
			k.shared = raisedByAnother(tx.Log().Open(), op, o.RunDir, boot)
			state, note, err := k.putBack(ctx, l, op)
			c.Deferred = c.Deferred || state == journal.Deferred
			if err != nil {
				errs = append(errs, err)
			}
			if state != "" {
				errs = append(errs, tx.Mark(op.ID, journal.Change{State: state, Note: note}))
			}
		}
		return nil
	})
	return c, errors.Join(append(errs, err)...)
}

type cleaner struct {
	o      *Options
	log    *logger
	limits limits
	// shared: the guard of another namespace runs and may have raised max.
	shared bool
}

// raisedByAnother reports whether a guard that runs, of another namespace, may
// have written max since.
func raisedByAnother(open []*journal.Op, of *journal.Op, runDir, boot string) bool {
	for _, o := range open {
		if _, ok := parseStanding(o); ok && o.ID != of.ID && o.Boot == boot && o.Netns != of.Netns && guardAlive(runDir, o.Netns) {
			return true
		}
	}
	return false
}

func (k *cleaner) putBack(ctx context.Context, l *ledger, op *journal.Op) (journal.State, string, error) {
	if s, ok := parseStanding(op); ok {
		k.removeTable(ctx, op.Netns)
		return k.putLimitsBack(ctx, &s)
	}
	if op.Data[dataKind] == kindProbation {
		return k.endProbation(ctx, l, op)
	}
	return journal.Confirmed, "", nil
}

// removeLeftTable removes the table of a guard that had nothing to put on record.
// A guard that runs, or begins to, holds the lock.
func (k *cleaner) removeLeftTable(ctx context.Context) {
	p, err := findPlace(ctx, k.o.Netns)
	if err != nil {
		return
	}
	lock, err := disk.OS{}.Lock(lockPath(k.o.RunDir, p.inode))
	if err != nil {
		return // one runs, or none ever did
	}
	defer lock.Close()
	k.removeTable(ctx, p.inode)
}

// removeTable takes our table of rules out of a namespace: before Linux 5.12
// the kernel does not do it by itself.
func (k *cleaner) removeTable(ctx context.Context, inode uint64) {
	ref, ok := refOf(ctx, inode)
	if !ok {
		return
	}
	found, err := guardtable.Remove(ref)
	switch {
	case err != nil:
		k.log.say("our table of rules: %v", err)
	case found:
		k.log.say("our table of rules is removed")
	}
}

// putLimitsBack restores max, unless the table needs it or somebody else has
// written it, and then the buckets.
func (k *cleaner) putLimitsBack(ctx context.Context, s *standing) (journal.State, string, error) {
	live, err := k.limits.read(sysctl.Max)
	if err != nil {
		return "", "", err
	}
	state, note := journal.Reverted, "cleaned up"
	switch {
	case live == s.maxBefore:
	case k.shared:
		note := "the guard of another namespace runs and may need it; `ctwarden guard cleanup` settles it when that has ended"
		k.log.say("nf_conntrack_max stays at %d: %s", live, note)
		return journal.Deferred, note, nil
	case !s.wrote(live):
		state, note = journal.Foreign, fmt.Sprintf("somebody else has set max to %d; left as it is", live)
		k.log.say("nf_conntrack_max: %s", note)
	default:
		least, err := k.limits.least(ctx)
		if err != nil || s.maxBefore < least {
			note := fmt.Sprintf("held at %d: %d would refuse connections while the fullest table needs %d", live, s.maxBefore, least)
			k.log.say("nf_conntrack_max: revert-deferred, %s", note)
			return journal.Deferred, note, err
		}
		if _, err := k.limits.write(sysctl.Max, s.maxBefore); err != nil {
			return "", "", err
		}
		k.log.say("nf_conntrack_max %d -> %d: back to what was there before the guard", live, s.maxBefore)
	}
	if err := k.putBucketsBack(s); err != nil {
		return "", "", err
	}
	return state, note, nil
}

func (k *cleaner) putBucketsBack(s *standing) error {
	if s.bucketsBefore == 0 {
		return nil
	}
	live, err := k.limits.read(sysctl.Buckets)
	switch {
	case err != nil:
		return err
	case live == s.bucketsBefore:
		return nil
	case !sameBuckets(s.bucketsAfter, live):
		k.log.say("nf_conntrack_buckets: somebody else has set %d; left as it is", live)
		return nil
	}
	if _, err := k.limits.write(sysctl.Buckets, s.bucketsBefore); err != nil {
		return err
	}
	k.log.say("nf_conntrack_buckets %d -> %d: back to what was there before the guard", live, s.bucketsBefore)
	return nil
}

// sameBuckets reports whether live is what the kernel makes of a number of
// buckets: it rounds up to whole pages of heads.
func sameBuckets(want, live int64) bool { return live >= want && live-want < 8192 }

// endProbation gives entries their timeouts back where they still run down.
func (k *cleaner) endProbation(ctx context.Context, l *ledger, op *journal.Op) (journal.State, string, error) {
	if !time.Now().Before(runsUntil(op)) {
		return journal.Confirmed, "ran down", nil
	}
	entries, err := l.j.ReadSide(op)
	if err != nil {
		return journal.Confirmed, "", err
	}
	ref, ok := refOf(ctx, op.Netns)
	if !ok {
		return journal.Void, "the network namespace has gone", nil
	}
	conn, err := ctnl.Dial(ctnl.Options{Netns: ref})
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	all := func(yield func(*flowrec.Entry) bool) {
		for i := range entries {
			if !yield(&entries[i]) {
				return
			}
		}
	}
	soft := uint32(0)
	if _, err := fmt.Sscan(op.Data[dataSoft], &soft); err != nil {
		return journal.Confirmed, "", err
	}
	n, err := restore(ctx, conn, all, op.Time, soft)
	if err != nil {
		return "", "", err
	}
	k.log.say("%d entries that were on probation have their timeouts back", n)
	return journal.Reverted, fmt.Sprintf("%d entries have their timeouts back", n), nil
}

// refOf finds a namespace by its number.
func refOf(ctx context.Context, inode uint64) (string, bool) {
	if p, err := findPlace(ctx, ""); err == nil && p.inode == inode {
		return "", true
	}
	all, err := nslist.List(ctx, nslist.Options{})
	if err != nil {
		return "", false
	}
	for _, n := range all.Namespaces {
		switch {
		case n.Inode != inode:
		case n.Pid != 0:
			return itoa(int64(n.Pid)), true
		case n.Path != "":
			return n.Path, true
		}
	}
	return "", false
}
