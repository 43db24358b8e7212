package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

func isICMP(k ct.ClassKey) bool { return k.Proto.IsICMP() }

// floodICMP: echo requests fill the table. They are never assured, so with
// sane buckets the kernel evicts them by itself.
func floodICMP(f *facts) []finding {
	share := f.share(isICMP)
	if !f.composed || !pattern(share) {
		return nil
	}
	sev, ok := f.severity(share)
	if !ok {
		return nil
	}
	fd := finding{cause: report.CauseAttack, confidence: report.Medium, explains: symptoms,
		doubts: []string{"a ping sweep of your own monitoring looks the same"}}
	fd.Severity = sev
	fd.Title = fmt.Sprintf("%s of the table are pings", pct(share))
	fd.clause = fmt.Sprintf("pings make up %s of it", pct(share))
	fd.Figures = map[string]any{"share": round3(share), "entries": f.estimate(share)}
	fd.Evidence = []string{fmt.Sprintf("About %s entries of ICMP, each kept for 30 s by default after its last packet. None is ever assured, so all may be evicted.", num(f.estimate(share)))}
	if src, ok := f.heaviest(f.c.Sources); ok && src.share >= majority {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s of all entries bear the source %s; it may be forged.", pct(src.share), src.addr()))
		fd.explains = append([]string{codeOneSource}, fd.explains...)
	}
	if f.oddsKnown && f.odds >= lowOdds {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("The kernel finds something to evict for %s of newcomers: users are served, and nothing needs to be done.", pct(f.odds)))
	}
	fd.Remedies = append(f.room(), f.setTimeout(ct.TimeoutICMP, 10, "a ping whose answer takes longer is not recognised")...)
	fd.Remedies = append(fd.Remedies, report.Remedy{When: report.Now,
		What: "Drop new echo requests beyond a rate; a packet dropped before it leaves the machine keeps no entry.",
		Commands: []string{
			"nft add table inet pinglimit",
			"nft add chain inet pinglimit pre '{ type filter hook prerouting priority -150; policy accept; }'",
			"nft add rule inet pinglimit pre ct state new icmp type echo-request limit rate over 1000/second counter drop",
			"nft add rule inet pinglimit pre ct state new icmpv6 type echo-request limit rate over 1000/second counter drop",
		},
		Risk: "monitoring that pings may see losses; path-MTU and neighbour discovery are other types and not touched",
		Undo: []string{"nft delete table inet pinglimit"}})
	return []finding{fd}
}

// halfClosed are connections that one side has closed and the other has not.
func halfClosed(k ct.ClassKey) bool {
	return k.Proto == ct.TCP && (k.State == ct.TCPCloseWait || k.State == ct.TCPFinWait)
}

// halfClosedMass: one side says goodbye and the other never does. It differs
// from churn by where the connections stand: not in TIME_WAIT.
func halfClosedMass(f *facts) []finding {
	share := f.share(halfClosed)
	wait := f.share(func(k ct.ClassKey) bool { return k.Proto == ct.TCP && k.State == ct.TCPTimeWait })
	if !f.composed || !pattern(share) || share < 2*wait {
		return nil
	}
	sev, ok := f.severity(share)
	if !ok {
		return nil
	}
	fd := finding{cause: report.CauseLeak, confidence: report.Medium,
		explains: append([]string{codeShortChurn, codeEarlyDropDefeated}, symptoms...),
		doubts:   []string{"a path that loses the last packets of connections looks the same"}}
	fd.Severity = sev
	fd.Title = fmt.Sprintf("%s of the table are connections that only one side has closed", pct(share))
	fd.clause = fmt.Sprintf("%s of the entries are connections that one side has closed and the other has not", pct(share))
	fd.Figures = map[string]any{"share": round3(share), "entries": f.estimate(share)}
	f.closingStates(&fd)
	f.target(&fd)
	fd.Evidence = append(fd.Evidence, "A program that forgets to close its sockets makes these: ss on the server shows them as CLOSE-WAIT.")
	fd.Remedies = append(f.room(), report.Remedy{When: report.Now,
		What:     "Find the program that does not close, if it runs here.",
		Commands: []string{f.within("ss -Htnp state close-wait | awk '{print $NF}' | sort | uniq -c | sort -rn | head")},
		Risk:     "none: it only reads"})
	fd.Remedies = append(fd.Remedies, f.setTimeout(ct.TimeoutTCPFinWait, 60, "connections that are half closed on purpose and silent for longer are forgotten")...)
	return []finding{fd}
}

// oneDestination: most entries go to one address that is not this machine's.
func oneDestination(f *facts) []finding {
	dst, ok := f.heaviest(f.c.Destinations)
	if !f.composed || !ok || dst.share < majority || f.isSelf(dst.addr()) {
		return nil
	}
	sev, ok := f.severity(dst.share)
	if !ok {
		return nil
	}
	fd := finding{cause: report.CauseOneHost, confidence: report.Medium, explains: symptoms}
	fd.Severity = sev
	to := dst.addr().String()
	if dst.MainPortShare >= majority && dst.MainPort != 0 {
		to = fmt.Sprintf("%s port %d", to, dst.MainPort)
	}
	fd.Title = fmt.Sprintf("%s of the table goes to %s", pct(dst.share), to)
	fd.clause = fmt.Sprintf("%s of it goes to %s", pct(dst.share), to)
	fd.Figures = map[string]any{"destination": dst.addr().String(), "share": round3(dst.share), "entries": f.estimate(dst.share), "unanswered_share": round3(dst.silent())}
	if dst.silent() >= majority {
		fd.clause += ", which does not answer"
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s of these entries are unanswered: the destination is down, unreachable, or the target of a flood.", pct(dst.silent())))
		fd.doubts = []string{"whether it is down or under attack cannot be told from here"}
	} else {
		fd.Evidence = append(fd.Evidence, "It answers: this is load that goes through this machine.")
		fd.doubts = []string{"one busy service behind this machine is no fault by itself"}
	}
	fd.Remedies = append(f.room(), report.Remedy{When: report.Now,
		What:     "See what it is and whether it answers.",
		Commands: []string{f.within("tcpdump -c 20 -n -i any host " + dst.addr().String())},
		Risk:     "none: it reads 20 packets"})
	return []finding{fd}
}

// reapedByReading is how many entries counted, were not shown by a dump that
// passed the whole table and were gone after it: a dump removes the expired ones
// that it meets (ctnetlink_dump_table).
func reapedByReading(c *ct.Census) uint64 {
	if c == nil || !c.Complete || c.Short || !c.CountBefore.Known || !c.CountAfter.Known {
		return 0
	}
	return uint64(max(0, c.CountBefore.N-max(int64(c.Entries), c.CountAfter.N)))
}

// expiredLinger: entries whose time is up still count, because gc has not come
// by yet. Kernels 5.15.0 to 5.17 pass only every 120 s.
func expiredLinger(f *facts) []finding {
	reaped := reapedByReading(f.c)
	seen := reaped
	if f.c != nil {
		seen += f.c.Entries
	}
	if seen < minEntries {
		return nil
	}
	share := float64(f.c.Expiring+reaped) / float64(seen)
	if share < expiringShare {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Info
	fd.Title = fmt.Sprintf("%s of the entries are about to expire or have expired", pct(share))
	fd.Figures = map[string]any{"share": round3(share)}
	fd.Evidence = []string{"Since 4.9 an expired entry counts until a look-up meets it, a dump passes, or the garbage collector does, which takes up to a minute (two on 5.15 to 5.17)."}
	if reaped > 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s counted before the table was read and were gone after: the reading reaped them.", num(reaped)))
	}
	if f.full || f.near {
		fd.Severity = report.Notice
		fd.Remedies = []report.Remedy{{When: report.Now,
			What:     "Have the kernel meet them all: one reading of the table reaps what has expired.",
			Commands: []string{f.within("conntrack -L --mark 0xffffffff/0xffffffff >/dev/null")},
			Risk:     "none: it only reads; a pass over a million entries takes about a third of a second"}}
	}
	return []finding{fd}
}
