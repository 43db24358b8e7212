package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// chainLimit is the shortest chain that may already refuse an insert, and 0 for
// kernels without a limit: random in [8, 32) from 5.15 to 6.0, in [50, 80) from
// 6.1 on (__nf_conntrack_confirm).
func chainLimit(v ct.KernelVersion) float64 {
	switch {
	case v.IsZero() || v.AtLeast(6, 1):
		return 50
	case v.AtLeast(5, 15):
		return 8
	}
	return 0
}

// meanChain is the average number of links in a bucket: each entry stands in
// two.
func meanChain(entries, buckets int64) float64 {
	if buckets <= 0 {
		return 0
	}
	return 2 * float64(entries) / float64(buckets)
}

// longChains: inserts refused because a chain is too long. These packets are
// in neither drop nor the log.
func longChains(f *facts) []finding {
	grown, total := uint64(0), uint64(f.s.Counters.ChainTooLong)
	if f.watched {
		grown = uint64(f.s.Rates.Counters.ChainTooLong)
	}
	if total == 0 && grown == 0 {
		return nil
	}
	b := f.s.Limits.Buckets.Or(0)
	fd := finding{cause: report.CauseWrongSizing, confidence: report.High}
	fd.Severity = report.Notice
	switch {
	case f.perSecond(grown) >= chainRate:
		fd.Severity = report.Critical
	case grown > 0:
		fd.Severity = report.Warning
	}
	fd.Title = fmt.Sprintf("Hash chains are too long: %s refused for it since boot", count(total, "new connection"))
	fd.clause = fmt.Sprintf("%s entries share %s hash buckets, and new connections are refused because a chain is too long, whatever the limit says", num(f.peak), num(b))
	fd.Figures = map[string]any{"chaintoolong": total, "chaintoolong_grown": grown, "buckets": b, "mean_chain": round3(meanChain(f.peak, b))}
	fd.Evidence = []string{
		fmt.Sprintf("%s in %s.", count(grown, "refusal"), span(f.interval)),
		fmt.Sprintf("A bucket holds %.1f links on average; this kernel refuses an insert into a chain of %.0f or more links, the exact limit being drawn anew each time.", meanChain(f.peak, b), chainLimit(f.s.Version)),
		"The hash table is one for the whole host: entries of other namespaces stand in the same chains.",
		"These refusals are counted in insert_failed and chaintoolong, not in drop, and no log line tells of them.",
	}
	fd.Remedies = f.moreBuckets()
	return []finding{fd}
}

// moreBuckets resizes once to what suits max.
func (f *facts) moreBuckets() []report.Remedy {
	l := f.s.Limits
	want := f.bucketsFor(max(l.Max.Or(0), f.peak))
	if c := f.ceiling(); want <= l.Buckets.Or(0) || c > 0 && want > 2*c {
		return nil
	}
	return []report.Remedy{{
		When:     report.Now,
		What:     fmt.Sprintf("Raise the number of buckets from %s to %s%s.", num(l.Buckets.Or(0)), num(want), f.onHost()),
		Commands: []string{f.setBuckets(want)},
		Cost:     byteSize(want*bucketBytes) + " of kernel memory; while it is resized the old table stands beside it",
		Risk:     fmt.Sprintf("inserts stall for about %s, once, on every CPU", stall(f.peak)),
		Undo:     []string{f.setBuckets(l.Buckets.Or(0))},
	}}
}

// bucketsTooFew: the limit can never be reached, or look-ups cost too much,
// with these buckets.
func bucketsTooFew(f *facts) []finding {
	l := f.s.Limits
	if !l.Buckets.Known || l.Buckets.N <= 0 || l.Max.Or(0) <= 0 {
		return nil
	}
	atMax := meanChain(l.Max.N, l.Buckets.N)
	limit := chainLimit(f.s.Version)
	fd := finding{}
	switch {
	case limit > 0 && atMax >= limit:
		fd.Severity = report.Warning
		fd.Title = fmt.Sprintf("With %s buckets the table cannot hold its %s entries", num(l.Buckets.N), num(l.Max.N))
	case atMax > costlyChain:
		fd.Severity = report.Notice
		fd.Title = fmt.Sprintf("There are few buckets (%s) for a limit of %s", num(l.Buckets.N), num(l.Max.N))
	default:
		return nil
	}
	fd.Figures = map[string]any{"max": l.Max.N, "buckets": l.Buckets.N, "mean_chain_at_max": round3(atMax)}
	fd.Evidence = []string{fmt.Sprintf("At the limit a bucket would hold %.1f links on average: every packet walks half of them.", atMax)}
	if limit > 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("This kernel refuses inserts into chains from %.0f links on, without counting a drop.", limit))
	}
	fd.Remedies = f.moreBuckets()
	for i := range fd.Remedies {
		fd.Remedies[i].When = report.ForGood
	}
	return []finding{fd}
}

// bucketsTooMany: the early drop looks at a few buckets only, so with many
// empty ones it finds nothing to evict when the table is full.
func bucketsTooMany(f *facts) []finding {
	l := f.s.Limits
	if !l.Buckets.Known || l.Max.Or(0) <= 0 {
		return nil
	}
	odds := ct.EarlyDropOdds(f.s.Version, 1, l.Max.N, l.Buckets.N)
	if odds >= lowOdds || f.bucketsDefeat() {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Notice
	fd.Title = fmt.Sprintf("There are many more buckets (%s) than the limit allows entries (%s)", num(l.Buckets.N), num(l.Max.N))
	fd.Figures = map[string]any{"max": l.Max.N, "buckets": l.Buckets.N, "admission_odds_all_disposable": round3(odds)}
	fd.Evidence = []string{fmt.Sprintf("If the table fills, the kernel looks at eight buckets for something to evict and finds mostly empty ones: only %s of new connections would get in even if every entry were disposable.", pct(odds))}
	if sz, ok := f.wanted(); ok {
		fd.Remedies = append(fd.Remedies, f.raiseMax()...)
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("Memory bears a limit of %s.", num(sz.max)))
	} else {
		fd.Remedies = f.fewerEmptyBuckets()
	}
	return []finding{fd}
}

// insertRace: packets lost because another with the same tuple was confirmed
// first. Two DNS queries sent at once from one socket are the classic.
func insertRace(f *facts) []finding {
	if !f.watched {
		return nil
	}
	c := f.s.Rates.Counters
	lost := uint64(0)
	if c.InsertFailed > c.ChainTooLong {
		lost = uint64(c.InsertFailed - c.ChainTooLong)
	}
	if f.perSecond(lost) < raceRate {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Notice
	fd.Title = fmt.Sprintf("%s lost in races: two packets opened the same connection at once", count(lost, "packet"))
	fd.Figures = map[string]any{"lost": lost, "lost_per_second": round3(f.perSecond(lost)), "clash_resolve": c.ClashResolve}
	fd.Evidence = []string{
		fmt.Sprintf("insert_failed grew by %s in %s (%s), and %s by merging the two.", num(lost), span(f.interval), rate(f.perSecond(lost)), count(uint64(c.ClashResolve), "clash was resolved")),
		"The drop counter counts these packets too: they are not refusals for lack of room.",
	}
	fd.Remedies = []report.Remedy{{When: report.ForGood,
		What: "If DNS is slow by 5 s now and then: have clients ask for A and AAAA one after the other (\"options single-request-reopen\" in resolv.conf), use TCP, or a cache on each node.",
		Risk: "look-ups take one round trip longer"}}
	return []finding{fd}
}
