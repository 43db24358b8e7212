package ctnl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctwalk"
)

// ErrStop, returned by a callback, ends the reading early and without error.
var ErrStop = ctwalk.ErrStop

// Query says what to read.
type Query struct {
	Filter Filter
	// Limit ends the reading after so many entries that pass the filter; 0 is
	// no limit. The kernel goes through the table bucket by bucket, and the
	// bucket of a flow is a keyed hash, so a limited reading is a uniform
	// sample of the flows, but the same flows each time: a panel. Two readings
	// of it show births, deaths and lifetimes; they do not average out its
	// error. Nothing that acts on single entries may rest on it.
	Limit int
	// Serial reads and decodes on one thread, in turns. Otherwise a large table
	// is read by two, where there are processors for them: the entries that fn
	// gets are then up to a few thousand behind what the kernel has sent.
	Serial bool
	// Walk says that the caller does not count on the reading to remove expired
	// entries. A large table is then read from inside the kernel where it lets us
	// (package ctwalk), at a fraction of the cost.
	Walk bool
	// WithoutID says that the caller can do without ids.
	WithoutID bool
	// Select chooses once more, after the filter. It must not look at the id: where
	// a walk cannot tell it, ctnetlink is asked about what Select chose, and Select
	// called again with the answer.
	Select func(*ct.Flow) bool
	// KeepDuplicates leaves in what the kernel sent twice.
	KeepDuplicates bool
	// Unknown, if set, is called with every attribute that is kept apart. The
	// flow is not complete yet at that time.
	Unknown func(*ct.Flow, Unknown)
}

// Summary says how a reading went.
type Summary struct {
	Entries    int // given to the callback
	Received   int // sent by the kernel, duplicates left out
	Duplicates int
	// Walked is set where the table was read from inside the kernel. Received
	// then counts what the kernel's part of the filter let pass, and Expired the
	// entries that were over but still there, which are neither shown nor removed.
	Walked  bool
	Expired int
	resized bool
	// Stopped is set where the limit, the callback or the context ended it.
	Stopped bool
	// Filtered is set where the kernel was given a filter.
	Filtered bool
	// KernelFiltered is NLM_F_DUMP_FILTERED on the last entry: the kernel, 5.8
	// or later, applied a filter, or such part of it as it knows. An older one
	// knows family and mark at most, and does not say.
	KernelFiltered bool
	// CountBefore and CountAfter are the namespace's count of entries around
	// the reading. They include what no dump shows: entries of packets still
	// on their way, expired ones (which the reading itself removes), and dead
	// ones whose event waits for a listener. CountAfter is 0 if Stopped.
	CountBefore, CountAfter uint32
	// BucketsBefore and BucketsAfter are the sizes of the hash table around
	// the reading, 0 where they could not be read.
	BucketsBefore, BucketsAfter uint32
}

// Resized reports whether the hash table was resized during the reading. Any
// number of entries may then be missing.
func (s *Summary) Resized() bool { return s.resized || s.BucketsBefore != s.BucketsAfter }

// Short returns how many entries may be missing from a reading to the end: by
// how many what the kernel sent falls short of the smaller of the two counts.
// It says nothing, 0, for a reading that was stopped or filtered.
func (s *Summary) Short() int {
	if s.Stopped || s.Filtered {
		return 0
	}
	return max(0, int(min(s.CountBefore, s.CountAfter))-s.Received-s.Expired)
}

// Dump reads the table and calls fn with every entry that passes the filter.
// The Flow is the Conn's own and is overwritten by the next entry: copy it to
// keep it. (A copy shares nothing but immutable strings.) fn returns ErrStop to
// end early, and any other error to end with it.
//
// A dump reads bucket by bucket while the table changes: entries that come and
// go meanwhile may be in it or not; those that stay are in it once, unless the
// table is resized.
func (c *Conn) Dump(ctx context.Context, q Query, fn func(*ct.Flow) error) (Summary, error) {
	var s Summary
	before, err := c.GlobalStats()
	if err != nil {
		return s, err
	}
	s.CountBefore, s.BucketsBefore = before.Count, buckets()
	r := reading{c: c, q: &q, fn: fn, sum: &s, all: q.Filter.IsZero()}
	if err := r.table(ctx); err != nil {
		return s, fmt.Errorf("read connection tracking table: %w", err)
	}
	s.BucketsAfter = buckets()
	if s.Stopped {
		return s, nil
	}
	after, err := c.GlobalStats()
	s.CountAfter = after.Count
	return s, err
}

// table reads it in the way that costs the least.
func (r *reading) table(ctx context.Context) error {
	if w := r.c.walkable(r.q, r.sum.CountBefore); w != nil {
		if done, err := r.c.walkTable(ctx, w, r); done {
			return err
		}
	}
	return r.run(ctx, ctGet)
}

// buckets reads the size of the hash table, one number for all namespaces from
// 4.7 on.
func buckets() uint32 {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_buckets")
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// reading is one dump under way.
type reading struct {
	c      *Conn
	q      *Query
	fn     func(*ct.Flow) error
	sum    *Summary
	flow   ct.Flow
	all    bool // the filter matches everything
	recent recent
}

// run reads once more without a filter where the kernel refuses the one it was
// given, as kernels without marks or zones do.
func (r *reading) run(ctx context.Context, kind uint8) error {
	r.sum.Filtered = !r.all && kind == ctGet
	err := r.attempt(ctx, kind)
	if r.sum.Filtered && errors.Is(err, ErrUnsupported) {
		r.sum.Filtered = false
		err = r.attempt(ctx, kind)
	}
	return err
}

func (r *reading) attempt(ctx context.Context, kind uint8) error {
	c := r.c
	if err := c.ready(); err != nil {
		return err
	}
	c.dec.unknown = r.q.Unknown
	r.recent = recent{}
	seq := c.nextSeq(1)
	if err := c.send(r.request(kind, seq)); err != nil {
		return err
	}
	in := r.source()
	defer in.stop()
	for {
		b, err := in.next()
		if err != nil {
			c.stale = true
			return err
		}
		done, err := walk(b, seq, r.message)
		switch {
		case errors.Is(err, ErrStop):
			c.stale = !done
			r.sum.Stopped = true
			return nil
		case err != nil:
			c.stale = !done
			return err
		case done:
			return nil
		}
		if err := ctx.Err(); err != nil {
			c.stale = true
			r.sum.Stopped = true
			return err
		}
	}
}

func (r *reading) request(kind uint8, seq uint32) []byte {
	e := encoder{r.c.out[:0]}
	fam := uint8(0)
	if r.sum.Filtered {
		fam = r.q.Filter.kernelFamily()
	}
	start := e.begin(subsysCT, kind, flagDump, seq, fam)
	if r.sum.Filtered {
		r.q.Filter.encode(&e)
	}
	e.end(start)
	r.c.out = e.b
	return e.b
}

func (r *reading) message(m message) error {
	a, _, err := m.attrs()
	if err != nil {
		return err
	}
	f := &r.flow
	if err := r.c.dec.entry(a, f); err != nil {
		return err
	}
	if !r.q.KeepDuplicates && r.recent.seen(f) {
		r.sum.Duplicates++
		return nil
	}
	r.sum.KernelFiltered = m.flags&flagDumpFiltered != 0
	return r.offer(f)
}

// offer hands an entry on if it passes the filter.
func (r *reading) offer(f *ct.Flow) error {
	r.sum.Received++
	if !r.matches(f) {
		return nil
	}
	return r.give(f)
}

func (r *reading) matches(f *ct.Flow) bool {
	return (r.all || r.q.Filter.Match(f)) && (r.q.Select == nil || r.q.Select(f))
}

// give hands an entry over.
func (r *reading) give(f *ct.Flow) error {
	r.sum.Entries++
	if err := r.fn(f); err != nil {
		return err
	}
	if r.sum.Entries == r.q.Limit {
		return ErrStop
	}
	return nil
}

// Dying reads the entries that are dead and still counted because their event
// could not be delivered to a listener that insists on it. Filter and callback
// are as with Dump. Needs 3.10 or later.
func (c *Conn) Dying(ctx context.Context, q Query, fn func(*ct.Flow) error) (Summary, error) {
	return c.list(ctx, ctGetDying, q, fn)
}

// Unconfirmed reads the entries of packets that are still on their way, up to
// 5.18; later kernels keep no such list and show none.
func (c *Conn) Unconfirmed(ctx context.Context, q Query, fn func(*ct.Flow) error) (Summary, error) {
	return c.list(ctx, ctGetUnconfirmed, q, fn)
}

func (c *Conn) list(ctx context.Context, kind uint8, q Query, fn func(*ct.Flow) error) (Summary, error) {
	var s Summary
	r := reading{c: c, q: &q, fn: fn, sum: &s, all: q.Filter.IsZero()}
	if err := r.run(ctx, kind); err != nil {
		return s, fmt.Errorf("read dying or unconfirmed entries: %w", err)
	}
	return s, nil
}

// Reap makes the kernel remove every expired entry of every namespace, which
// it otherwise does only in passing: a dump whose filter matches nothing. On
// kernels before 5.15, which would send the whole table instead, it is read
// and thrown away.
func (c *Conn) Reap(ctx context.Context) error {
	// No entry in the table lacks IPS_CONFIRMED.
	q := Query{Filter: Filter{StatusMask: ct.StatusConfirmed | ct.StatusDying, Status: ct.StatusDying}}
	r := reading{c: c, q: &q, fn: func(*ct.Flow) error { return nil }, sum: new(Summary)}
	if err := r.run(ctx, ctGet); err != nil {
		return fmt.Errorf("reap expired entries: %w", err)
	}
	return nil
}
