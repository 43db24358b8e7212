package lint

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
)

// Text writes findings as compilers do, so that editors find the place.
func Text(w io.Writer, list []Finding) error {
	b := bufio.NewWriter(w)
	for _, f := range list {
		fmt.Fprintf(b, "%s:%d: %s: %s [%s]\n", f.File, f.Line, f.Severity, f.Message, f.Code)
		if f.Fix != "" {
			fmt.Fprintf(b, "    instead: %s\n", f.Fix)
		}
	}
	return b.Flush()
}

type (
	sarifText struct {
		Text string `json:"text"`
	}
	sarifRule struct {
		ID string `json:"id"`
	}
	sarifPlace struct {
		PhysicalLocation struct {
			ArtifactLocation struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region struct {
				StartLine int `json:"startLine"`
			} `json:"region"`
		} `json:"physicalLocation"`
	}
	sarifResult struct {
		RuleID    string       `json:"ruleId"`
		Level     Severity     `json:"level"`
		Message   sarifText    `json:"message"`
		Locations []sarifPlace `json:"locations"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRun struct {
		Tool struct {
			Driver sarifDriver `json:"driver"`
		} `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
)

// SARIF writes findings in the format 2.1.0 of OASIS, which code hosts show
// beside the lines. Its levels are our severities.
func SARIF(w io.Writer, list []Finding, version string) error {
	run := sarifRun{Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "ctwarden", Version: version, Rules: []sarifRule{}}
	for _, f := range list {
		r := sarifResult{RuleID: f.Code, Level: f.Severity, Message: sarifText{f.Message}}
		if f.Fix != "" {
			r.Message.Text += ". Instead: " + f.Fix
		}
		var p sarifPlace
		p.PhysicalLocation.ArtifactLocation.URI = fileURI(f.File)
		p.PhysicalLocation.Region.StartLine = f.Line
		r.Locations = []sarifPlace{p}
		run.Results = append(run.Results, r)
		if rule := (sarifRule{f.Code}); !slices.Contains(run.Tool.Driver.Rules, rule) {
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, rule)
		}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}

// fileURI keeps relative names relative, so that a code host can resolve them.
func fileURI(file string) string {
	u := url.URL{Path: file}
	if strings.HasPrefix(file, "/") {
		u.Scheme = "file"
	}
	return u.String()
}
