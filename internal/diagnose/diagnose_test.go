package diagnose

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctwarden/ctwarden/internal/report"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestScenarios(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			r := Run(sc.in)
			if r.Verdict.Cause != sc.cause {
				t.Errorf("cause %q, want %q: %s", r.Verdict.Cause, sc.cause, r.Verdict.Text)
			}
			for _, s := range sc.says {
				if !strings.Contains(r.Verdict.Text, s) {
					t.Errorf("the verdict lacks %q: %s", s, r.Verdict.Text)
				}
			}
			lead := ""
			if len(r.Verdict.Codes) > 0 {
				lead = r.Verdict.Codes[0]
			} else if len(r.Findings) > 0 {
				lead = r.Findings[0].Code
			}
			if lead != sc.code {
				t.Errorf("leading finding %q, want %q", lead, sc.code)
			}
			golden(t, sc.name, r)
		})
	}
}

func golden(t *testing.T, name string, r *report.Report) {
	t.Helper()
	var got bytes.Buffer
	if err := r.WriteText(&got, report.Style{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("text differs from %s (-want +got):\n%s", path, d)
	}
}
