// Package journal keeps what was changed on a machine, why, from what and to
// what, so that it can be undone by a later process, after a crash, or by
// nobody at all when the machine was restarted meanwhile.
//
// The file is append-only JSON lines, each with a checksum; every record is
// durable before the deed that it announces. A record that a crash or a full
// disk left half-written is recognised, reported and cut off; what precedes it
// is never touched.
package journal

import (
	"maps"
	"slices"
	"time"
)

// Version is the format this package writes. Records of a later format are
// left alone, and nothing is written beside them.
const Version = 1

// DefaultDir is where the journal lives unless the command line says otherwise.
const DefaultDir = "/var/lib/ctwarden"

// State is how far an operation, or one setting of it, has come.
type State string

// States. Planned, Written, Verified and Deferred are open: something may
// still have to be undone.
const (
	Planned   State = "planned"   // about to be written; a crash leaves old or new
	Written   State = "written"   // the kernel took it
	Verified  State = "verified"  // read back as meant
	Deferred  State = "deferred"  // to be reverted as soon as the table allows
	Reverted  State = "reverted"  // back to what was before
	Confirmed State = "confirmed" // kept
	Foreign   State = "foreign"   // somebody else has written since: left as it is
	Void      State = "void"      // never written, or gone with a restart of the machine
	Failed    State = "failed"    // refused by the kernel
)

// Open reports whether something may still have to be done about it.
func (s State) Open() bool {
	return s == Planned || s == Written || s == Verified || s == Deferred
}

// Final reports whether nothing can move it any more. What was confirmed can
// still be taken back.
func (s State) Final() bool { return !s.Open() && s != Confirmed }

// known reports whether s is one of the states above.
func (s State) known() bool {
	switch s {
	case Planned, Written, Verified, Deferred, Reverted, Confirmed, Foreign, Void, Failed:
		return true
	}
	return false
}

// Setting is one value that an operation changes. State and Note are filled
// in by reading; what is written at the start is Key, Before and After.
type Setting struct {
	Key    string `json:"key"` // "net.netfilter.nf_conntrack_max"
	Before string `json:"before"`
	After  string `json:"after"`
	State  State  `json:"state,omitempty"`
	Note   string `json:"note,omitempty"`
}

// Entries records an action on entries of the table. It cannot be undone; the
// side file tells what was there.
type Entries struct {
	Filter string `json:"filter"` // the selection, in the words of the command line
	Action string `json:"action"` // "delete", "shorten"
	// SideFile is the name, below the journal's directory, of the tuples and
	// timeouts as they were; "" if none was kept.
	SideFile string            `json:"side_file,omitempty"`
	Counts   map[string]uint64 `json:"counts,omitempty"`
}

// Trial is a deadline after which an operation is undone unless confirmed.
type Trial struct {
	Seconds int64 `json:"seconds"`
	// DeadlineMillis is on the clock CLOCK_BOOTTIME of the boot in Op.Boot.
	DeadlineMillis int64 `json:"deadline_boottime_ms"`
	// Deadman names what undoes it: "systemd ctwarden-trial-ID.timer", "pid 123".
	Deadman string `json:"deadman,omitempty"`
}

// Op is one operation: a set of settings written together, or one action on
// entries.
type Op struct {
	ID    string    `json:"id"`
	Time  time.Time `json:"time"`
	Boot  string    `json:"boot"`  // /proc/sys/kernel/random/boot_id
	Netns uint64    `json:"netns"` // inode of the network namespace that was written
	Actor string    `json:"actor"` // "apply", "evict", "guard", with the user where known
	Why   string    `json:"why"`

	Settings []Setting `json:"settings,omitempty"`
	Entries  *Entries  `json:"entries,omitempty"`
	Trial    *Trial    `json:"trial,omitempty"`
	// Data is whatever else the actor needs to finish the operation later.
	Data map[string]string `json:"data,omitempty"`

	// State is that of the least finished part. Note is the last remark, and
	// Changed its time.
	State   State     `json:"state,omitempty"`
	Note    string    `json:"note,omitempty"`
	Changed time.Time `json:"changed,omitzero"`
}

// Setting finds a setting by its key.
func (o *Op) Setting(key string) *Setting {
	for i := range o.Settings {
		if o.Settings[i].Key == key {
			return &o.Settings[i]
		}
	}
	return nil
}

// Change is a step of an operation. The zero value but for State moves the
// whole operation.
type Change struct {
	State State    `json:"state"`
	Keys  []string `json:"keys,omitempty"` // settings that move; all of them if empty
	Note  string   `json:"note,omitempty"`
	// Counts replace those of Entries, name by name.
	Counts map[string]uint64 `json:"counts,omitempty"`
	Trial  *Trial            `json:"trial,omitempty"`
	Data   map[string]string `json:"data,omitempty"` // merged, name by name
	// NoteOnly leaves all states as they are.
	NoteOnly bool `json:"note_only,omitempty"`
}

// record is what a line holds: an operation's beginning or a step of it.
type record struct {
	Version int       `json:"v"`
	Time    time.Time `json:"time"`
	ID      string    `json:"id"`
	Op      *Op       `json:"op,omitempty"`
	Change  *Change   `json:"change,omitempty"`
}

// apply moves the operation by one step.
func (o *Op) apply(c *Change, at time.Time) {
	for i := range o.Settings {
		s := &o.Settings[i]
		if c.NoteOnly {
			break
		}
		if len(c.Keys) == 0 || slices.Contains(c.Keys, s.Key) {
			s.State = c.State
			s.Note = c.Note
		}
	}
	if c.Note != "" {
		o.Note = c.Note
	}
	if c.Trial != nil {
		o.Trial = c.Trial
	}
	if o.Entries != nil && len(c.Counts) > 0 {
		if o.Entries.Counts == nil {
			o.Entries.Counts = map[string]uint64{}
		}
		maps.Copy(o.Entries.Counts, c.Counts)
	}
	if len(c.Data) > 0 {
		if o.Data == nil {
			o.Data = map[string]string{}
		}
		maps.Copy(o.Data, c.Data)
	}
	o.Changed = at
	if !c.NoteOnly {
		o.State = o.derive(c.State)
	}
}

// derive is the state of the least finished setting; an operation without
// settings is where its last step put it.
func (o *Op) derive(last State) State {
	if len(o.Settings) == 0 {
		return last
	}
	order := []State{Planned, Deferred, Written, Verified, Failed, Foreign, Confirmed, Reverted, Void}
	best := len(order) - 1
	for _, s := range o.Settings {
		if i := slices.Index(order, s.State); i >= 0 && i < best {
			best = i
		}
	}
	return order[best]
}
