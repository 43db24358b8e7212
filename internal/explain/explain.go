// Package explain says what a log line, setting, counter, state or error of
// connection tracking means on a given kernel, what it does not mean, and what
// to do. It is a set of tables and what finds the right row.
package explain

import (
	"fmt"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Topic is one thing explained, for one kernel.
type Topic struct {
	ID    string `json:"id"`    // "table-full"
	Group string `json:"group"` // "message", "setting", "counter", "state", "error", "question"
	Name  string `json:"name"`  // what it is called on this kernel
	// Answer is the sentence that a hurried reader needs.
	Answer string   `json:"answer"`
	Means  []string `json:"means"`
	Not    []string `json:"not"` // what it does not mean
	Do     []string `json:"do"`
	// Seen are the figures that the text itself carries, in words.
	Seen []string `json:"seen,omitempty"`
}

// entry is a row of a table. A sentence may begin with the kernels it holds
// for: "[4.9-]", "[-4.8]" or "[4.9-5.9]", both ends included; all others are
// left out.
type entry struct {
	id    string
	names []string // what it is called, as normalize writes it
	// asks are sets of words; a question that has all of one asks for this.
	asks           []string
	answer         string
	means, not, do []string
}

// table is a group of entries.
type table struct {
	group   string
	entries []entry
}

var tables = []table{
	{"message", messages}, {"error", errors}, {"setting", settings()},
	{"counter", counters}, {"state", states}, {"question", questions},
}

// For explains a text on a kernel; a zero version is any kernel, and then every
// sentence stands with the kernels it holds for. The result is empty where
// nothing in the text is known.
func For(text string, v ct.KernelVersion) []Topic {
	f := &finder{version: v, have: map[string]bool{}}
	f.logLines(text)
	if len(f.topics) == 0 {
		f.errorText(text)
	}
	if len(f.topics) == 0 {
		f.whole(text)
	}
	if len(f.topics) == 0 {
		f.question(text)
	}
	if len(f.topics) == 0 {
		f.words(text)
	}
	return f.topics
}

// topic renders an entry for the finder's kernel.
func (f *finder) topic(group string, e *entry) Topic {
	t := Topic{ID: e.id, Group: group, Name: e.names[0],
		Means: f.apply(e.means), Not: f.apply(e.not), Do: f.apply(e.do)}
	t.Answer = strings.Join(f.apply(strings.Split(e.answer, "|")), " ")
	return t
}

// apply picks the sentences that hold for the kernel.
func (f *finder) apply(sentences []string) []string {
	out := []string{}
	for _, s := range sentences {
		r, text := splitRange(s)
		switch {
		case f.version.IsZero() && r != (kernelRange{}):
			out = append(out, r.String()+": "+text)
		case f.version.IsZero() || r.holds(f.version):
			out = append(out, text)
		}
	}
	return out
}

// kernelRange is a span of kernel versions, both ends included; a zero end is
// open.
type kernelRange struct{ since, until ct.KernelVersion }

func (r kernelRange) holds(v ct.KernelVersion) bool {
	return v.AtLeast(r.since.Major, r.since.Minor) &&
		(r.until.IsZero() || !v.AtLeast(r.until.Major, r.until.Minor+1))
}

// String says it in words, "from 4.9 on".
func (r kernelRange) String() string {
	short := func(v ct.KernelVersion) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }
	switch {
	case r.until.IsZero():
		return "From " + short(r.since) + " on"
	case r.since.IsZero():
		return "Up to " + short(r.until)
	}
	return "From " + short(r.since) + " to " + short(r.until)
}

// splitRange takes "[4.9-5.9] " off a sentence.
func splitRange(s string) (kernelRange, string) {
	rest, ok := strings.CutPrefix(s, "[")
	span, text, closed := strings.Cut(rest, "] ")
	since, until, dashed := strings.Cut(span, "-")
	if !ok || !closed || !dashed {
		return kernelRange{}, s
	}
	return kernelRange{version(since), version(until)}, text
}

func version(s string) ct.KernelVersion {
	v, err := ct.ParseKernelVersion(s)
	if s == "" || err != nil {
		return ct.KernelVersion{}
	}
	return v
}
