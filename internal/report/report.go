// Package report holds the answer that a diagnosis gives, and its faces: text
// for people, JSON for programs. The faces only format; what they print is
// decided before.
package report

import (
	"fmt"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
)

// Schema names the JSON document of a Report and its version.
const Schema = "ctwarden.check/1"

// Severity says how much a finding matters.
type Severity int8

// Severities, least first.
const (
	Info     Severity = iota // worth knowing
	Notice                   // worth a look in daylight
	Warning                  // will hurt, or hurts some
	Critical                 // hurts now
)

var severityNames = [...]string{"info", "notice", "warning", "critical"}

// String returns the severity in lower case.
func (s Severity) String() string {
	if s >= 0 && int(s) < len(severityNames) {
		return severityNames[s]
	}
	return fmt.Sprintf("severity %d", int8(s))
}

// MarshalText writes the severity as [Severity.String] does.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Severity) UnmarshalText(b []byte) error {
	for i, n := range severityNames {
		if n == string(b) {
			*s = Severity(i)
			return nil
		}
	}
	return fmt.Errorf("unknown severity %q", b)
}

// When says at which point a remedy belongs.
type When string

// Points at which remedies belong.
const (
	Now     When = "now"
	ForGood When = "for-good"
)

// Remedy is one thing to do. Commands are exact: they can be pasted into a
// root shell, one a line, in their order.
type Remedy struct {
	What     string   `json:"what"`
	When     When     `json:"when"`
	Commands []string `json:"commands,omitempty"`
	Cost     string   `json:"cost,omitempty"` // memory, time, work
	Risk     string   `json:"risk"`           // what it can break, and for whom
	Undo     []string `json:"undo,omitempty"` // commands that take it back
}

// Finding is one thing found.
type Finding struct {
	Code     string   `json:"code"` // stable, kebab-case; docs/findings has a page for each
	Severity Severity `json:"severity"`
	Title    string   `json:"title"`
	// Evidence are sentences with figures; Figures the same for programs.
	Evidence []string       `json:"evidence"`
	Figures  map[string]any `json:"figures,omitempty"`
	Remedies []Remedy       `json:"remedies"`
	// ExplainedBy is the code of the finding that this one follows from.
	ExplainedBy string `json:"explained_by,omitempty"`
}

// Cause is the one word for why the table fills.
type Cause string

// Causes that a verdict can name.
const (
	CauseNone        Cause = "none"         // nothing is wrong
	CauseAttack      Cause = "attack"       // somebody fills the table on purpose, by all that can be told
	CauseScan        Cause = "scan"         // a host tries many others
	CauseOneHost     Cause = "one-host"     // one host holds most of it, for whatever reason
	CauseChurn       Cause = "churn"        // many short flows, each lingering after its end
	CauseLeak        Cause = "leak"         // flows that ended, or never end, and are not forgotten
	CauseGrowth      Cause = "growth"       // the load has outgrown the table
	CauseWrongSizing Cause = "wrong-sizing" // limits that do not fit each other or the machine
	CauseMisconfig   Cause = "misconfigured"
	CauseLookAlike   Cause = "look-alike" // something else that looks like a full table
	CauseNotTracking Cause = "not-tracking"
	CauseUnknown     Cause = "unknown"
)

// Confidence says how sure a verdict is.
type Confidence string

// Confidences.
const (
	High   Confidence = "high"
	Medium Confidence = "medium"
	Low    Confidence = "low"
)

// Verdict is the answer in one sentence.
type Verdict struct {
	Text       string     `json:"text"`
	Cause      Cause      `json:"cause"`
	Confidence Confidence `json:"confidence"`
	// Doubts say why the confidence is no higher.
	Doubts []string `json:"doubts,omitempty"`
	// Codes are the findings that the verdict rests on, the cause first.
	Codes []string `json:"codes"`
}

// Report is everything a check has to say.
type Report struct {
	Time     time.Time
	Host     string
	Kernel   string
	Netns    ct.Netns
	Verdict  Verdict
	Findings []Finding // causes first, then by severity
	Log      *klog.Report
	Snapshot *ct.Snapshot // nil if only logs were read
	// Blind is what could not be seen, of the machine and of the logs.
	Blind []ct.Blind
}

// Worst returns the highest severity of the findings, Info if there are none.
func (r *Report) Worst() Severity {
	worst := Info
	for i := range r.Findings {
		worst = max(worst, r.Findings[i].Severity)
	}
	return worst
}

// Finding returns the finding with a code, or nil.
func (r *Report) Finding(code string) *Finding {
	for i := range r.Findings {
		if r.Findings[i].Code == code {
			return &r.Findings[i]
		}
	}
	return nil
}

// Blank reports whether neither the machine nor the logs told the state of the
// table: nothing can be concluded.
func (r *Report) Blank() bool {
	if r.Log != nil && r.Log.Read() {
		return false
	}
	s := r.Snapshot
	if s == nil {
		return true
	}
	return s.Tracking.ModuleLoaded != ct.No && !s.Limits.Count.Known
}
