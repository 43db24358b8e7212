package guardd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/service"
)

// StatusSchema and IncidentsSchema name the documents.
const (
	StatusSchema    = "ctwarden.guard-status/1"
	IncidentsSchema = "ctwarden.incidents/1"
)

// Status is what a running guard says of itself.
type Status struct {
	Schema string    `json:"schema"`
	Time   time.Time `json:"time"`
	Host   string    `json:"host"`
	Kernel string    `json:"kernel"`
	Netns  ct.Netns  `json:"netns"`

	Mode    string      `json:"mode"` // "observe" or "enforce"
	Since   time.Time   `json:"since"`
	Level   guard.Level `json:"level"`
	Count   int64       `json:"count"`
	Max     int64       `json:"max"`
	Buckets int64       `json:"buckets"`
	Refused uint32      `json:"refused"`
	// MaxBefore is what max was before the guard raised it.
	MaxBefore int64 `json:"max_before,omitempty"`
	MaxOurs   bool  `json:"max_writable"`
	Fragile   bool  `json:"fragile"`
	Gateway   bool  `json:"gateway"`
	// IdleKnown says whether idle times can be told.
	IdleKnown bool     `json:"idle_times_known"`
	Blind     []string `json:"blind,omitempty"`

	// Proposals are means that are a person's to choose and stand in peace, too;
	// those that were weighed in an incident are with it.
	Proposals []guard.Proposal `json:"proposals,omitempty"`
	Probation bool             `json:"probation_under_way"`
	UnderWay  *guard.Incident  `json:"incident_under_way,omitempty"`
	Incidents []guard.Incident `json:"incidents,omitempty"` // the last few, newest first

	CPUSeconds    float64 `json:"cpu_seconds"`
	ResidentBytes int64   `json:"resident_bytes"`
	Readings      uint64  `json:"readings"`
}

// status is made in the loop, where the numbers are.
func (d *daemon) status() *Status {
	a, r := d.around.Load(), &d.reading
	s := &Status{Schema: StatusSchema, Mode: "observe", Since: time.Now().Add(-d.clock()), Level: d.level,
		Count: r.Count, Max: r.Max, Buckets: r.Buckets, Refused: r.Counters.Drop, MaxOurs: a.MaxOurs, Fragile: a.Fragile,
		Gateway: a.Gateway, IdleKnown: a.known, Blind: a.blind, Readings: d.ticks}
	s.Netns = ct.Netns{Inode: d.place.inode, Name: d.place.asked}
	if d.hands != nil {
		s.Mode = "enforce"
		before, wrote := d.hands.maxima()
		if wrote != before {
			s.MaxBefore = before
		}
		d.hands.mu.Lock()
		s.Probation = d.hands.probation != nil
		d.hands.mu.Unlock()
	}
	s.Proposals = d.policy.Proposals()
	s.UnderWay, s.Incidents = d.policy.Unfinished(), d.record.last()
	return s
}

// answerJSON runs outside the loop. It gives up where the loop does not answer:
// the asker is told nothing, and the watchdog sees to the rest.
func (d *daemon) answerJSON() []byte {
	answer := make(chan *Status, 1)
	timeout := time.NewTimer(time.Second)
	defer timeout.Stop()
	select {
	case d.asked <- answer:
		d.alarm.Ring()
	case <-timeout.C:
		return nil
	}
	var s *Status
	select {
	case s = <-answer:
	case <-timeout.C:
		return nil
	}
	s.Time = time.Now().UTC()
	s.Host, _ = procfs.FS{}.Hostname()
	s.Kernel, _ = procfs.FS{}.Release()
	s.CPUSeconds = procfs.CPUTime().Seconds()
	s.ResidentBytes = service.ResidentBytes()
	b, err := json.Marshal(s)
	if err != nil {
		return nil // no value of a Status can fail
	}
	return b
}

// AskStatus asks the guard of a namespace. The error is [service.Nobody] where
// none runs.
func AskStatus(ctx context.Context, netns, runDir string) (*Status, error) {
	if runDir == "" {
		runDir = DefaultRunDir
	}
	p, err := findPlace(ctx, netns)
	if err != nil {
		return nil, err
	}
	b, err := service.Ask(ctx, socketPath(runDir, p.inode))
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, errors.New("the guard runs and does not answer")
	}
	s := new(Status)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("the guard's answer makes no sense: %w", err)
	}
	return s, nil
}

// Text writes a status for a person, the verdict first.
func (s *Status) Text(w io.Writer) error {
	p := &printer{w: w}
	fill := 0.0
	if s.Max > 0 {
		fill = 100 * float64(s.Count) / float64(s.Max)
	}
	p.line("%s: the table holds %d of %d entries (%.0f %%).", title(s.Level.String()), s.Count, s.Max, fill)
	p.line("The guard %ss since %s, with %d readings, %.2f s of processor time and %.1f MiB.", s.Mode,
		s.Since.Format(time.DateTime), s.Readings, s.CPUSeconds, float64(s.ResidentBytes)/(1<<20))
	if s.MaxBefore > 0 {
		p.line("nf_conntrack_max was %d before the guard raised it; it comes down when the table has drained.", s.MaxBefore)
	}
	if s.UnderWay != nil {
		p.line("Under way: %s", oneLine(s.UnderWay))
		for _, d := range s.UnderWay.Deeds[max(0, len(s.UnderWay.Deeds)-5):] {
			p.line("  %8.1f s  %s%s", d.AfterSeconds, d.What, outcome(d.Outcome))
		}
		p.proposals("  ", s.UnderWay.Proposals)
	}
	p.proposals("", s.Proposals)
	if s.Probation {
		p.line("Entries are on probation.")
	}
	if s.Mode == "enforce" && !s.MaxOurs {
		p.line("nf_conntrack_max is not ours to write: the other means come sooner.")
	}
	if s.Fragile {
		p.line("Losing an entry may break its connection here, so silent connections are spared for long.")
	}
	if !s.IdleKnown {
		p.line("Idle times cannot be told, so no entry is put on probation.")
	}
	for _, b := range s.Blind {
		p.line("Cannot see %s.", b)
	}
	if len(s.Incidents) > 0 {
		p.line("Incidents:")
		for i := range s.Incidents {
			p.line("  %s", oneLine(&s.Incidents[i]))
		}
	}
	return p.err
}

// proposals writes them with their price and the commands.
func (p *printer) proposals(indent string, list []guard.Proposal) {
	for i := range list {
		o := &list[i]
		p.line("%s%s", indent, o)
		for _, part := range []struct {
			head  string
			lines []string
		}{{"price", o.Price}, {"to do it", o.Do}, {"to undo it", o.Undo}} {
			for _, l := range part.lines {
				p.line("%s  %s: %s", indent, part.head, strings.ReplaceAll(strings.TrimSpace(l), "\n", "\n"+indent+"    "))
			}
		}
	}
}

func title(s string) string {
	if s == "" {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}

// printer keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}
