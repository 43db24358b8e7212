package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/internal/report"
)

// oneSource: one address holds a large part of the table. It "holds" it: what
// was not answered may bear a forged address, and what was may be many people
// behind one.
func oneSource(f *facts) []finding {
	src, ok := f.heaviest(f.c.Sources)
	if !f.composed || !ok || src.share < oneSourceShare {
		return nil
	}
	sev, ok := f.severity(src.share)
	if !ok {
		return nil
	}
	fd := finding{cause: report.CauseOneHost, confidence: report.High}
	fd.Severity = sev
	fd.Title = fmt.Sprintf("%s holds %s of the table with %s", src.addr(), pct(src.share), src.kind())
	fd.clause = fmt.Sprintf("%s holds %s of it with %s", f.hostName(src), pct(src.share), src.kind())
	fd.Figures = map[string]any{"source": src.addr().String(), "share": round3(src.share), "entries": f.estimate(src.share)}
	if src.MainPort != 0 {
		fd.Figures["port"] = src.MainPort
	}
	fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s is %s. Its entries go to about %s and %s.", src.addr(), f.who(src.addr()),
		plural(src.DistinctPeers, "address", "addresses"), plural(src.DistinctPorts, "port", "ports")))
	if others := f.c.DistinctSources; others > 1 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("The other %s share the rest.", plural(others-1, "address", "addresses")))
	}
	fd.explains = append([]string{codeEarlyDropDefeated}, symptoms...)
	if src.silent() >= majority {
		fd.explains = append(fd.explains, codeFloodUDP)
	}
	f.sourceDoubts(&fd, src)
	fd.Remedies = f.sourceRemedies(src)
	return []finding{fd}
}

func (f *facts) sourceDoubts(fd *finding, src holder) {
	if note := f.forgeable(src); note != "" {
		fd.confidence = report.Medium
		fd.doubts = append(fd.doubts, note)
		fd.Evidence = append(fd.Evidence, "Nobody answered these entries, so the address may be forged: check the sender's hardware address before you blame it.")
		return
	}
	if note := f.behind(src); note != "" && src.silent() < majority {
		fd.confidence = report.Medium
		fd.doubts = append(fd.doubts, note)
	}
}

func (f *facts) sourceRemedies(src holder) []report.Remedy {
	out := f.room()
	a := src.addr().String()
	if f.isSelf(src.addr()) {
		return append(out, report.Remedy{When: report.Now,
			What:     "Find the program on this machine that opens them.",
			Commands: []string{"ss -Htunp state all | awk '{print $NF}' | sort | uniq -c | sort -rn | head"},
			Risk:     "none: it only reads"})
	}
	out = append(out, report.Remedy{When: report.Now,
		What:     "See for yourself what it sends, and from which hardware address.",
		Commands: []string{"tcpdump -c 20 -n -e -i any host " + a},
		Risk:     "none: it reads 20 packets"})
	if src.silent() < majority || !f.isInside(src.addr()) {
		return out
	}
	return append(out, f.capSource(src))
}

// capSource limits the new flows of one inside host after tracking: what is
// dropped there leaves no entry.
func (f *facts) capSource(src holder) report.Remedy {
	rule := fmt.Sprintf("nft add rule inet hostlimit forward %s saddr %s ct state new limit rate over 50/second burst 200 packets counter drop", nftFamily(src), src.addr())
	return report.Remedy{When: report.Now,
		What: fmt.Sprintf("Cap what %s may open until its owner has mended it. A packet dropped here leaves no entry.", src.addr()),
		Commands: []string{
			"nft add table inet hostlimit",
			"nft add chain inet hostlimit forward '{ type filter hook forward priority -10; policy accept; }'",
			rule,
		},
		Risk: "its genuine new connections beyond the rate wait or fail; if it is a resolver or a NAT, so do its clients'",
		Undo: []string{"nft delete table inet hostlimit"}}
}
