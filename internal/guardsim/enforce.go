package guardsim

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/census"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/sim"
)

// reading is what the guard sees.
func (r *run) reading(table, memory bool) guard.Reading {
	g := guard.Reading{At: r.now, Count: int64(r.table.Count()), Max: int64(r.table.Max()), Buckets: int64(r.table.Buckets()),
		Counters: r.table.Counters()}
	if memory {
		g.HasMemory, g.TotalBytes = true, r.s.AvailableBytes
		g.AvailableBytes = r.s.AvailableBytes - g.Count*entryBytes
		g.HighestCount, g.BusyNamespaces = g.Count, 1
	}
	if table {
		g.Table = &guard.Table{Census: r.census(), Count: g.Count, Took: panelTook}
	}
	return g
}

const (
	panelSize = 20_000
	panelTook = 15 * time.Millisecond
	topListed = 2048
)

// census reads the panel: the first entries of a dump. The buckets are hashed
// with a secret, so these are a sample.
func (r *run) census() *ct.Census {
	c := census.New(census.Options{Timeouts: &r.defaults, Top: topListed, Sample: panelSize, Seed: 1, SourcesOnly: true})
	n := 0
	complete := true
	for _, f := range r.table.Dump() {
		if n == panelSize {
			complete = false
			break
		}
		c.Add(f)
		n++
	}
	out := c.Result()
	out.Complete = complete
	out.SampleError = census.SampleError(uint64(n), uint64(max(r.table.Count(), n)))
	return out
}

func (r *run) do(a guard.Action) {
	res := guard.Result{Action: a, At: r.now}
	switch a.Kind {
	case guard.KindMax:
		if int64(r.table.Max()) != a.Max.From {
			res.Foreign = true
		} else {
			r.table.SetMax(int(a.Max.To))
		}
		res.Got = int64(r.table.Max())
	case guard.KindBuckets:
		r.table.SetBuckets(int(a.Buckets.To))
		res.Got = int64(r.table.Buckets())
	case guard.KindReap:
		r.walk()
	case guard.KindTimeouts:
		// The model has no timeout policies: all flows get the new timeouts.
		t := r.defaults
		for k := range ct.NumTimeouts {
			if v, ok := a.Timeouts.Set.Get(k); ok {
				t.Set(k, v)
			}
		}
		r.table.SetTimeouts(&t)
	case guard.KindLimit:
		r.limit(a.Limit)
	case guard.KindThin:
		if !a.Undo && a.Thin.Over {
			r.freeOver(&res, a.Thin)
			break
		}
		if !a.Undo {
			r.thin = &thinning{action: a, at: r.now}
			r.choose()
			return
		}
	}
	r.policy.Done(res)
}

// freeOver gives a second to what has ended.
func (r *run) freeOver(res *guard.Result, t *guard.Thin) {
	var list []sim.ID
	for id, f := range r.table.Dump() {
		if f.Orig.Proto == ct.TCP && f.State == ct.TCPTimeWait && f.TimeoutSeconds > t.Seconds && len(list) < t.Limit {
			list = append(list, id)
		}
	}
	for _, id := range list {
		if r.table.SetTimeout(id, t.Seconds) {
			res.Changed++
		}
	}
	res.Selected = len(list)
}

// walk goes over the whole table, which removes what has expired.
func (r *run) walk() {
	for range r.table.Dump() {
	}
}

type limitedPrefix struct {
	netip.Prefix
	until time.Duration
	held  int // connections begun since it is counted
}

func (r *run) limit(l *guard.Limit) {
	// "ct count" sees entries from when a source is first counted on, and begins
	// anew where the cap changes.
	held := map[netip.Prefix]int{}
	if l.PerSource == r.nets.PerSource {
		for i := range r.prefix {
			held[r.prefix[i].Prefix] = r.prefix[i].held
		}
	}
	r.nets, r.prefix = *l, nil
	for _, p := range l.Sources {
		r.prefix = append(r.prefix, limitedPrefix{p, r.now + time.Duration(l.Seconds)*time.Second, held[p]})
	}
}

// stops plays the rules of the guard's own table: bare SYNs of limited sources.
func (r *run) stops(p *sim.Packet) bool {
	if p.Tuple.Proto != ct.TCP || p.TCP.Flags&(sim.TCPSyn|sim.TCPAck) != sim.TCPSyn {
		return false
	}
	for i := range r.prefix {
		l := &r.prefix[i]
		if !l.Contains(p.Tuple.Src) || r.now >= l.until {
			continue
		}
		if l.held++; r.nets.PerSource == 0 || l.held > r.nets.PerSource {
			return true
		}
	}
	return false
}

// thinning is a probation under way.
type thinning struct {
	action guard.Action
	at     time.Duration
	chosen []choice
	second bool
	res    guard.Result
}

type choice struct {
	id   sim.ID
	flow ct.Flow
	idle time.Duration
}

// settle is the time between the two readings.
const settle = 2 * time.Second

// choose is the first reading of a probation.
func (r *run) choose() {
	t := r.thin.action.Thin
	var list []choice
	perSource := map[netip.Prefix]int{}
	for id, f := range r.table.Dump() {
		idle, ok := ct.IdleMin(f, &r.defaults)
		if !ok || !r.from(t, f, perSource) || !t.Matches(f, idle, r.now) {
			continue
		}
		list = append(list, choice{id, *f, idle})
	}
	if len(t.Sources) > 0 {
		slices.SortStableFunc(list, func(a, b choice) int { return cmp.Compare(b.idle, a.idle) })
		list = slices.DeleteFunc(list, func(c choice) bool {
			p, _ := sourceIn(t.Sources, c.flow.Orig.Src)
			perSource[p]--
			return perSource[p] < t.Keep
		})
	}
	r.thin.chosen = list[:min(len(list), t.Limit)]
	r.thin.res = guard.Result{Action: r.thin.action, Selected: len(r.thin.chosen)}
}

func (r *run) from(t *guard.Thin, f *ct.Flow, perSource map[netip.Prefix]int) bool {
	if len(t.Sources) == 0 {
		return true
	}
	p, ok := sourceIn(t.Sources, f.Orig.Src)
	if ok {
		perSource[p]++
	}
	return ok
}

func sourceIn(list []netip.Prefix, a netip.Addr) (netip.Prefix, bool) {
	for _, p := range list {
		if p.Contains(a) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// goOn carries a probation further when its time has come.
func (r *run) goOn() {
	t := r.thin
	if t == nil {
		return
	}
	th := t.action.Thin
	switch {
	case !t.second && r.now-t.at >= settle:
		t.second = true
		kept := t.chosen[:0]
		passed := uint32((r.now - t.at) / time.Second)
		for _, c := range t.chosen {
			var f ct.Flow
			if r.table.Flow(c.id, &f) && f.Orig == c.flow.Orig && f.State == c.flow.State && f.TimeoutSeconds+passed <= c.flow.TimeoutSeconds+1 {
				if f.TimeoutSeconds > th.Seconds && r.table.SetTimeout(c.id, th.Seconds) {
					kept = append(kept, c)
				}
			} else {
				t.res.Active++
			}
		}
		t.chosen, t.at = kept, r.now
		t.res.Changed = len(kept)
	case t.second && r.now-t.at >= time.Duration(th.Seconds+1)*time.Second:
		r.walk()
		for _, c := range t.chosen {
			var f ct.Flow
			if r.table.Flow(c.id, &f) && f.Orig == c.flow.Orig {
				t.res.Survived++
			}
		}
		t.res.At = r.now
		r.thin = nil
		r.policy.Done(t.res)
	}
}
