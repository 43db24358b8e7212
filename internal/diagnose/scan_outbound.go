package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/internal/report"
)

// scanOutbound: one host inside tries very many addresses or ports, most of
// which do not answer: a scanner, a worm, a crawler or a peer-to-peer program.
func scanOutbound(f *facts) []finding {
	src, ok := f.heaviest(f.c.Sources)
	if !f.composed || !ok || src.share < oneSourceShare || !f.isInside(src.addr()) || !f.scans(src) {
		return nil
	}
	sev, ok := f.severity(src.share)
	if !ok {
		return nil
	}
	fd := finding{cause: report.CauseScan, confidence: report.High,
		explains: append([]string{codeOneSource, codeFloodUDP, codeFloodSYN, codeEarlyDropDefeated}, symptoms...)}
	fd.Severity = max(sev, report.Warning)
	what, n := "addresses", src.DistinctPeers
	if src.DistinctPorts > src.DistinctPeers && src.DistinctPeers < scanPeers {
		what, n = "ports", src.DistinctPorts
	}
	fd.Title = fmt.Sprintf("%s tries about %s %s, most of which do not answer", src.addr(), num(n), what)
	fd.clause = fmt.Sprintf("%s scans outward and holds %s of it with %s, to about %s %s", f.hostName(src), pct(src.share), src.kind(), num(n), what)
	fd.Figures = map[string]any{"source": src.addr().String(), "share": round3(src.share), "entries": f.estimate(src.share),
		"distinct_peers": src.DistinctPeers, "distinct_ports": src.DistinctPorts}
	if src.MainPort != 0 && src.MainPortShare >= majority {
		fd.Figures["port"] = src.MainPort
	}
	fd.Evidence = []string{
		fmt.Sprintf("%s, %s, holds %s of the table: about %s entries, %s of them unanswered.", src.addr(), f.who(src.addr()), pct(src.share), num(f.estimate(src.share)), pct(src.silent())),
		fmt.Sprintf("They go to about %s and %s.", plural(src.DistinctPeers, "address", "addresses"), plural(src.DistinctPorts, "port", "ports")),
		"A scanner, a worm, a crawler and a peer-to-peer program all look like this.",
	}
	if note := f.forgeable(src); note != "" {
		fd.confidence = report.Medium
		fd.doubts = []string{note}
	}
	fd.Remedies = f.sourceRemedies(src)
	return []finding{fd}
}

// scans reports whether a source's entries are mostly unanswered and go to so
// many different addresses or ports that no client needs them.
func (f *facts) scans(src holder) bool {
	if src.silent() < majority {
		return false
	}
	wide := src.DistinctPeers >= scanPeers && src.DistinctPeers*4 >= src.Entries
	deep := src.DistinctPorts >= scanPeers && src.DistinctPorts*4 >= src.Entries
	return wide || deep && src.MainPortShare < majority
}
