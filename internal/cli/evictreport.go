package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/evict"
	"github.com/ctwarden/ctwarden/internal/flowgroup"
)

const evictSchema = "ctwarden.evict/1"

// evictReport is the document of that schema.
type evictReport struct {
	Schema string `json:"schema"`
	identity
	Filter      string `json:"filter"`
	Action      string `json:"action"` // "delete", "shorten" or "undo"
	SoftSeconds int64  `json:"soft_seconds,omitempty"`

	Entries  uint64 `json:"entries"`  // in the table
	Selected int    `json:"selected"` // would be changed, before --limit
	Limit    int    `json:"limit,omitempty"`
	// Translated, Replied, Unreplied and Ended say what losing the entries means.
	Translated uint64            `json:"translated"`
	Replied    uint64            `json:"replied"`
	Unreplied  uint64            `json:"unreplied"`
	Ended      uint64            `json:"ended,omitempty"`
	BelowFloor uint64            `json:"below_floor,omitempty"` // get less than the RFCs ask of a gateway
	Active     int               `json:"active,omitempty"`      // moved between the readings and are left alone
	Spared     map[string]uint64 `json:"spared,omitempty"`      // by the name for --force

	Classes []flowgroup.Group `json:"classes,omitempty"`
	Sources []flowgroup.Group `json:"sources,omitempty"`
	Targets []flowgroup.Group `json:"destinations,omitempty"`
	Owners  []flowgroup.Group `json:"processes,omitempty"`

	Done         bool    `json:"done"`
	ID           string  `json:"id,omitempty"` // in the journal
	Changed      int     `json:"changed"`
	Refused      int     `json:"refused,omitempty"`       // had gone when their turn came
	AlreadyShort int     `json:"already_short,omitempty"` // had less left than they would have got
	Survived     *uint64 `json:"survived,omitempty"`      // moved after a soft eviction
}

// begin fills in the head of the report.
func (e *evictor) begin() {
	e.report = evictReport{Schema: evictSchema, identity: e.table.id, Filter: e.filter.String(),
		Action: "delete", SoftSeconds: int64(e.soft.Seconds()), Limit: e.limit}
	if e.soft > 0 {
		e.report.Action = "shorten"
	}
}

// neighbourhood is what a preview needs to know.
func (e *evictor) neighbourhood() evict.Surroundings {
	return evict.Surroundings{Owners: e.owners.orNil(), SoftSeconds: uint32(e.soft.Seconds()),
		Passing: func(f *ct.Flow) bool { return !e.local(f) }}
}

// shown is how many of each kind of group a preview tells.
const shown = 5

// describe completes the preview and prints it.
func (e *evictor) describe() {
	p := e.preview
	if p == nil {
		p = e.chosen.Preview(e.neighbourhood())
	}
	r := &e.report
	r.Entries, r.Selected, r.BelowFloor = e.read, p.Selected, p.BelowFloor
	r.Translated, r.Replied, r.Unreplied, r.Ended = p.Translated, p.Replied, p.Unreplied, p.Ended
	r.Spared = make(map[string]uint64)
	for reason, n := range e.spared {
		if n > 0 {
			r.Spared[evict.Reason(reason).String()] = n
		}
	}
	order := flowgroup.Orders["entries"]
	r.Classes, r.Sources, r.Targets = p.Classes.Top(shown, order), p.Sources.Top(shown, order), p.Targets.Top(shown, order)
	if p.Owners != nil {
		r.Owners = p.Owners.Top(shown, order)
	}
	if !e.json {
		e.printPreview(p)
	}
}

func (e *evictor) printPreview(p *evict.Preview) {
	verb := "to be deleted"
	if e.soft > 0 {
		verb = fmt.Sprintf("to end in %s unless they move", e.soft)
	}
	bound := ""
	if e.limit > 0 && e.limit < e.chosen.Len() {
		bound = fmt.Sprintf(", %d of them at most", e.limit)
	}
	e.say("%d of %d entries %s%s\n", p.Selected, e.read, verb, bound)
	if e.report.Active > 0 {
		e.line("in use", "%d moved between the readings, or went, and are left alone", e.report.Active)
	}
	if e.chosen.Len() > 0 {
		e.printGroups("what", e.report.Classes, p.Classes)
		e.printGroups("whose", e.report.Sources, p.Sources)
		e.printGroups("towards", e.report.Targets, p.Targets)
		if p.Owners != nil {
			e.printGroups("process", e.report.Owners, p.Owners)
		}
		e.printLosses(p)
	}
	for r, n := range e.spared {
		if n > 0 {
			e.line("spared", "%d %s (--force %s)", n, evict.Reason(r).Text(), evict.Reason(r))
		}
	}
}

func (e *evictor) line(head, format string, args ...any) {
	e.say("  %-9s %s\n", head, fmt.Sprintf(format, args...))
}

func (e *evictor) printGroups(head string, top []flowgroup.Group, t *flowgroup.Table) {
	var parts []string
	for _, g := range top {
		key := strings.TrimSuffix(strings.Join(g.Key, " "), " -")
		parts = append(parts, key+" "+strconv.FormatUint(g.Entries, 10))
	}
	if _, forgotten := t.Error(); forgotten > 0 {
		parts = append(parts, "very many more")
	} else if rest := t.Groups() - len(top); rest > 0 {
		parts = append(parts, fmt.Sprintf("%d more", rest))
	}
	e.line(head, "%s", strings.Join(parts, ", "))
}

// printLosses says what losing the entries would break.
func (e *evictor) printLosses(p *evict.Preview) {
	if p.Translated > 0 {
		e.line("breaks", "%d translated connections, for good: the translation goes with the entry", p.Translated)
	}
	if p.Replied > 0 {
		e.line("breaks", "%d answered connections, if they are alive: %s", p.Replied, e.midstream())
	}
	if p.Unreplied > 0 {
		e.line("breaks", "%d unanswered attempts: at most they are repeated", p.Unreplied)
	}
	if p.Ended > 0 {
		e.line("ended", "%d TCP connections are over already: nothing breaks", p.Ended)
	}
	if p.BelowFloor > 0 {
		e.line("floor", "%d get less time than RFC 5382, 4787 and 5508 ask of a gateway: connections that rest longer lose their entry", p.BelowFloor)
	}
	if e.soft == 0 && p.Translated+p.Replied > 0 {
		e.line("instead", "--soft 60s lets those in use live on")
	}
}

// midstream says whether the rules would let a packet from the middle of a
// connection make a new entry.
func (e *evictor) midstream() string {
	rules := &e.around.rules
	loose := e.around.settings.Knobs.TCPLoose
	switch {
	case loose.Known && loose.N == 0:
		return "tcp_loose is 0, so a packet without entry is invalid"
	case rules.PolicyDrop:
		return "a chain drops what no rule accepts, the peer's next packet perhaps"
	case rules.Drops:
		return "a rule drops packets, the peer's next one perhaps"
	case len(e.around.unread) > 0:
		return "not all rules could be read; one may drop the peer's next packet"
	}
	return "tcp_loose is on and no rule drops, so most will be picked up again by their next packet"
}

// printJSON prints the report where it is asked for.
func (e *evictor) printJSON() error {
	if !e.json {
		return nil
	}
	return writeJSON(e.env, e.report)
}

// finish prints what was done, or with --json the whole report.
func (e *evictor) finish(done bool) error {
	r := &e.report
	r.Done = done
	if e.json || !done {
		return e.printJSON()
	}
	gone := ""
	if r.Refused > 0 {
		gone = fmt.Sprintf(", %d had gone already", r.Refused)
	}
	if r.AlreadyShort > 0 {
		gone += fmt.Sprintf(", %d had less left", r.AlreadyShort)
	}
	switch {
	case e.soft == 0:
		e.say("%d entries deleted%s; recorded as %s\n", r.Changed, gone, r.ID)
	case r.Survived != nil:
		e.say("%d entries went, %d moved and live on%s; recorded as %s\n",
			uint64(r.Changed)-min(uint64(r.Changed), *r.Survived), *r.Survived, gone, r.ID)
	}
	return nil
}
