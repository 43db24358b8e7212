package report

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// WriteText writes the report for people: the verdict first, then what it
// rests on, what to do now and for good, and what could not be seen.
func (r *Report) WriteText(w io.Writer, st Style) error {
	if st.Width <= 0 {
		st.Width = 80
	}
	st.Width = min(max(st.Width, 40), 100)
	t := &textFace{r: r, st: st}
	t.verdict()
	t.where()
	t.findings()
	t.namespaces()
	t.remedies(Now, "What to do now")
	t.remedies(ForGood, "What to do for good")
	t.blind()
	_, err := w.Write(t.b.Bytes())
	return err
}

type textFace struct {
	r  *Report
	st Style
	b  bytes.Buffer
}

func (t *textFace) para(text, first, rest string) {
	t.b.WriteString(wrap(clean(text), first, rest, t.st.Width))
}

func (t *textFace) heading(s string) { fmt.Fprintf(&t.b, "\n%s\n", t.st.paint(bold, s)) }

func (t *textFace) verdict() {
	word, colour := "FINE", green
	switch t.r.Worst() {
	case Critical:
		word, colour = "CRITICAL", red
	case Warning:
		word, colour = "WARNING", yellow
	case Notice:
		if t.r.Verdict.Cause != CauseNone {
			word, colour = "NOTICE", cyan
		}
	}
	if word == "FINE" && t.r.Verdict.Cause == CauseUnknown {
		word, colour = "UNKNOWN", cyan
	}
	text := wrap(clean(t.r.Verdict.Text), word+": ", "", t.st.Width)
	t.b.WriteString(t.st.paint(colour, word))
	t.b.WriteString(t.st.paint(bold, strings.TrimSuffix(strings.TrimPrefix(text, word), "\n")) + "\n")
	v := t.r.Verdict
	line := fmt.Sprintf("Cause: %s. Confidence: %s", v.Cause, v.Confidence)
	if len(v.Doubts) > 0 {
		line += ", because " + strings.Join(v.Doubts, "; ")
	}
	t.para(line+".", "", "")
}

// where says which machine, namespace and moment the report is about.
func (t *textFace) where() {
	var parts []string
	if t.r.Host != "" {
		parts = append(parts, "host "+t.r.Host)
	}
	if t.r.Kernel != "" {
		parts = append(parts, "kernel "+t.r.Kernel)
	}
	if n := t.r.Netns; n.Inode != 0 {
		parts = append(parts, "network namespace "+NetnsName(n))
	}
	if s := t.r.Snapshot; s != nil && s.Rates != nil {
		parts = append(parts, fmt.Sprintf("watched for %.1f s", s.Rates.Interval.Seconds()))
	}
	if t.r.Snapshot == nil {
		parts = append(parts, "from logs alone")
	}
	parts = append(parts, t.r.Time.UTC().Format("2006-01-02 15:04:05 UTC"))
	t.para(strings.Join(parts, ", "), "", "")
}

// NetnsName names a namespace for people: what it was asked for by, whose it
// is, and its number as ls -l /proc/PID/ns/net shows it.
func NetnsName(n ct.Netns) string {
	s := fmt.Sprintf("net:[%d]", n.Inode)
	switch {
	case n.Name != "":
		s = n.Name + " (" + s + ")"
	case n.Initial == ct.Yes:
		s = "of the host (" + s + ")"
	}
	if n.Owner != "" {
		s += " of " + n.Owner
	}
	return s
}

func (t *textFace) findings() {
	var shown []Finding
	for _, f := range t.r.Findings {
		if f.Code != "cannot-see" {
			shown = append(shown, f)
		}
	}
	if len(shown) == 0 {
		return
	}
	t.heading("What was found")
	for i, f := range shown {
		if i > 0 && len(f.Evidence) > 0 {
			t.b.WriteByte('\n')
		}
		t.finding(f)
	}
}

// briefEvidence is how many lines of evidence a finding gets that follows from
// another.
const briefEvidence = 2

func (t *textFace) finding(f Finding) {
	label := fmt.Sprintf("%-8s  ", f.Severity)
	body := wrap(clean(f.Title)+" ["+f.Code+"]", label, "          ", t.st.Width)
	t.b.WriteString(t.st.paint(severityColour(f.Severity), label))
	t.b.WriteString(strings.TrimPrefix(body, label))
	if f.ExplainedBy != "" {
		t.para("follows from "+f.ExplainedBy, "          ", "          ")
	}
	for i, e := range f.Evidence {
		if f.ExplainedBy != "" && i == briefEvidence && !t.st.Verbose {
			break
		}
		t.para(e, "          - ", "            ")
	}
}

// remedies prints each remedy once, in the order of the findings. Those of a
// finding that follows from another are the other's business.
func (t *textFace) remedies(when When, heading string) {
	seen := make(map[string]bool)
	n := 0
	for _, f := range t.r.Findings {
		if f.ExplainedBy != "" {
			continue
		}
		for _, rem := range f.Remedies {
			if rem.When != when || seen[rem.What] {
				continue
			}
			seen[rem.What] = true
			if n++; n == 1 {
				t.heading(heading)
			}
			t.remedy(n, rem)
		}
	}
}

func (t *textFace) remedy(n int, rem Remedy) {
	t.para(rem.What, fmt.Sprintf("%2d. ", n), "    ")
	t.commands("", rem.Commands)
	if rem.Cost != "" {
		t.para("Cost: "+rem.Cost, "    ", "    ")
	}
	t.para("Risk: "+rem.Risk, "    ", "    ")
	t.commands("Undo: ", rem.Undo)
}

// commands prints command lines whole, however long: they are to be pasted.
func (t *textFace) commands(label string, lines []string) {
	for _, c := range lines {
		fmt.Fprintf(&t.b, "      %s%s\n", label, t.st.paint(cyan, clean(c)))
		label = strings.Repeat(" ", len(label))
	}
}

// blind lists what could not be seen. What the same step would show stands
// together, without the errors: they are in the verbose text and in JSON.
func (t *textFace) blind() {
	if len(t.r.Blind) == 0 {
		return
	}
	t.heading("What could not be seen")
	var hows []string
	what := make(map[string][]ct.Blind)
	for _, b := range t.r.Blind {
		if what[b.How] == nil {
			hows = append(hows, b.How)
		}
		what[b.How] = append(what[b.How], b)
	}
	for _, how := range hows {
		var parts []string
		for _, b := range what[how] {
			part := b.What
			if t.st.Verbose || len(what[how]) == 1 {
				part += " (" + strings.ReplaceAll(b.Why, "\n", "; ") + ")"
			}
			parts = append(parts, part)
		}
		line := strings.Join(parts, "; ")
		if how != "" {
			line += ". To see it: " + how
		}
		t.para(line, "  - ", "    ")
	}
}

// shownNamespaces is how many namespaces are listed, the fullest first.
const shownNamespaces = 20

// namespaces lists the network namespaces with the entries in each.
func (t *textFace) namespaces() {
	s := t.r.Snapshot
	if !t.st.Namespaces || s == nil || len(s.Namespaces) == 0 {
		return
	}
	t.heading("Network namespaces")
	fmt.Fprintf(&t.b, "  %9s %9s %10s %10s  %s\n", "entries", "of max", "refused", "evicted", "whose")
	for i := range s.Namespaces {
		n := &s.Namespaces[i]
		if i == shownNamespaces {
			fmt.Fprintf(&t.b, "  and %d more\n", len(s.Namespaces)-i)
			break
		}
		label := n.Label()
		if n.Inode == s.Netns.Inode {
			label += ", the one looked at"
		}
		if !n.Count.Known {
			fmt.Fprintf(&t.b, "  %9s %9s %10s %10s  %s\n", "?", "?", "?", "?", clean(label+": "+n.Problem))
			continue
		}
		share := "-"
		if m := s.Limits.Max.Or(0); m > 0 {
			share = fmt.Sprintf("%.1f %%", 100*float64(n.Count.N)/float64(m))
		}
		fmt.Fprintf(&t.b, "  %9d %9s %10d %10d  %s\n", n.Count.N, share, n.Counters.Drop, n.Counters.EarlyDrop, clean(label))
	}
	t.para("Refused and evicted count from the beginning of each namespace.", "  ", "  ")
}
