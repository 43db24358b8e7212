package guardd

import (
	"context"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/census"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
)

// panelEntries is how many entries a panel holds: a dump of that many takes some
// 25 ms and tells shares within 0.7 %.
const panelEntries = 20_000

// panelTop is how many sources are told apart: an attack comes from more than
// the few that a person looks at.
const panelTop = 1024

// panels reads the composition of the table from the same buckets again and
// again. One goroutine at a time uses it.
type panels struct {
	forgetSoon bool // of the loop: it is calm again
	seed       uint64
	last       struct {
		panel    *census.Panel
		end      time.Time
		start    time.Time
		counters ct.Counters
		count    int64
		buckets  uint32
	}
}

// read takes a panel. The count and the counters are those of now.
func (p *panels) read(ctx context.Context, ref string, count int64, counters ct.Counters, t *ct.Timeouts, former []ct.Timeouts) (*guard.Table, error) {
	conn, err := ctnl.Dial(ctnl.Options{Netns: ref})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	begin := time.Now()
	c := census.New(census.Options{Timeouts: t, Former: former, Seed: p.seed, Sample: panelEntries, Top: panelTop, SourcesOnly: true})
	next := census.NewPanel(panelEntries, p.seed)
	old, growth := p.last.panel, 1.0
	if p.last.count > 0 {
		growth = max(1, float64(count)/float64(p.last.count))
	}
	elapsed := begin.Sub(p.last.end)
	more := true
	var end time.Time
	sum, err := conn.Dump(ctx, ctnl.Query{}, func(f *ct.Flow) error {
		if old != nil {
			old.Second(f, elapsed)
		}
		if more {
			if more = next.First(f); more {
				c.Add(f)
			} else {
				end = time.Now()
			}
		}
		if !more && (old == nil || old.Enough(growth)) {
			return ctnl.ErrStop
		}
		return nil
	})
	if err != nil {
		p.last.panel = nil
		return nil, err
	}
	if end.IsZero() {
		end = time.Now()
	}
	table := &guard.Table{Census: c.Result()}
	table.Census.Complete = more && !sum.Stopped
	table.Census.CountBefore = ct.Known(count)
	if !table.Census.Complete {
		table.Census.SampleError = census.SampleError(table.Census.Entries, uint64(max(count, int64(table.Census.Entries))))
	}
	if old != nil && sum.BucketsBefore == p.last.buckets && !sum.Resized() {
		r := &ct.Rates{Interval: begin.Sub(p.last.start), CountStart: ct.Known(p.last.count), CountEnd: ct.Known(count),
			Counters: counters.Sub(p.last.counters)}
		old.Rates(r, r.Interval)
		table.Rates = r
	}
	p.last.panel, p.last.start, p.last.end = next, begin, end
	p.last.counters, p.last.count, p.last.buckets = counters, count, sum.BucketsBefore
	table.Took = time.Since(begin)
	return table, nil
}

// forget drops the last panel: the next has no rates.
func (p *panels) forget() { p.last.panel = nil }
