package report

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
)

func TestWrap(t *testing.T) {
	for _, tt := range []struct{ text, first, rest, want string }{
		{"one two three", "", "", "one two\nthree\n"},
		{"one two three", "- ", "  ", "- one two\n  three\n"},
		{"a-word-longer-than-the-line next", "- ", "  ", "- a-word-longer-than-the-line\n  next\n"},
		{"", "- ", "  ", "- \n"},
		{"  blanks   within ", "", "", "blanks\nwithin\n"},
	} {
		if got := wrap(tt.text, tt.first, tt.rest, 9); got != tt.want {
			t.Errorf("wrap(%q, %q): %q, want %q", tt.text, tt.first, got, tt.want)
		}
	}
}

func FuzzWrap(f *testing.F) {
	f.Add("the table is full", uint8(20))
	f.Add("\x1b[31m\u202e", uint8(40))
	f.Fuzz(func(t *testing.T, s string, width uint8) {
		s = clean(s)
		out := wrap(s, "- ", "  ", int(width))
		if got, want := strings.Fields(out), append([]string{"-"}, strings.Fields(s)...); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("words changed: %q became %q", s, out)
		}
		for line := range strings.Lines(out) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > int(width) && len(strings.Fields(line)) > 2 {
				t.Errorf("%d columns of %d: %q", n, width, line)
			}
		}
	})
}

func TestCleanTakesControlCodesOut(t *testing.T) {
	if got := clean("a\x1b[2Jb\x07c\u009bd\x7f"); got != "a?[2Jb?c?d?" {
		t.Errorf("clean gives %q", got)
	}
}

func TestSeverityText(t *testing.T) {
	for s := Info; s <= Critical; s++ {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back Severity
		if err := json.Unmarshal(b, &back); err != nil || back != s {
			t.Errorf("%s became %s: %v", s, back, err)
		}
	}
	var s Severity
	if err := json.Unmarshal([]byte(`"dreadful"`), &s); err == nil {
		t.Error("an unknown severity was accepted")
	}
}

// What follows from something else gives no advice of its own, and no step is
// printed twice.
func TestRemediesOnce(t *testing.T) {
	step := Remedy{What: "Raise the limit.", When: Now, Risk: "none"}
	r := &Report{Verdict: Verdict{Text: "x."}, Findings: []Finding{
		{Code: "cause", Severity: Critical, Title: "Cause", Remedies: []Remedy{step}},
		{Code: "other", Severity: Warning, Title: "Other", Remedies: []Remedy{step}},
		{Code: "symptom", Title: "Symptom", ExplainedBy: "cause", Remedies: []Remedy{{What: "Never this.", When: Now, Risk: "none"}}},
	}}
	var b bytes.Buffer
	if err := r.WriteText(&b, Style{}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), step.What); n != 1 || strings.Contains(b.String(), "Never this.") {
		t.Errorf("the step stands %d times:\n%s", n, &b)
	}
}

func TestBlank(t *testing.T) {
	seen := &ct.Snapshot{Limits: ct.Limits{Count: ct.Known(0)}}
	for _, tt := range []struct {
		name string
		r    Report
		want bool
	}{
		{"nothing at all", Report{}, true},
		{"a machine that shows nothing", Report{Snapshot: &ct.Snapshot{}}, true},
		{"a log that refuses", Report{Log: &klog.Report{Sources: []klog.Source{{Name: "/dev/kmsg", Error: "operation not permitted"}}}}, true},
		{"an empty log", Report{Log: &klog.Report{Sources: []klog.Source{{Name: "kern.log"}}}}, false},
		{"an empty table", Report{Snapshot: seen}, false},
		{"no module", Report{Snapshot: &ct.Snapshot{Tracking: ct.Tracking{ModuleLoaded: ct.No}}}, false},
	} {
		if got := tt.r.Blank(); got != tt.want {
			t.Errorf("%s: blank is %t", tt.name, got)
		}
	}
}
