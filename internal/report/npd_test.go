package report

import (
	"strings"
	"testing"
)

func TestWriteNPD(t *testing.T) {
	for _, text := range []string{
		"Nothing is wrong.",
		"The table is full and refuses new connections: one host, 10.0.3.7, holds 71 % of it with unanswered UDP to port 53.",
		"two\nlines", strings.Repeat("ä", 100),
	} {
		r := Report{Verdict: Verdict{Text: text}}
		var b strings.Builder
		if err := r.WriteNPD(&b); err != nil {
			t.Fatal(err)
		}
		got := b.String()
		if strings.Count(got, "\n") != 1 || len(got) > npdLength+1 || !strings.HasPrefix(got, text[:3]) {
			t.Errorf("%q becomes %q, %d bytes", text, got, len(got))
		}
	}
}
