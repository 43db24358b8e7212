package guard

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// Kind is a means of defence.
type Kind string

// Means, from the softest to the hardest.
const (
	// KindMax writes nf_conntrack_max: up at once inside the memory bound, down
	// only where the count allows. Undone by writing what was there, when the
	// count allows.
	KindMax Kind = "max"
	// KindTimeouts gives new flows shorter timeouts, by "ct timeout" objects in
	// our own table. Undone by removing them: entries return to the defaults
	// with their next packet.
	KindTimeouts Kind = "timeouts"
	// KindThin shortens the timeouts of entries that look dead or hostile, and
	// has the kernel remove what expired. A live flow's next packet acquits
	// its entry. Undone by giving survivors their timeouts back.
	KindThin Kind = "thin"
	// KindLimit refuses new connections of named sources, in sets that fail
	// open. Undone by emptying the sets.
	KindLimit Kind = "limit"
	// KindBuckets resizes the hash table, once.
	KindBuckets Kind = "buckets"
	// KindReap has the kernel remove expired entries: a dump that matches
	// nothing.
	KindReap Kind = "reap"
	// KindUntrack lets flows pass before tracking, by our own table. Undone by
	// naming none.
	KindUntrack Kind = "untrack"
)

// Action is one thing to do. Exactly the field of its Kind is set.
type Action struct {
	// ID numbers the actions of a run from 1 on.
	ID   int    `json:"id"`
	Kind Kind   `json:"kind"`
	Why  string `json:"why"`
	// Undo marks an action that takes an earlier one back.
	Undo bool `json:"undo,omitempty"`
	// Of is the ID of the action that an undo takes back, 0 for all of its kind.
	Of int `json:"of,omitempty"`

	Max      *Change   `json:"max,omitempty"`
	Buckets  *Change   `json:"buckets,omitempty"`
	Timeouts *Timeouts `json:"timeouts,omitempty"`
	Thin     *Thin     `json:"thin,omitempty"`
	Limit    *Limit    `json:"limit,omitempty"`
	Untrack  *Untrack  `json:"untrack,omitempty"`
}

// Change of a number that the kernel keeps.
type Change struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Timeouts for new flows, complete: what is not set goes back to the default.
// With none set, all do.
type Timeouts struct {
	Set ct.Timeouts `json:"set"`
	// Scale is for people: the factor, 0 to 1, by which the timeouts are
	// scaled.
	Scale float64 `json:"scale"`
}

// Classes is a set of classes of entries that may be thinned.
type Classes uint8

// Classes of entries.
const (
	HalfOpen  Classes = 1 << iota // TCP handshakes not finished
	Unreplied                     // anything else that nobody answered
	Closing                       // TCP that is ending: FIN_WAIT to CLOSE
	Silent                        // TCP established, or UDP answered, and nothing since
)

// Thin selects entries. Entries that evict.Guard spares are never selected,
// nor those for which the idle time is not known.
type Thin struct {
	Classes Classes `json:"classes"`
	// MinIdle is the least idle_min, confirmed by a second reading.
	MinIdle time.Duration `json:"min_idle"`
	// Since, if not zero, spares entries whose last packet came before that
	// moment (on the clock of Reading.At): they lived before the attack.
	Since time.Duration `json:"since,omitempty"`
	// Sources, if not empty, selects only their entries; each keeps Keep.
	Sources []netip.Prefix `json:"sources,omitempty"`
	Keep    int            `json:"keep,omitempty"`
	// Fragile also selects entries whose loss may break a connection.
	Fragile bool `json:"fragile,omitempty"`
	// Over is another thing: TCP entries in TIME_WAIT, of connections that both
	// sides have ended, get one second whatever their age, up to Limit; those
	// with translated addresses are left. Nothing of the above applies then.
	Over bool `json:"over,omitempty"`
	// Seconds is the timeout they get; at most Limit entries get it, the
	// longest idle first where Sources is set.
	Seconds uint32 `json:"seconds"`
	Limit   int    `json:"limit"`
}

// Limit of sources.
type Limit struct {
	// Sources are complete: a source that is no longer named is free again.
	// With none, all are.
	Sources []netip.Prefix `json:"sources"`
	// Seconds after which the kernel forgets a source by itself.
	Seconds uint32 `json:"seconds"`
	// PerSource, if not 0, is how many entries each may have ("ct count" after
	// tracking, where those begun before are not seen); without it every new connection of theirs is refused, bare
	// SYNs before tracking, others after it.
	PerSource int `json:"per_source,omitempty"`
}

// Result says what became of an action.
type Result struct {
	Action Action `json:"action"`
	// At is when it was done, on the clock of Reading.At.
	At  time.Duration `json:"-"`
	Err error         `json:"-"`
	// Foreign is set where somebody else has written the value since we read or
	// wrote it: it was left alone.
	Foreign bool `json:"foreign,omitempty"`
	// TableLost is set where our table of rules went, with all that was in it.
	TableLost bool `json:"-"`
	// Got is the number that stands now, of KindMax and KindBuckets.
	Got int64 `json:"got,omitempty"`
	// Selected, Active, Changed and Survived count entries of KindThin: chosen
	// by the first reading, found active by the second, given the short
	// timeout, and alive after it.
	Selected int `json:"selected,omitempty"`
	Active   int `json:"active,omitempty"`
	Changed  int `json:"changed,omitempty"`
	Survived int `json:"survived,omitempty"`
	// Spared counts entries that were protected.
	Spared int `json:"spared,omitempty"`
}

// String describes an action for the log, without the reason.
func (a *Action) String() string {
	switch a.Kind {
	case KindMax:
		return fmt.Sprintf("nf_conntrack_max %d -> %d", a.Max.From, a.Max.To)
	case KindBuckets:
		return fmt.Sprintf("nf_conntrack_buckets %d -> %d", a.Buckets.From, a.Buckets.To)
	case KindTimeouts:
		if a.Undo {
			return "timeouts of new flows back to the defaults"
		}
		return fmt.Sprintf("timeouts of new flows scaled to %.0f %%", 100*a.Timeouts.Scale)
	case KindThin:
		if a.Thin.Over {
			return fmt.Sprintf("1 s for at most %d entries of connections that both sides have ended", a.Thin.Limit)
		}
		return fmt.Sprintf("probation of %d s for at most %d entries%s", a.Thin.Seconds, a.Thin.Limit, ofSources(a.Thin.Sources))
	case KindLimit:
		switch {
		case len(a.Limit.Sources) == 0:
			return "no source is limited any more"
		case a.Limit.PerSource > 0:
			return fmt.Sprintf("at most %d more entries each for %s", a.Limit.PerSource, names(a.Limit.Sources))
		}
		return "no new connections of " + names(a.Limit.Sources)
	case KindUntrack:
		if a.Undo {
			return "what administers the machine is tracked again"
		}
		return "a path before tracking for " + a.Untrack.Specs
	case KindReap:
		return "expired entries removed"
	}
	return string(a.Kind)
}

func ofSources(list []netip.Prefix) string {
	if len(list) == 0 {
		return ""
	}
	return " of " + names(list)
}

// names lists a few prefixes, hosts without their length.
func names(list []netip.Prefix) string {
	const most = 3
	s := ""
	for i, p := range list {
		if i == most {
			return fmt.Sprintf("%s and %d more", s, len(list)-most)
		}
		if i > 0 {
			s += ", "
		}
		if p.IsSingleIP() {
			s += p.Addr().String()
		} else {
			s += p.String()
		}
	}
	return s
}
