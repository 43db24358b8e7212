package sim

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
)

// EventKind says what happened to an entry.
type EventKind uint8

// Kinds of events.
const (
	EventNew     EventKind = iota // confirmed: the entry is in the table
	EventDestroy                  // gone: see Cause
)

// Cause says why an entry was destroyed.
type Cause uint8

// Causes of destruction.
const (
	CauseNone      Cause = iota
	CauseExpired         // its timeout had passed, and something walked over it
	CauseEarlyDrop       // evicted by a packet that found the table full
	CauseGC              // evicted by garbage collection near the limit
	CauseReset           // RST before any reply
	CauseReopened        // a new connection took its tuple
	CauseNATReuse        // its translated port was needed
	CauseDeleted         // by the caller
	numCauses
)

var causeNames = [numCauses]string{"none", "expired", "early-drop", "gc", "reset",
	"reopened", "nat-reuse", "deleted"}

// String returns "expired", "early-drop", "gc" and the like.
func (c Cause) String() string { return causeNames[c] }

// Event is the life or death of one entry. Use [Table.Flow] with Entry, during
// the callback, for its tuples.
type Event struct {
	At    Time
	Entry ID
	Kind  EventKind
	Cause Cause
	Tag   uint8 // of the packet that made the entry
	Proto ct.Proto
	State ct.State
}

func (t *Table) emit(i int32, kind EventKind, cause Cause) {
	if t.events == nil {
		return
	}
	e := &t.entries[i]
	t.events(Event{At: t.now, Entry: ID(i), Kind: kind, Cause: cause, Tag: e.tag,
		Proto: e.proto(), State: ct.State(e.state)})
}

// ratelimit is the kernel's one limiter of network messages (lib/ratelimit.c).
type ratelimit struct {
	begun           bool
	begin           Time
	printed, missed int
}

// logFull writes the table-full line as the limiter lets it.
func (t *Table) logFull() {
	if t.log == nil {
		return
	}
	l, k := &t.limiter, &t.knobs
	if k.PrintkIntervalSeconds > 0 {
		interval := Time(k.PrintkIntervalSeconds) * 1e9
		if !l.begun {
			*l = ratelimit{begun: true, begin: t.now}
		} else if t.now > l.begin+interval {
			if l.missed > 0 {
				t.log(t.now, fmt.Sprintf("net_ratelimit: %d callbacks suppressed", l.missed))
			}
			*l = ratelimit{begun: true, begin: t.now}
		}
		if l.printed >= k.PrintkBurst {
			l.missed++
			return
		}
		l.printed++
	}
	if t.rules.logNetns && k.Netns != 0 {
		t.log(t.now, fmt.Sprintf("nf_conntrack: nf_conntrack: table full in netns %d, dropping packet", k.Netns))
		return
	}
	t.log(t.now, "nf_conntrack: nf_conntrack: table full, dropping packet")
}
