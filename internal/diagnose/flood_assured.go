package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// floodAssured: connections that finished their handshake and then fell
// silent. The kernel never evicts them, so they hold the table for days.
func floodAssured(f *facts) []finding {
	share := f.share(lasting)
	if !f.composed || share < majority || !(f.full || f.near || f.evicting) {
		return nil
	}
	quiet := f.quietness()
	src, named := f.heaviest(f.c.Sources)
	named = named && src.share >= oneSourceShare && src.of(src.Assured) >= majority
	many := f.perSource() >= botConnections
	if quiet == "" || f.agedShare() >= majority || !named && !many {
		return nil
	}
	sev, _ := f.severity(share)
	fd := finding{cause: report.CauseAttack, confidence: report.Medium,
		explains: append([]string{codeOneSource, codeEarlyDropDefeated}, symptoms...)}
	fd.Severity = sev
	fd.Title = fmt.Sprintf("%s of the table are connections that finished their handshake and then fell silent", pct(share))
	fd.Figures = map[string]any{"share": round3(share), "entries": f.estimate(share), "distinct_sources": f.c.DistinctSources}
	fd.Evidence = append(fd.Evidence, quiet)
	where := f.target(&fd)
	fd.clause = fmt.Sprintf("silent connections%s that finished their handshake make up %s of it", where, pct(share))
	switch {
	case named:
		fd.clause = fmt.Sprintf("%s holds %s of it with silent connections%s that finished their handshake", f.hostName(src), pct(src.share), where)
		fd.Figures["source"] = src.addr().String()
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s, %s, holds at least %s entries; it completed handshakes, so the address is real.",
			src.addr(), f.who(src.addr()), num(f.estimate(src.share))))
		if note := f.behind(src); note != "" {
			fd.doubts = append(fd.doubts, note)
		}
		if f.isInside(src.addr()) {
			fd.doubts = append(fd.doubts, "a program inside that never closes its connections looks the same")
		}
	case many:
		fd.clause += ", from " + f.addresses(f.c.DistinctSources)
		if net, ok := f.heaviest(f.c.SourcePrefixes); ok && net.share >= majority && net.of(net.Assured) >= majority {
			fd.clause += ", mostly of " + net.Prefix.String()
			fd.Figures["source_prefix"] = net.Prefix.String()
			fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s holds %s of the table; these addresses completed handshakes, so they are real.", net.Prefix, pct(net.share)))
		}
		fd.doubts = append(fd.doubts, "so few addresses may be proxies or load balancers, behind which are your users")
	}
	fd.Evidence = append(fd.Evidence, "The kernel never evicts them, and shorter timeouts do not reach them until their next packet, which never comes.")
	fd.Remedies = f.assuredRemedies(src, named)
	if p, ok := fd.Figures["source_prefix"].(string); ok {
		fd.Remedies = append(fd.Remedies, f.thinOut(p))
	}
	return []finding{fd}
}

// quietness says how it is known that the lasting entries are unused, "" if
// it is not known or not so.
func (f *facts) quietness() string {
	if known, idle := f.idle(0); known > 0 && f.c.Share(idle) >= majority {
		return fmt.Sprintf("%s of the entries have been silent for a minute or more.", pct(f.c.Share(idle)))
	}
	if r := f.s.Rates; r != nil && r.Panel && r.Rearmed <= quietRearmed {
		if r.Rearmed == 0 {
			return fmt.Sprintf("Not one of the entries saw a packet within %s.", span(f.interval))
		}
		return fmt.Sprintf("Only %s of the entries saw a packet within %s.", pct(r.Rearmed), span(f.interval))
	}
	return ""
}

// idle sums up, over lasting entries, those whose idle time is known and those
// that were idle for at least a step of [ct.IdleSteps].
func (f *facts) idle(step int) (known, over uint64) {
	for _, cl := range f.c.Classes {
		if lasting(cl.ClassKey) {
			known += cl.IdleKnown
			over += cl.IdleOver[step]
		}
	}
	return known, over
}

// agedShare is the share of entries that are lasting and idle for an hour.
func (f *facts) agedShare() float64 {
	_, over := f.idle(2)
	return f.c.Share(over)
}

func (f *facts) hostName(h holder) string {
	if f.isSelf(h.addr()) {
		return "this machine itself (" + h.addr().String() + ")"
	}
	return "one host, " + h.addr().String() + ","
}

func (f *facts) assuredRemedies(src holder, named bool) []report.Remedy {
	out := f.room()
	if named && !f.isSelf(src.addr()) && f.c.DistinctSources >= fewSources {
		out = append(out, f.cutOff(src))
	}
	const risk = "connections that stay silent longer than this lose their entry: databases, SSH and MQTT without keepalives; behind NAT for good. Never below 7,440 s"
	out = append(out, f.setTimeout(ct.TimeoutTCPEstablished, 86400, risk)...)
	out = append(out, f.keepTimeout(ct.TimeoutTCPEstablished, 86400, risk)...)
	return append(out, report.Remedy{When: report.ForGood,
		What: "Let the server close silent connections (its own idle or header timeout): a closed connection leaves the table within two minutes.",
		Risk: "clients that wait longer must reconnect"})
}

// cutOff refuses one address new connections and lets its silent ones go.
func (f *facts) cutOff(src holder) report.Remedy {
	a := src.addr().String()
	return report.Remedy{When: report.Now,
		What: fmt.Sprintf("If %s is no proxy, load balancer or NAT of yours: refuse it new connections, and give those it has a minute to show that they are used. evict shows what would be lost and asks first.", a),
		Commands: []string{
			"nft add table inet cutoff",
			"nft add chain inet cutoff pre '{ type filter hook prerouting priority -310; policy accept; }'",
			fmt.Sprintf("nft add rule inet cutoff pre %s saddr %s tcp flags '& (fin|syn|rst|ack) == syn' counter drop", nftFamily(src), a),
			f.ctwarden("evict -p tcp --state ESTABLISHED -s " + a + " --soft 60s"),
		},
		Cost: "a minute, then the entries that nobody used are gone",
		Risk: "what is genuine among them and silent for a minute ends, behind translation for good; others are not touched",
		Undo: []string{"nft delete table inet cutoff", f.ctwarden("evict --undo ID")}}
}

// thinOut lets the silent connections of a whole prefix go.
func (f *facts) thinOut(prefix string) report.Remedy {
	return report.Remedy{When: report.Now,
		What:     fmt.Sprintf("If %s holds no proxies, load balancers or NATs of yours: give its connections a minute to show that they are used. evict shows what would be lost and asks first.", prefix),
		Commands: []string{f.ctwarden("evict -p tcp --state ESTABLISHED -s " + prefix + " --soft 60s")},
		Cost:     "a minute, then the entries that nobody used are gone",
		Risk:     "what is genuine among them and silent for a minute ends, behind translation for good; others are not touched",
		Undo:     []string{f.ctwarden("evict --undo ID")}}
}

func nftFamily(h holder) string {
	if h.addr().Is4() {
		return "ip"
	}
	return "ip6"
}
