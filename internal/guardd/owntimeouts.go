package guardd

import (
	"slices"
	"sync"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// ownTimeouts remembers the timeouts that entries may carry besides those in
// force: what is left of an entry tells its idle time only to who knows them
// all. An entry that began under a set of our table's keeps it until the table
// gives none any more, and then what it has left of it until its next packet.
type ownTimeouts struct {
	mu      sync.Mutex
	now     *ct.Timeouts // given by our table
	given   []ct.Timeouts
	former  []formerSet
	crowded time.Time // until then some set is not remembered
}

type formerSet struct {
	set   ct.Timeouts
	until time.Time
}

// mostSets bounds what is remembered; beyond it nothing can be told.
const mostSets = 64

// change puts a set of our table's in force; nil ends them all.
func (o *ownTimeouts) change(set *ct.Timeouts, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if set == nil {
		if o.now != nil {
			o.given = append(o.given, *o.now)
		}
		for _, g := range o.given {
			o.keep(formerSet{g, now.Add(longest(&g))})
		}
		o.now, o.given = nil, nil
		return
	}
	if o.now != nil && *o.now != *set {
		switch {
		case slices.Contains(o.given, *o.now):
		case len(o.given) >= mostSets:
			o.crowded = now.Add(24 * time.Hour)
		default:
			o.given = append(o.given, *o.now)
		}
	}
	s := *set
	o.now = &s
}

// was remembers timeouts of the namespace that have been changed.
func (o *ownTimeouts) was(set ct.Timeouts, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.keep(formerSet{set, now.Add(longest(&set))})
}

// longest is how long an entry may still carry a set that is not given any more.
func longest(set *ct.Timeouts) time.Duration {
	var most int32
	for k := range ct.NumTimeouts {
		if s, ok := set.Get(k); ok {
			most = max(most, s)
		}
	}
	return time.Duration(most+60) * time.Second
}

func (o *ownTimeouts) keep(f formerSet) {
	for i := range o.former {
		if o.former[i].set == f.set {
			o.former[i].until = f.until
			return
		}
	}
	if len(o.former) >= mostSets {
		o.crowded = f.until
		return
	}
	o.former = append(o.former, f)
}

// sets returns every set that an entry may carry besides base, each complete.
// ok is false where that cannot be told.
func (o *ownTimeouts) sets(base *ct.Timeouts, now time.Time) (list []ct.Timeouts, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.Before(o.crowded) {
		return nil, false
	}
	kept := o.former[:0]
	for _, f := range o.former {
		if now.Before(f.until) {
			kept = append(kept, f)
			list = append(list, overlay(base, &f.set))
		}
	}
	o.former = kept
	for i := range o.given {
		list = append(list, overlay(base, &o.given[i]))
	}
	if o.now != nil {
		list = append(list, overlay(base, o.now))
	}
	return list, true
}

// overlay is base with what set says.
func overlay(base, set *ct.Timeouts) ct.Timeouts {
	t := *base
	for k := range ct.NumTimeouts {
		if s, ok := set.Get(k); ok {
			t.Set(k, s)
		}
	}
	return t
}
