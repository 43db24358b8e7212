package report

import (
	"encoding/json"
	"io"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
)

type document struct {
	Schema   string       `json:"schema"`
	Time     time.Time    `json:"time"`
	Host     string       `json:"host"`
	Kernel   string       `json:"kernel"`
	Netns    ct.Netns     `json:"netns"`
	Verdict  Verdict      `json:"verdict"`
	Findings []Finding    `json:"findings"`
	Blind    []ct.Blind   `json:"blind"`
	Log      *klog.Report `json:"log"`
	Snapshot *ct.Snapshot `json:"snapshot"`
}

// WriteJSON writes the report as one indented JSON document.
func (r *Report) WriteJSON(w io.Writer) error {
	d := document{Schema, r.Time, r.Host, r.Kernel, r.Netns, r.Verdict, r.Findings, r.Blind, r.Log, r.Snapshot}
	if d.Findings == nil {
		d.Findings = []Finding{}
	}
	if d.Blind == nil {
		d.Blind = []ct.Blind{}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(d)
}
