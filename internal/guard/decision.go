package guard

import "time"

// Level says how bad it is.
type Level uint8

// Levels, in order.
const (
	Calm Level = iota
	Watch
	Pressure
	Emergency
)

var levelNames = [...]string{"calm", "watch", "pressure", "emergency"}

// String returns the level's name.
func (l Level) String() string { return levelNames[l] }

// MarshalText writes the name.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Decision is what a reading leads to.
type Decision struct {
	Level Level
	// Actions are to be carried out in their order; nothing where the
	// configuration says observe. Would holds what would be done then.
	Actions, Would []Action
	// Notes are for the log, a sentence each.
	Notes []string
	// WantTable asks the next reading for the table's composition, WantMemory
	// for memory and the other namespaces. Next is when it should come.
	WantTable, WantMemory bool
	Next                  time.Duration
	// TableAfter is how long to wait before the table is read.
	TableAfter time.Duration
	// Ended is an incident that has just ended; nil mostly.
	Ended *Incident
}

// Incident is the record of one attack or overload, from leaving calm to
// calm.
type Incident struct {
	Start   time.Time     `json:"start"`
	End     time.Time     `json:"end"`
	Seconds float64       `json:"seconds"`
	Worst   Level         `json:"worst_level"`
	Class   string        `json:"class"` // "handshakes left idle", …
	Figures Figures       `json:"figures"`
	Deeds   []Deed        `json:"deeds,omitempty"`
	Took    time.Duration `json:"-"`
	// Proposals are means that were weighed and are a person's to choose.
	Proposals []Proposal `json:"proposals,omitempty"`
	// Observed is set where the guard only watched.
	Observed bool `json:"observed,omitempty"`
}

// Figures of an incident.
type Figures struct {
	PeakCount      int64   `json:"peak_count"`
	PeakFill       float64 `json:"peak_fill"`
	PeakNewPerSec  float64 `json:"peak_growth_per_second"`
	Refused        uint64  `json:"refused"`
	EarlyDropped   uint64  `json:"early_dropped"`
	OnProbation    int     `json:"on_probation"`
	Acquitted      int     `json:"acquitted"`
	Evicted        int     `json:"evicted"`
	SourcesLimited int     `json:"sources_limited"`
	MaxRaisedTo    int64   `json:"max_raised_to,omitempty"`
}

// Deed is one line of an incident: what was done when, why, and what came of
// it.
type Deed struct {
	AfterSeconds float64 `json:"after_seconds"`
	What         string  `json:"what"`
	Why          string  `json:"why"`
	Outcome      string  `json:"outcome,omitempty"`
	Undo         bool    `json:"undo,omitempty"`
}
