package tune

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ctwarden/ctwarden/internal/journal"
)

// StatusSchema names the JSON form of a [Status].
const StatusSchema = "ctwarden.status/1"

// Status is what ctwarden has changed on a machine and what became of it.
type Status struct {
	// Operations stand or wait; newest first.
	Operations []Standing `json:"operations"`
	// History are the last ones that are over; newest first.
	History []Standing `json:"history,omitempty"`
	// Problems are damage to the journal and the like.
	Problems []string `json:"problems,omitempty"`
}

// Standing is one operation compared with the machine.
type Standing struct {
	ID    string        `json:"id"`
	Time  time.Time     `json:"time"`
	Actor string        `json:"actor"`
	Why   string        `json:"why,omitempty"`
	Netns uint64        `json:"netns"`
	State journal.State `json:"state"`
	// Means says in words how the operation stands.
	Means string `json:"means"`
	// TrialSecondsLeft is what remains of a trial, 0 if it is over.
	TrialSecondsLeft *int64     `json:"trial_seconds_left,omitempty"`
	Settings         []StandKey `json:"settings,omitempty"`
	Drifted          bool       `json:"drifted"`
}

// StandKey is one setting of an operation compared with the machine.
type StandKey struct {
	Key    string        `json:"key"`
	Before string        `json:"before"`
	After  string        `json:"after"`
	Live   string        `json:"live,omitempty"`
	State  journal.State `json:"state"`
	Note   string        `json:"note,omitempty"`
	// Drifted is set if the operation is in force and the value is not.
	Drifted bool `json:"drifted"`
	// DriftedBy is who sets the value that stands there now, as far as files and
	// programs tell.
	DriftedBy string `json:"drifted_by,omitempty"`
}

// maxHistory bounds what is told of the past.
const maxHistory = 5

// Status reads the journal and the machine and changes nothing. who may be nil.
func (k *Keeper) Status(who Owners) (*Status, error) {
	log, err := k.Journal.Read()
	if err != nil {
		return nil, err
	}
	st := &Status{Operations: []Standing{}}
	for _, o := range slices.Backward(log.Ops) {
		switch {
		case o.State.Open() || o.State == journal.Confirmed && len(o.Settings) > 0:
			st.Operations = append(st.Operations, k.standing(o, who))
		case len(st.History) < maxHistory:
			st.History = append(st.History, k.standing(o, who))
		}
	}
	if log.Damaged > 0 {
		st.Problems = append(st.Problems, fmt.Sprintf("%d damaged lines in the journal were passed over", log.Damaged))
	}
	if log.TornBytes > 0 {
		st.Problems = append(st.Problems, "the last record of the journal is half-written: a run was killed, or is writing now")
	}
	if log.Newer > 0 {
		st.Problems = append(st.Problems, fmt.Sprintf("%d records of a later version of ctwarden cannot be read", log.Newer))
	}
	return st, nil
}

func (k *Keeper) standing(o *journal.Op, who Owners) Standing {
	s := Standing{ID: o.ID, Time: o.Time, Actor: o.Actor, Why: o.Why, Netns: o.Netns, State: o.State}
	here := k.here(o)
	for _, x := range o.Settings {
		key := StandKey{Key: x.Key, Before: x.Before, After: x.After, State: x.State, Note: x.Note}
		if here && (o.State.Open() || o.State == journal.Confirmed) {
			k.compare(&key)
		}
		if key.Drifted && who != nil {
			key.DriftedBy = driftedBy(who.Claims(x.Key), key.Live)
		}
		s.Drifted = s.Drifted || key.Drifted
		s.Settings = append(s.Settings, key)
	}
	if o.Trial != nil && o.State.Open() && o.Boot == k.Boot {
		left := max((o.Trial.DeadlineMillis-k.Boottime().Milliseconds())/1000, 0)
		s.TrialSecondsLeft = &left
	}
	s.Means = k.means(o, &s)
	return s
}

// driftedBy names who sets a value that is not ours.
func driftedBy(claims []Claim, live string) string {
	for _, c := range claims {
		if c.Value != "" && c.Value == live {
			return fmt.Sprintf("%s (%s)", c.Where, c.Who)
		}
	}
	return ""
}

func (k *Keeper) compare(key *StandKey) {
	live, err := k.Settings.Read(key.Key)
	if err != nil {
		key.Drifted = errors.Is(err, fs.ErrNotExist) && key.State == journal.Confirmed
		return
	}
	key.Live = live
	inForce := key.State == journal.Verified || key.State == journal.Confirmed
	key.Drifted = inForce && !k.sameValue(key.Key, key.After, live)
}

func (k *Keeper) means(o *journal.Op, s *Standing) string {
	switch {
	case k.gone(o):
		return "void: the machine was restarted since"
	case !k.here(o) && !o.State.Final():
		return "in another network namespace"
	case o.State == journal.Confirmed && len(o.Settings) == 0:
		return cmp.Or(o.Note, "done")
	case o.State == journal.Confirmed:
		return "kept"
	case !o.State.Open():
		return o.Note
	case len(o.Settings) == 0:
		return "an action on entries under way, or interrupted"
	case o.State == journal.Planned || o.State == journal.Written:
		return "interrupted while it was written: the next ctwarden revert makes it whole"
	case o.State == journal.Deferred:
		return "taken back but for what the table has outgrown; finished when it drains"
	case s.TrialSecondsLeft != nil && *s.TrialSecondsLeft == 0:
		return "overdue: the trial is over and nobody has taken it back; run ctwarden revert"
	case s.TrialSecondsLeft != nil:
		return fmt.Sprintf("taken back in %s; ctwarden confirm keeps it", time.Duration(*s.TrialSecondsLeft)*time.Second)
	}
	return ""
}

// Found reports whether there is something to act on: drift, an overdue or
// interrupted operation, something held, damage.
func (s *Status) Found() bool {
	for _, o := range s.Operations {
		switch {
		case o.Drifted, o.State == journal.Deferred,
			len(o.Settings) > 0 && (o.State == journal.Planned || o.State == journal.Written),
			o.TrialSecondsLeft != nil && *o.TrialSecondsLeft == 0:
			return true
		}
	}
	return len(s.Problems) > 0
}

// Text writes the status for a person.
func (s *Status) Text(w io.Writer) error {
	if len(s.Operations) == 0 {
		fmt.Fprintln(w, "Nothing that ctwarden changed is in force.")
	}
	for _, o := range s.Operations {
		o.text(w)
	}
	if len(s.History) > 0 {
		fmt.Fprintln(w, "Before:")
	}
	for _, o := range s.History {
		fmt.Fprintf(w, "  %s  %-10s %s %s\n", o.ID, o.State, o.Actor, oneLine(o.Means))
	}
	var err error
	for _, p := range s.Problems {
		_, err = fmt.Fprintf(w, "Problem: %s\n", p)
	}
	return err
}

func (s *Standing) text(w io.Writer) {
	state := string(s.State)
	switch {
	case s.State == journal.Deferred:
		state = "revert-deferred"
	case s.State == journal.Verified:
		state = "on trial"
	}
	fmt.Fprintf(w, "%s  %s, made with %s: %s\n", s.ID, state, oneLine(s.Actor), oneLine(s.Means))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, k := range s.Settings {
		note := ""
		switch {
		case k.Drifted:
			note = "drifted: somebody else has changed it"
			if k.DriftedBy != "" {
				note = "drifted: as " + k.DriftedBy + " sets it"
			}
		case k.State != s.State:
			note = string(k.State) + ": " + k.Note
		}
		fmt.Fprintf(tw, "  %s\t%s -> %s\tnow %s\t%s\n", strings.TrimPrefix(k.Key, Prefix), orNothing(k.Before), orNothing(k.After), orUnknown(k.Live), oneLine(note))
	}
	tw.Flush()
}
