package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// floodSYN: handshakes that nobody finishes hold the table. Their addresses
// prove nothing, so none is named as the sender.
func floodSYN(f *facts) []finding {
	share := f.share(tcpHalfOpen)
	if !f.composed || !pattern(share) {
		return nil
	}
	sev, ok := f.severity(share)
	src, _ := f.heaviest(f.c.Sources)
	inside := src.share >= majority && f.isInside(src.addr())
	if !ok || inside && f.scans(src) {
		return nil
	}
	fd := finding{cause: report.CauseAttack, explains: append([]string{codeOneSource, codeEarlyDropDefeated}, symptoms...)}
	fd.Severity = max(sev, report.Warning)
	fd.Title = fmt.Sprintf("%s of the table are TCP handshakes that nobody finished", pct(share))
	fd.Figures = map[string]any{"share": round3(share), "entries": f.estimate(share), "distinct_sources": f.c.DistinctSources}
	where := f.target(&fd)
	spread, single := f.spread()
	switch {
	case spread:
		fd.clause = fmt.Sprintf("a SYN flood, %s half-open connections%s from %s that are most likely forged, makes up %s of it",
			num(f.estimate(share)), where, f.addresses(f.c.DistinctSources), pct(share))
		fd.confidence = report.High
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s, %s of them with one entry only: forged addresses look like this. None is named, for they prove nothing.",
			f.addresses(f.c.DistinctSources), pct(single)))
	case src.share >= majority:
		fd.clause = fmt.Sprintf("half-open connections%s make up %s of it; all but a few bear the source %s, which may be forged", where, pct(share), src.addr())
		fd.confidence = report.Medium
		fd.doubts = []string{"an address that never finished a handshake may be forged"}
	default:
		fd.clause = fmt.Sprintf("half-open connections%s make up %s of it: a SYN flood, or a server that has stopped answering", where, pct(share))
		fd.confidence = report.Medium
		fd.doubts = []string{"a dead server behind this machine, with its clients retrying, looks the same"}
	}
	f.halfOpenStates(&fd)
	fd.Remedies = f.synRemedies(&fd)
	return []finding{fd}
}

// spread reports whether the entries come from a mass of addresses most of
// which were seen once, and the share of those.
func (f *facts) spread() (bool, float64) {
	if f.c.DistinctSources == 0 {
		return false, 0
	}
	single := min(float64(f.c.SingleUseSources)/float64(f.c.DistinctSources), 1)
	many := f.c.DistinctSources >= 256 && f.c.DistinctSources*8 >= f.c.Entries
	return many && (single >= majority || f.c.DistinctSources*4 >= f.c.Entries), single
}

// target notes where most entries go, as evidence and as words.
func (f *facts) target(fd *finding) string {
	d, ok := f.heaviest(f.c.Destinations)
	if !ok || d.share < majority {
		return ""
	}
	s := " to " + d.addr().String()
	fd.Figures["destination"] = d.addr().String()
	if d.MainPort != 0 && d.MainPortShare >= majority {
		s += fmt.Sprintf(" port %d", d.MainPort)
		fd.Figures["destination_port"] = d.MainPort
	}
	fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s of the entries go to %s, %s.", pct(d.share), d.addr(), f.who(d.addr())))
	return s
}

func (f *facts) halfOpenStates(fd *finding) {
	sent := f.share(func(k ct.ClassKey) bool { return tcpHalfOpen(k) && k.State == ct.TCPSynSent })
	recv := f.share(func(k ct.ClassKey) bool { return tcpHalfOpen(k) && k.State == ct.TCPSynRecv })
	fd.Evidence = append(fd.Evidence, fmt.Sprintf("SYN_SENT (nobody answered the SYN) %s, SYN_RECV (answered, and then silence) %s.", pct(sent), pct(recv)))
	if f.evicting && !f.refusing {
		fd.Evidence = append(fd.Evidence, "The kernel copes by itself: half-open entries are evicted as new ones come, and nobody is refused. SYNPROXY would make it slower, not better.")
	}
}

func (f *facts) synRemedies(fd *finding) []report.Remedy {
	out := f.room()
	const risk = "a client on a very slow line, or one whose SYN was lost twice, must start again"
	for _, k := range []ct.TimeoutKey{ct.TimeoutTCPSynSent, ct.TimeoutTCPSynRecv} {
		out = append(out, f.setTimeout(k, 20, risk)...)
	}
	if port, ok := fd.Figures["destination_port"].(uint16); ok && f.refusing {
		out = append(out, limitSYN(port))
	}
	return append(out, report.Remedy{When: report.ForGood,
		What:     "Leave the defence to the kernel: buckets about equal to max (a quarter of it before 5.15), SYN cookies on.",
		Commands: []string{f.within("sysctl -w net.ipv4.tcp_syncookies=1")},
		Risk:     "none: cookies are used only when a listener's queue overflows"})
}

// limitSYN drops bare SYNs beyond a rate before they are tracked.
func limitSYN(port uint16) report.Remedy {
	return report.Remedy{When: report.Now,
		What: fmt.Sprintf("Only if the above is not enough: cap the SYNs to port %d before they are tracked. Set the rate above your own peak.", port),
		Commands: []string{
			"nft add table inet synlimit",
			"nft add chain inet synlimit pre '{ type filter hook prerouting priority -310; policy accept; }'",
			fmt.Sprintf("nft add rule inet synlimit pre tcp dport %d tcp flags '& (fin|syn|rst|ack) == syn' limit rate over 5000/second burst 10000 packets counter drop", port),
		},
		Risk: "beyond the rate genuine SYNs are dropped with the others; a limit for each source does nothing against forged ones and hits everybody behind one address",
		Undo: []string{"nft delete table inet synlimit"}}
}
