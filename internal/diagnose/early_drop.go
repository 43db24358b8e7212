package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// earlyDropActive: the packet path evicts entries to admit others.
func earlyDropActive(f *facts) []finding {
	if !f.evicting {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Warning
	fd.Title = fmt.Sprintf("The kernel evicts entries that are not assured yet to admit new ones: %s", rate(f.perSecond(f.evicted)))
	fd.Figures = map[string]any{"evicted_entries": f.evicted, "interval_seconds": round3(f.interval.Seconds())}
	fd.Evidence = []string{fmt.Sprintf("The counter early_drop grew by %s in %s. Nothing of this is in the log.", num(f.evicted), span(f.interval))}
	if f.refused == 0 {
		fd.Evidence = append(fd.Evidence, "Nobody was refused; but handshakes that were genuine and slow are evicted with the rest.")
	}
	if f.s.Tracking.NAT == ct.Yes {
		fd.Evidence = append(fd.Evidence, "This machine translates addresses: a half-open connection that loses its entry breaks.")
	}
	fd.Remedies = f.room()
	return []finding{fd}
}

// earlyDropDefeated: at the limit, the kernel's search for something to evict
// mostly finds nothing, because the entries are assured or because there are
// so many buckets that it looks at empty ones.
func earlyDropDefeated(f *facts) []finding {
	if !f.full || !f.oddsKnown || f.odds >= lowOdds {
		return nil
	}
	l := f.s.Limits
	fd := finding{}
	fd.Severity = report.Critical
	fd.Title = "The kernel finds nothing to evict: hardly any newcomer gets in"
	if f.odds >= 0.005 {
		fd.Title = fmt.Sprintf("The kernel finds an entry to evict for %s of the newcomers only", pct(f.odds))
	}
	fd.Figures = map[string]any{"odds": round3(f.odds), "unassured_share": round3(f.unassured), "buckets": l.Buckets.N, "max": l.Max.N}
	fd.Evidence = []string{fmt.Sprintf("%s of the entries may be evicted. The kernel looks for one in %s for each newcomer, and %s entries lie in %s buckets.",
		pct(f.unassured), looksText(f.s.Version), num(l.Max.N), num(l.Buckets.N))}
	if f.refused > 0 && f.evicted > 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("Seen: %s refused for %s evicted.", count(f.refused, "packet"), plural(f.evicted, "entry", "entries")))
	}
	if !f.bucketsDefeat() {
		fd.Evidence = append(fd.Evidence, "Nearly all entries are assured, and those the kernel never evicts.")
		fd.Remedies = f.room()
		return []finding{fd}
	}
	fd.cause, fd.confidence = report.CauseWrongSizing, report.High
	fd.clause = fmt.Sprintf("%s buckets are too many for a limit of %s entries, so that the kernel, which looks at a few buckets only, finds nothing to evict although %s of the entries are disposable",
		num(l.Buckets.N), num(l.Max.N), pct(f.unassured))
	fd.explains = symptoms
	fd.Remedies = f.room()
	return []finding{fd}
}

// bucketsDefeat reports whether the odds are low and fewer buckets would help: the same entries in
// as many buckets as there are entries.
func (f *facts) bucketsDefeat() bool {
	n := f.s.Limits.Max.Or(0)
	return f.full && f.oddsKnown && f.odds < lowOdds && f.s.Limits.Buckets.N > n && ct.EarlyDropOdds(f.s.Version, f.unassured, n, n) >= lowOdds
}

// defeat is the half-sentence that buckets add to the verdict on a cause.
func (f *facts) defeat() string {
	if !f.bucketsDefeat() {
		return ""
	}
	return fmt.Sprintf("; %s buckets for %s entries keep the kernel from finding one to evict, so %s of the newcomers get in",
		num(f.s.Limits.Buckets.N), num(f.s.Limits.Max.N), pct(f.odds))
}

// fewerEmptyBuckets raises max towards the buckets, or where memory forbids it
// brings the buckets down.
func (f *facts) fewerEmptyBuckets() []report.Remedy {
	if r := f.raiseMax(); len(r) > 0 {
		return r
	}
	const slotsPerPage = 512
	n := (f.s.Limits.Max.N + slotsPerPage - 1) / slotsPerPage * slotsPerPage
	return []report.Remedy{{
		When: report.Now, What: fmt.Sprintf("Bring the buckets down from %s to %s: memory does not allow a higher limit.", num(f.s.Limits.Buckets.N), num(n)),
		Commands: []string{f.setBuckets(n)},
		Cost:     fmt.Sprintf("new connections of the whole host stall for about %s, once", stall(f.peak)),
		Risk:     "longer chains where other namespaces of this host hold many entries: one hash table serves all",
		Undo:     []string{f.setBuckets(f.s.Limits.Buckets.N)},
	}}
}

func looksText(v ct.KernelVersion) string {
	switch {
	case !v.IsZero() && !v.AtLeast(4, 7):
		return "some buckets"
	case !v.IsZero() && !v.AtLeast(4, 20):
		return "one bucket"
	}
	return "eight buckets"
}
