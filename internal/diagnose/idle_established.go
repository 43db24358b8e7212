package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// idleEstablished: answered connections that have seen no packet for an hour
// or longer. The idle time is a lower bound: an entry that carries a shortened
// timeout, as a bulk transfer does, is never counted as idle.
func idleEstablished(f *facts) []finding {
	var hour, day uint64
	for _, cl := range f.c.Classes {
		if established(cl.ClassKey) {
			hour += cl.IdleOver[2]
			day += cl.IdleOver[3]
		}
	}
	share := f.c.Share(hour)
	if !f.composed || !pattern(share) {
		return nil
	}
	sev, ok := f.severity(share)
	if !ok {
		return nil
	}
	fd := finding{cause: report.CauseLeak, confidence: report.High,
		explains: append([]string{codeOneSource, codeEarlyDropDefeated}, symptoms...)}
	fd.Severity = sev
	fd.Title = fmt.Sprintf("%s of the table are connections without a packet for an hour or more", pct(share))
	fd.Figures = map[string]any{"share": round3(share), "entries": f.estimate(share), "idle_over_day_share": round3(f.c.Share(day))}
	fd.Evidence = []string{fmt.Sprintf("About %s entries idle for an hour at least, %s of the table for a day.", num(f.estimate(share)), pct(f.c.Share(day)))}
	where := f.target(&fd)
	fd.clause = fmt.Sprintf("connections%s that have been silent for an hour or more, and are kept for %s, make up %s of it", where, f.kept(), pct(share))
	src, named := f.heaviest(f.c.Sources)
	named = named && src.share >= majority && src.of(src.Assured) >= majority
	if named {
		fd.clause += fmt.Sprintf("; %s opened most of them", f.nameOf(src))
		fd.Figures["source"] = src.addr().String()
	}
	fd.Evidence = append(fd.Evidence, "Their ends have gone away without closing, or keep pools and sessions that they never use. The kernel never evicts them.")
	fd.Remedies = f.idleRemedies()
	return []finding{fd}
}

func (f *facts) nameOf(h holder) string {
	if f.isSelf(h.addr()) {
		return "this machine itself (" + h.addr().String() + ")"
	}
	return h.addr().String()
}

// kept words the established timeout.
func (f *facts) kept() string {
	s, ok := f.s.Timeouts.Get(ct.TimeoutTCPEstablished)
	switch {
	case !ok:
		return "five days"
	case s%86400 == 0 && s > 0:
		return plural(int(s/86400), "day", "days")
	}
	return num(int(s)) + " s"
}

func (f *facts) idleRemedies() []report.Remedy {
	out := append(f.room(), report.Remedy{When: report.Now,
		What:     "Let those go that have been silent for more than two hours: evict shows how many they are, whose, and what losing them would break, and asks first.",
		Commands: []string{f.ctwarden("evict -p tcp --where 'idle_min > 2h' --soft 60s")},
		Cost:     "a minute, then the entries that nobody used are gone",
		Risk:     "an idle session that wakes later finds its entry gone: behind translation, or where rules drop what they do not know, it must reconnect",
		Undo:     []string{f.ctwarden("evict --undo ID")}})
	const risk = "connections that stay silent longer than this lose their entry: databases, SSH and MQTT without keepalives; behind NAT for good. Never below 7,440 s, the first keepalive at 7,200 s and some"
	out = append(out, f.setTimeout(ct.TimeoutTCPEstablished, 86400, risk)...)
	out = append(out, f.keepTimeout(ct.TimeoutTCPEstablished, 86400, risk)...)
	return append(out, report.Remedy{When: report.ForGood,
		What: "Switch keepalives on in the programs at both ends, so that dead connections are found and closed.",
		Risk: "none worth naming; some packets an hour"})
}
