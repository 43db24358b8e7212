package diagnose

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// Whatever a snapshot holds, there is an answer: a sentence, of which a face
// can be made, with no control code in it.
func FuzzRun(f *testing.F) {
	for _, sc := range scenarios {
		if b, err := json.Marshal(sc.in.Snapshot); err == nil {
			f.Add(b)
		}
	}
	f.Add([]byte(`{"limits":{"count":9223372036854775807,"max":1,"buckets":-1},"memory":{"total_bytes":1,"slab_object_bytes":-136}}`))
	f.Add([]byte(`{"limits":{"count":100,"max":100,"buckets":0},"census":{"entries":1000,"classes":[{"proto":"tcp","state":"SYN_SENT","entries":999999}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s ct.Snapshot
		if json.Unmarshal(b, &s) != nil {
			return
		}
		in := fixture(logged(0, 0, 0, 3, 9))
		in.Snapshot = &s
		r := Run(in)
		if r.Verdict.Text == "" || r.Verdict.Cause == "" || r.Verdict.Confidence == "" {
			t.Errorf("an empty verdict: %+v", r.Verdict)
		}
		var text bytes.Buffer
		if err := r.WriteText(&text, report.Style{}); err != nil {
			t.Error(err)
		}
		if bytes.ContainsRune(text.Bytes(), 0x1b) {
			t.Errorf("a control code in the text:\n%q", text.Bytes())
		}
		if err := r.WriteJSON(io.Discard); err != nil {
			t.Error(err)
		}
	})
}
