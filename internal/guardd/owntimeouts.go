package guardd

import (
	"sync"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// ownTimeouts remembers the timeouts that our table has given to flows: what is
// left of an entry tells its idle time only to who knows them all.
type ownTimeouts struct {
	mu      sync.Mutex
	now     *ct.Timeouts // in force
	former  []formerSet
	crowded time.Time // until then some set is not remembered
}

type formerSet struct {
	set   ct.Timeouts
	until time.Time
}

const (
	mostSets = 64
	// setLasts is how long after a set was taken out of force entries may still
	// carry it: shortened ones last minutes.
	setLasts = time.Hour
)

// change puts a set in force; nil takes it out.
func (o *ownTimeouts) change(set *ct.Timeouts, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.now != nil {
		o.keep(formerSet{*o.now, now.Add(setLasts)})
	}
	o.now = nil
	if set != nil {
		s := *set
		o.now = &s
	}
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
