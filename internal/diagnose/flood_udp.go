package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// floodUDP: datagrams that nobody answers hold the table.
func floodUDP(f *facts) []finding {
	share := f.share(unrepliedUDP)
	if !f.composed || !pattern(share) {
		return nil
	}
	sev, ok := f.severity(share)
	if !ok {
		return nil
	}
	fd := finding{cause: report.CauseAttack, explains: append([]string{codeEarlyDropDefeated}, symptoms...)}
	fd.Severity = sev
	fd.Title = fmt.Sprintf("%s of the table are UDP entries that nobody answered", pct(share))
	fd.Figures = map[string]any{"share": round3(share), "entries": f.estimate(share), "distinct_sources": f.c.DistinctSources}
	where := f.target(&fd)
	spread, single := f.spread()
	fd.clause = fmt.Sprintf("a flood of unanswered UDP%s makes up %s of it", where, pct(share))
	fd.confidence = report.Medium
	if spread {
		fd.confidence = report.High
		fd.clause = fmt.Sprintf("a flood of unanswered UDP%s, from %s that are most likely forged, makes up %s of it", where, f.addresses(f.c.DistinctSources), pct(share))
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s, %s of them with one entry only: forged addresses look like this.", f.addresses(f.c.DistinctSources), pct(single)))
	} else {
		fd.doubts = []string{"a service that has stopped answering its clients looks the same"}
	}
	if f.evicting && !f.refusing {
		fd.Evidence = append(fd.Evidence, "The kernel copes by itself: unanswered entries are evicted as new ones come, and nobody is refused.")
	}
	fd.Remedies = f.udpRemedies(&fd)
	return []finding{fd}
}

func (f *facts) udpRemedies(fd *finding) []report.Remedy {
	out := f.room()
	if port, ok := fd.Figures["destination_port"].(uint16); ok {
		out = append(out, limitUDP(port))
	}
	return append(out, f.setTimeout(ct.TimeoutUDP, 15, "an answer that takes longer than 15 s is no longer recognised as one")...)
}

// limitUDP drops new flows beyond a rate after tracking: a packet that a
// filter rule drops leaves no entry, and answers and running flows pass.
func limitUDP(port uint16) report.Remedy {
	return report.Remedy{When: report.Now,
		What: fmt.Sprintf("Cap new UDP flows to port %d. A packet dropped here leaves no entry; running flows and answers pass. Set the rate above your own peak.", port),
		Commands: []string{
			"nft add table inet udplimit",
			"nft add chain inet udplimit input '{ type filter hook input priority -10; policy accept; }'",
			"nft add chain inet udplimit forward '{ type filter hook forward priority -10; policy accept; }'",
			fmt.Sprintf("nft add rule inet udplimit input ct state new udp dport %d limit rate over 2000/second burst 4000 packets counter drop", port),
			fmt.Sprintf("nft add rule inet udplimit forward ct state new udp dport %d limit rate over 2000/second burst 4000 packets counter drop", port),
		},
		Risk: "beyond the rate genuine requests are dropped with the others",
		Undo: []string{"nft delete table inet udplimit"}}
}
