package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// shortConnectionChurn: connections that have ended and linger in the table.
func shortConnectionChurn(f *facts) []finding {
	share := f.share(tcpClosing)
	if !f.composed || !pattern(share) {
		return nil
	}
	sev, ok := f.severity(share)
	if !ok {
		return nil
	}
	fd := finding{cause: report.CauseChurn, confidence: report.High,
		explains: append([]string{codeEarlyDropDefeated}, symptoms...)}
	fd.Severity = sev
	fd.Title = fmt.Sprintf("%s of the table are TCP connections that have ended", pct(share))
	fd.Figures = map[string]any{"share": round3(share), "entries": f.estimate(share)}
	f.closingStates(&fd)
	where := f.target(&fd)
	fd.clause = fmt.Sprintf("short connections%s: %s of the entries are TCP connections that have ended and only wait to be forgotten", where, pct(share))
	f.churner(&fd)
	f.birthRate(&fd)
	const risk = "none worth naming on a server; behind NAT a port may be used again a little sooner"
	fd.Remedies = append(f.room(), f.setTimeout(ct.TimeoutTCPTimeWait, 30, risk)...)
	fd.Remedies = append(fd.Remedies, f.keepTimeout(ct.TimeoutTCPTimeWait, 30, risk)...)
	fd.Remedies = append(fd.Remedies, report.Remedy{When: report.ForGood,
		What: "Let clients and proxies keep connections open and use them again (HTTP keep-alive, connection pools).",
		Risk: "servers hold more idle connections"})
	return []finding{fd}
}

func (f *facts) closingStates(fd *finding) {
	line := ""
	for s := ct.TCPFinWait; s <= ct.TCPClose; s++ {
		n := f.share(func(k ct.ClassKey) bool { return k.Proto == ct.TCP && k.State == s })
		if n < 0.01 {
			continue
		}
		if line != "" {
			line += ", "
		}
		line += fmt.Sprintf("%s %s", ct.StateName(ct.TCP, s), pct(n))
		if k, ok := ct.StateTimeout(ct.TCP, s, 0); ok {
			if t, ok := f.s.Timeouts.Get(k); ok {
				line += fmt.Sprintf(" (kept %d s)", t)
			}
		}
	}
	if line != "" {
		fd.Evidence = append(fd.Evidence, line+".")
	}
}

// churner names the source of most of a churn: its flows were answered, so
// the address is right, and may stand for many.
func (f *facts) churner(fd *finding) {
	src, ok := f.heaviest(f.c.Sources)
	if !ok || src.share < majority || src.of(src.Replied) < majority {
		return
	}
	fd.explains = append(fd.explains, codeOneSource)
	fd.clause += fmt.Sprintf("; %s of all entries are from %s", pct(src.share), f.nameOf(src))
	fd.Figures["source"] = src.addr().String()
	fd.Figures["source_share"] = round3(src.share)
	fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s, %s, opened %s of them.", src.addr(), f.who(src.addr()), pct(src.share)))
	if note := f.behind(src); note != "" {
		fd.Evidence = append(fd.Evidence, note+": do not cut it off unseen.")
	}
}

// birthRate adds how fast entries come and go, where that was seen.
func (f *facts) birthRate(fd *finding) {
	r := f.s.Rates
	if r == nil || !r.Panel || r.BirthsPerSecond <= 0 {
		return
	}
	fd.Figures["births_per_second"] = round3(r.BirthsPerSecond)
	line := fmt.Sprintf("About %s come and %s go", rate(r.BirthsPerSecond), rate(r.DeathsPerSecond))
	if r.MeanLifetime > 0 {
		line += fmt.Sprintf("; at this rate an entry lives %s", span(r.MeanLifetime))
		fd.Figures["mean_lifetime_seconds"] = round3(r.MeanLifetime.Seconds())
	}
	fd.Evidence = append(fd.Evidence, line+".")
}

// dnsChurn: each query over UDP makes an entry that outlives its answer by half
// a minute.
func dnsChurn(f *facts) []finding {
	dns, ok := f.port(ct.UDP, 53)
	if !f.composed || !ok || !pattern(dns.share) || dns.of(dns.Replied) < majority {
		return nil
	}
	sev, ok := f.severity(dns.share)
	if !ok {
		return nil
	}
	fd := finding{cause: report.CauseChurn, confidence: report.High,
		explains: append([]string{codeEarlyDropDefeated, codeShortChurn}, symptoms...)}
	fd.Severity = sev
	fd.Title = fmt.Sprintf("%s of the table are DNS queries over UDP", pct(dns.share))
	fd.Figures = map[string]any{"share": round3(dns.share), "entries": f.estimate(dns.share), "replied_share": round3(dns.of(dns.Replied))}
	where := f.target(&fd)
	fd.clause = fmt.Sprintf("DNS queries over UDP%s make up %s of it, each kept for %s after its answer", where, pct(dns.share), f.udpKept())
	fd.Evidence = append(fd.Evidence, fmt.Sprintf("About %s entries to port 53, %s of them answered.", num(f.estimate(dns.share)), pct(dns.of(dns.Replied))))
	f.churner(&fd)
	f.birthRate(&fd)
	fd.Remedies = f.dnsRemedies()
	return []finding{fd}
}

// port finds one destination port among the heavy ones.
func (f *facts) port(p ct.Proto, port uint16) (holder, bool) {
	for _, h := range f.c.Ports {
		if h.Proto == p && h.Port == port {
			return holder{h, f.c.Share(h.Entries - min(h.Error, h.Entries))}, true
		}
	}
	return holder{}, false
}

// dnsPolicy gives DNS a timeout of its own, so that other UDP keeps its
// mappings: RFC 4787 allows a NAT less than two minutes for well-known ports.
func dnsPolicy() report.Remedy {
	return report.Remedy{When: report.Now,
		What: "Forget DNS queries sooner, and those only: new queries get a timeout policy of their own.",
		Commands: []string{
			"nft add table inet dnstimeout",
			"nft add ct timeout inet dnstimeout dns '{ protocol udp; l3proto ip; policy = { unreplied : 10, replied : 10 }; }'",
			"nft add chain inet dnstimeout pre '{ type filter hook prerouting priority -150; policy accept; }'",
			"nft add chain inet dnstimeout out '{ type filter hook output priority -150; policy accept; }'",
			"nft add rule inet dnstimeout pre meta nfproto ipv4 udp dport 53 ct timeout set dns",
			"nft add rule inet dnstimeout out meta nfproto ipv4 udp dport 53 ct timeout set dns",
		},
		Cost: "nothing; existing entries keep their timeout. IPv6 needs a second policy with l3proto ip6",
		Risk: "an answer that takes longer than 10 s is dropped by the translation",
		Undo: []string{"nft delete table inet dnstimeout"}}
}

func (f *facts) udpKept() string {
	if s, ok := f.s.Timeouts.Get(ct.TimeoutUDP); ok {
		return fmt.Sprintf("%d s", s)
	}
	return "30 s"
}

func (f *facts) dnsRemedies() []report.Remedy {
	out := f.room()
	const risk = "an answer that takes longer is no longer recognised as one; other UDP protocols with longer pauses need keepalives"
	if f.s.Tracking.NAT == ct.No {
		out = append(out, f.setTimeout(ct.TimeoutUDP, 15, risk)...)
	} else if v := f.s.Version; v.IsZero() || v.AtLeast(4, 19) {
		out = append(out, dnsPolicy())
	}
	out = append(out, f.keepTimeout(ct.TimeoutUDP, 15, risk)...)
	out = append(out, report.Remedy{When: report.ForGood,
		What: "Put a caching resolver on the clients (systemd-resolved, unbound, dnsmasq, NodeLocal DNSCache), or let it ask over TCP: one connection for all queries.",
		Risk: "cached answers live as long as their TTL"})
	if f.s.Tracking.NAT == ct.No {
		out = append(out, report.Remedy{When: report.ForGood,
			What: "This machine translates nothing, so DNS may go untracked, if its rules accept port 53 both ways without connection state.",
			Risk: "with a rule set that accepts answers by \"ct state established\", untracked answers are dropped: add the stateless accept rules first"})
	}
	return out
}
