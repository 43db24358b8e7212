package survival

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// Result is what one run gave. Missing values are zero.
type Result struct {
	Time     string  `json:"time"`
	Kernel   string  `json:"kernel"`
	Scenario string  `json:"scenario"`
	Defence  Defence `json:"defence"`
	Run      int     `json:"run"`

	// Table is the size that the runs are sorted by, Max and Buckets what the
	// defence made of it.
	Table         int     `json:"table"`
	Max           int     `json:"max"`
	Buckets       int     `json:"buckets"`
	Accounting    bool    `json:"accounting"`
	AttackSeconds float64 `json:"attack_seconds"`
	// Load is the machine's load average of a minute when the run began: what
	// else was going on.
	Load    float64 `json:"load"`
	Reached Reached `json:"reached"`

	// New are the connections that users began during the attack, AfterOne
	// those from one second after its start on, Before those before it.
	New      tally     `json:"new"`
	AfterOne tally     `json:"new_after_1s"`
	Before   tally     `json:"before"`
	Windows  []float64 `json:"success_by_second"`
	// RecoverySeconds is when success was back at 99 % for good: 0 if it never
	// was below, -1 if it never came back.
	RecoverySeconds int `json:"recovery_seconds"`

	// Wrk and Dig are what these programs saw during the attack: pages on
	// connections of their own, and names.
	Wrk tally `json:"wrk"`
	Dig tally `json:"dig"`

	Active alive `json:"active"`
	// Beats are those with a message every eight seconds.
	Beats alive `json:"beats"`
	// Idle are silent since before the attack, Fresh those of them for some
	// seconds, Aged for an hour.
	Fresh alive `json:"idle_fresh"`
	Aged  alive `json:"idle_aged"`
	// Touched counts silent entries whose timeout was found shortened, of
	// Looked.
	Touched int `json:"touched"`
	Looked  int `json:"looked"`

	Logins     alive   `json:"logins"`
	LoginWorst float64 `json:"login_worst_s"`
	// Session is whether the administrator's open session still works.
	Session bool `json:"session"`

	Refused   int `json:"refused"`
	EarlyDrop int `json:"early_drop"`
	Peak      int `json:"peak_count"`
	PeakMax   int `json:"peak_max"`

	// Of the defences that are ours.
	// LevelMS is from the first packet of the attack until the guard says that
	// something is up, DetectMS until its first act; 0 where neither came.
	LevelMS   float64  `json:"level_ms,omitempty"`
	DetectMS  float64  `json:"detect_ms,omitempty"`
	Actions   int      `json:"actions,omitempty"`
	CPU       float64  `json:"cpu_share,omitempty"` // of one core
	RSS       float64  `json:"rss_mib,omitempty"`
	Undone    bool     `json:"undone,omitempty"`
	UndoFails []string `json:"undo_fails,omitempty"`
}

// idle are all silent connections.
func (r *Result) idle() alive { return r.Fresh.plus(r.Aged) }

// Append adds the result to a file of lines.
func (r *Result) Append(file string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Read reads lines that Append wrote.
func Read(r io.Reader) (list []Result, err error) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 1<<20)
	for n := 1; s.Scan(); n++ {
		var one Result
		if err := json.Unmarshal(s.Bytes(), &one); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		list = append(list, one)
	}
	return list, s.Err()
}

// String is for the log of a run.
func (r *Result) String() string {
	s := fmt.Sprintf("%s, %s: new %d/%d (p50 %.1f ms, p99 %.1f ms), wrk %d/%d (p99 %.1f ms), dig %d/%d (p99 %.1f ms), active %d/%d, beats %d/%d, idle %d/%d and aged %d/%d, touched %d/%d, logins %d/%d in %.1f s, session %v, refused %d, early drop %d, peak %d of %d, attack %+v",
		r.Scenario, r.Defence, r.New.OK, r.New.Asked, r.New.P50, r.New.P99,
		r.Wrk.OK, r.Wrk.Asked, r.Wrk.P99, r.Dig.OK, r.Dig.Asked, r.Dig.P99, r.Active.Alive, r.Active.Held, r.Beats.Alive, r.Beats.Held, r.Fresh.Alive, r.Fresh.Held,
		r.Aged.Alive, r.Aged.Held, r.Touched, r.Looked, r.Logins.Alive, r.Logins.Held, r.LoginWorst, r.Session,
		r.Refused, r.EarlyDrop, r.Peak, r.PeakMax, r.Reached)
	if r.Defence.ours() {
		s += fmt.Sprintf(", %d actions, detected after %.0f ms, first after %.0f ms, recovery %d s, %.2f %% of a core, %.1f MiB, undone %v %v",
			r.Actions, r.LevelMS, r.DetectMS, r.RecoverySeconds, 100*r.CPU, r.RSS, r.Undone, r.UndoFails)
	}
	return s
}
