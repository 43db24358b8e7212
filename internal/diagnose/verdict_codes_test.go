package diagnose

import (
	"slices"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// A code that was found twice, of two hosts or two namespaces, is named once.
func TestVerdictNamesCodesOnce(t *testing.T) {
	var twice finding
	twice.Code, twice.Severity = codeFloodSYN, report.Warning
	v := verdict(newFacts(Input{Snapshot: &ct.Snapshot{}}), []finding{twice, twice})
	if !slices.Equal(v.Codes, []string{codeFloodSYN}) {
		t.Errorf("%q", v.Codes)
	}
}
