package tune

import (
	"bytes"
	"testing"

	"github.com/ctwarden/ctwarden/internal/lint"
)

// TestOwnAdviceIsClean: what a plan prints to be pasted passes the judge of
// pasted advice.
func TestOwnAdviceIsClean(t *testing.T) {
	for _, p := range []*Plan{mustPlan(t, Options{}), mustPlan(t, Options{PeakNew: 20_000, MemoryShare: 0.2})} {
		for format, name := range map[string]string{"sysctl": "/etc/sysctl.d/90-ctwarden.conf", "shell": "plan.sh", "ansible": "plan.yml"} {
			var b bytes.Buffer
			if err := p.Print(&b, format); err != nil {
				t.Fatal(err)
			}
			if list := lint.Lint([]lint.Source{{Path: name, Data: b.Bytes()}}, lint.Options{}); len(list) > 0 {
				t.Errorf("%s: %+v\n%s", format, list, b.String())
			}
		}
	}
}
