package observe

import (
	"context"
	"errors"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/census"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
)

// reading is what moves, at one time.
type reading struct {
	at     time.Time
	perCPU []ct.Counters
	count  ct.Value
}

func (m *reading) sum() (c ct.Counters) {
	for _, o := range m.perCPU {
		c.Add(o)
	}
	return c
}

// moving reads counters and table, and does so again after the observation.
func (r *reader) moving(ctx context.Context) error {
	if r.snap.Tracking.ModuleLoaded == ct.No {
		return ctx.Err()
	}
	t := r.openTable()
	defer t.close()
	r.snap.Lookalikes = r.lookAlikes()
	first := r.read(t, true)
	p := census.NewPanel(r.o.Panel, r.o.Seed)
	r.publish(first)
	span, err := r.firstDump(ctx, t, p)
	if err != nil {
		return err
	}
	r.dying(ctx, t)
	if r.o.Observe <= 0 {
		return nil
	}
	if err := r.wait(ctx, first.at.Add(r.o.Observe)); err != nil {
		return err
	}
	second := r.read(t, false)
	r.snap.LookalikesBefore, r.snap.Lookalikes = r.snap.Lookalikes, r.lookAlikes()
	r.publish(second)
	rates := compare(first, second)
	if r.snap.Census != nil {
		if err := r.secondDump(ctx, t, p, rates, span); err != nil {
			return err
		}
	}
	r.snap.Rates = rates
	return nil
}

// publish puts the newer reading into the snapshot.
func (r *reader) publish(m reading) {
	s := r.snap
	s.Time = m.at
	s.PerCPU, s.Counters = m.perCPU, m.sum()
	if m.count.Known {
		s.Limits.Count = m.count
	}
}

// compare subtracts the counters of each CPU by itself: they wrap one by one.
func compare(a, b reading) *ct.Rates {
	r := &ct.Rates{Interval: b.at.Sub(a.at), CountStart: a.count, CountEnd: b.count}
	for i := range min(len(a.perCPU), len(b.perCPU)) {
		r.Counters.Add(b.perCPU[i].Sub(a.perCPU[i]))
	}
	return r
}

// wait sleeps until the deadline and shows progress.
func (r *reader) wait(ctx context.Context, until time.Time) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(time.Until(until))
	defer end.Stop()
	for {
		left := time.Until(until)
		r.o.Progress("observing", 1-min(1, max(0, float64(left)/float64(r.o.Observe))))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return nil
		case <-tick.C:
		}
	}
}

// read reads counters and count. tell notes what is missing.
func (r *reader) read(t *table, tell bool) reading {
	m := reading{at: time.Now()}
	var stat procfs.Stat
	var statErr error
	if err := r.inside(func() { stat, statErr = r.fs.ConntrackStat() }); err != nil {
		statErr = err
	}
	if statErr == nil {
		m.perCPU, m.count = stat.PerCPU, stat.Entries
	}
	netlinkErr := t.stats(&m)
	if tell && statErr != nil && netlinkErr != nil {
		r.blind("the counters of tracking", errors.Join(statErr, netlinkErr), asRoot(netlinkErr, mountProc))
	}
	if !m.count.Known {
		m.count = r.snap.Limits.Count
	}
	return m
}

// span is when the panel was read, and how many buckets the table had.
type span struct {
	start, end time.Time
	buckets    uint32
}

// firstDump takes the census and the panel's first reading.
func (r *reader) firstDump(ctx context.Context, t *table, p *census.Panel) (span, error) {
	opts := census.Options{Seed: r.o.Seed, Top: r.o.Top, Sample: r.o.Panel}
	if r.snap.Tracking.TimeoutPolicies == ct.No {
		opts.Timeouts = &r.snap.Timeouts
	}
	c := census.New(opts)
	total := float64(max(r.snap.Limits.Count.Or(0), 1))
	n := 0
	at := span{start: time.Now()}
	d, err := t.dump(ctx, func(f *ct.Flow) bool {
		if !p.First(f) {
			if at.end.IsZero() {
				at.end = time.Now()
			}
			if !r.o.Full {
				return false
			}
		}
		c.Add(f)
		if n++; n%(1<<16) == 0 {
			r.o.Progress("reading the table", min(1, float64(n)/total))
		}
		return true
	})
	if ctx.Err() != nil {
		return at, ctx.Err()
	}
	at.buckets = d.buckets
	if at.end.IsZero() {
		at.end = time.Now()
	}
	if err != nil {
		r.blind("the entries of the table", err, t.advice(err))
		if n == 0 {
			return at, nil
		}
	}
	r.snap.Census = r.finish(c.Result(), d, err == nil)
	return at, nil
}

// finish fills in how complete the reading was.
func (r *reader) finish(c *ct.Census, d dumped, whole bool) *ct.Census {
	c.Complete = d.complete && whole
	c.CountBefore, c.CountAfter = d.before, d.after
	if !whole {
		c.Short = true
		return c
	}
	if c.Complete {
		c.Short = d.short
		return c
	}
	all := max(d.before.Or(0), r.snap.Limits.Count.Or(0), int64(c.Entries))
	c.SampleError = census.SampleError(c.Entries, uint64(all))
	return c
}

// secondDump reads the panel again. What has passed since the first reading
// ended is the least time that an entry can have had to lose seconds in.
func (r *reader) secondDump(ctx context.Context, t *table, p *census.Panel, rates *ct.Rates, first span) error {
	start := time.Now()
	least := start.Sub(first.end)
	growth := 1.0
	if a, b := rates.CountStart, rates.CountEnd; a.Known && b.Known && a.N > 0 {
		growth = float64(b.N) / float64(a.N)
	}
	d, err := t.dump(ctx, func(f *ct.Flow) bool {
		p.Second(f, least)
		return !p.Enough(growth)
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		r.blind("births and deaths of entries", err, t.advice(err))
	case d.buckets != first.buckets:
		r.blind("births and deaths of entries", errResized, "look again when nobody changes nf_conntrack_buckets")
	default:
		p.Rates(rates, start.Sub(first.start))
	}
	return nil
}

var errResized = errors.New("the hash table was resized between the two readings")
