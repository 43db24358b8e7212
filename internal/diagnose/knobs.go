package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/report"
)

// back proposes to set a key to what the kernel starts with.
func (f *facts) back(key string, value int64, risk string) report.Remedy {
	return report.Remedy{When: report.Now,
		What:     fmt.Sprintf("Set %s back to %d, the kernel's own value.", f.key(key), value),
		Commands: []string{f.within(fmt.Sprintf("sysctl -w %s=%d", f.key(key), value))},
		Risk:     risk}
}

// maxRetransZero: with 0 every established connection gets the retransmission
// timeout after its first packet (nf_conntrack_tcp_packet).
func maxRetransZero(f *facts) []finding {
	if v := f.s.Knobs.TCPMaxRetrans; !v.Known || v.N != 0 {
		return nil
	}
	fd := finding{cause: report.CauseMisconfig, confidence: report.High}
	fd.Severity = report.Warning
	kept := "300 s"
	if s, ok := f.s.Timeouts.Get(ct.TimeoutTCPMaxRetrans); ok {
		kept = fmt.Sprintf("%d s", s)
	}
	fd.Title = fmt.Sprintf("Every TCP connection is forgotten after %s of silence: %s is 0", kept, f.key("tcp_max_retrans"))
	fd.clause = fmt.Sprintf("%s = 0 lets every connection be forgotten after %s of silence", f.key("tcp_max_retrans"), kept)
	fd.Evidence = []string{"The value is a number of retransmissions; with 0 every packet counts as one too many, and nf_conntrack_tcp_timeout_established never applies."}
	fd.Remedies = []report.Remedy{f.back("tcp_max_retrans", 3, "none; connections are remembered longer, so the table holds more")}
	return []finding{fd}
}

// maxUnlimited: 0 means no limit, in every version that takes it (7.3 does not).
func maxUnlimited(f *facts) []finding {
	if m := f.s.Limits.Max; !m.Known || m.N != 0 {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Warning
	fd.Title = "The table has no limit: " + f.key("max") + " is 0"
	fd.Figures = map[string]any{"count": f.peak}
	fd.Evidence = []string{
		"0 does not refuse everything, it allows everything: a flood fills memory that cannot be reclaimed until the OOM killer ends other programs.",
		"It also switches the early eviction by the garbage collector off.",
	}
	if c := f.ceiling() / 1024 * 1024; c > f.peak+f.peak/5 {
		fd.Remedies = []report.Remedy{{When: report.Now,
			What:     fmt.Sprintf("Set a limit that memory bears%s.", f.onHost()),
			Commands: []string{fmt.Sprintf("sysctl -w %s=%d", f.key("max"), min(c, max(kernelMax(f.s.Version, f.s.Memory.TotalBytes.Or(0)), 2*f.peak)))},
			Risk:     fmt.Sprintf("beyond it new connections are refused; %s entries are in use now", num(f.peak)),
			Undo:     []string{fmt.Sprintf("sysctl -w %s=0", f.key("max"))}}}
	}
	return []finding{fd}
}

// maxBelowCount: somebody lowered max under what is in use. Nothing is purged,
// but every newcomer needs an eviction.
func maxBelowCount(f *facts) []finding {
	l := f.s.Limits
	if l.Max.Or(0) <= 0 || !l.Count.Known || l.Count.N <= l.Max.N+int64(max(f.s.CPUs, 1)) {
		return nil
	}
	fd := finding{cause: report.CauseMisconfig, confidence: report.High, explains: []string{codeTableFull, codeEarlyDropActive, codeEarlyDropDefeated}}
	fd.Severity = report.Critical
	fd.Title = fmt.Sprintf("The limit of %s is below the %s entries in use", num(l.Max.N), num(l.Count.N))
	fd.clause = fmt.Sprintf("the limit, %s, was lowered below the %s entries in use", num(l.Max.N), num(l.Count.N))
	fd.Figures = map[string]any{"count": l.Count.N, "max": l.Max.N}
	fd.Evidence = []string{"The kernel removes nothing when the limit is lowered; each new connection then needs an entry to be evicted, and is refused if none is found."}
	if l.Max.N < 100 {
		fd.Evidence = append(fd.Evidence, "With a limit under 100 the garbage collector does not help either: its threshold is computed as max/100*95, which is 0.")
	}
	want := (l.Count.N + l.Count.N/5 + 1023) / 1024 * 1024
	fd.Remedies = []report.Remedy{{When: report.Now,
		What:     fmt.Sprintf("Raise the limit above what is in use%s.", f.onHost()),
		Commands: []string{fmt.Sprintf("sysctl -w %s=%d", f.key("max"), want)},
		Cost:     "no memory that is not in use already, until the table grows",
		Risk:     "none"}}
	return []finding{fd}
}

// establishedBelowKeepalive: idle connections are forgotten before their first
// keepalive could save them.
func establishedBelowKeepalive(f *facts) []finding {
	est, ok := f.s.Timeouts.Get(ct.TimeoutTCPEstablished)
	alive := f.s.Knobs.TCPKeepaliveTime.Or(7200)
	if !ok || est <= 0 || int64(est) > alive {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Notice
	if f.s.Tracking.NAT == ct.Yes || f.s.Tracking.DropsUntracked == ct.Yes {
		fd.Severity = report.Warning
	}
	fd.Title = fmt.Sprintf("Idle connections are forgotten after %d s, before their first keepalive at %d s", est, alive)
	fd.Figures = map[string]any{"established_seconds": est, "keepalive_seconds": alive}
	fd.Evidence = []string{"Database pools, SSH sessions, message queues and anything else that is silent for longer lose their entry."}
	if f.s.Tracking.NAT == ct.Yes {
		fd.Evidence = append(fd.Evidence, "This machine translates addresses: such a connection is broken for good, and its two ends do not notice.")
	} else {
		fd.Evidence = append(fd.Evidence, "Without translation the next packet is picked up again, unless rules drop packets in mid-stream or tcp_loose is 0.")
	}
	const least = 7440
	fd.Remedies = []report.Remedy{{When: report.Now,
		What:     fmt.Sprintf("Raise it to at least %d s (RFC 5382: two hours and four minutes).", least),
		Commands: []string{f.within(fmt.Sprintf("sysctl -w %s=%d", f.key(ct.TimeoutTCPEstablished.String()), least))},
		Cost:     "dead connections stay longer: watch the count",
		Risk:     "none to connections",
		Undo:     []string{f.within(fmt.Sprintf("sysctl -w %s=%d", f.key(ct.TimeoutTCPEstablished.String()), est))}}}
	return []finding{fd}
}

// logInvalidOn: the kernel writes a line for each invalid packet, without limit.
func logInvalidOn(f *facts) []finding {
	v := f.s.Knobs.LogInvalid
	if !v.Known || v.N == 0 {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Notice
	fd.Title = "The kernel logs every invalid packet: " + f.key("log_invalid") + fmt.Sprintf(" is %d", v.N)
	fd.Evidence = []string{"These lines are not rate limited: a flood of bad packets fills the disk and slows the machine."}
	if n := f.neighbourLines(klog.InvalidPacket); n > 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("The log holds %s of it.", count(n, "line")))
	}
	fd.Remedies = []report.Remedy{f.back("log_invalid", 0, "none; you lose the lines")}
	return []finding{fd}
}

// logUnlimited: message_cost 0 switches the limiter of all network messages off.
func logUnlimited(f *facts) []finding {
	if v := f.s.Knobs.MessageCost; !v.Known || v.N != 0 {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Warning
	fd.Title = "Kernel network messages are not rate limited: net.core.message_cost is 0"
	fd.Evidence = []string{"A full table then writes one line for each refused packet: a flood becomes a flood of the log."}
	fd.Remedies = []report.Remedy{{When: report.Now, What: "Set it back to 5 s.",
		Commands: []string{"sysctl -w net.core.message_cost=5"}, Risk: "none; the counters stay exact",
		Undo: []string{"sysctl -w net.core.message_cost=0"}}}
	return []finding{fd}
}

// neighbourLines counts the log lines of a kind that makes no episodes.
func (f *facts) neighbourLines(k klog.Kind) uint64 {
	if f.in.Log == nil {
		return 0
	}
	var n uint64
	for _, x := range f.in.Log.Neighbours {
		if x.Kind == k {
			n += x.Lines
		}
	}
	return n
}

// notrackCandidate: a stateless service of this machine fills its table.
func notrackCandidate(f *facts) []finding {
	if f.s.Tracking.NAT != ct.No || !f.composed {
		return nil
	}
	dns, ok := f.port(ct.UDP, 53)
	dst, okDst := f.heaviest(f.c.Destinations)
	if !ok || !okDst || !pattern(dns.share) || !f.isSelf(dst.addr()) {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Info
	fd.Title = "DNS served by this machine may not need tracking at all"
	fd.Figures = map[string]any{"share": round3(dns.share)}
	fd.Evidence = []string{fmt.Sprintf("%s of the entries are queries to its own port 53, and it translates nothing.", pct(dns.share))}
	fd.Remedies = []report.Remedy{{When: report.ForGood,
		What:     "Have the rules and sockets checked for whether it is safe here, in both directions.",
		Commands: []string{"ctwarden notrack --proto udp --dport 53"},
		Risk:     "none: without --install it only reads and proves or refutes"}}
	return []finding{fd}
}
