package diagnose

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// tableFull: the count is at the limit. A new flow gets in only if the kernel
// finds an entry to evict; otherwise its packet is dropped.
func tableFull(f *facts) []finding {
	if !f.full {
		return nil
	}
	fd := finding{cause: f.sizeCause(), clause: f.growthClause(), confidence: report.Medium}
	fd.Severity = report.Critical
	if f.evicting && !f.refusing && (!f.oddsKnown || f.odds >= lowOdds) {
		fd.Severity = report.Warning
	}
	fd.Title = fmt.Sprintf("The table is full: %s of %s entries", num(f.peak), num(f.s.Limits.Max.N))
	fd.Figures = map[string]any{"count": f.peak, "max": f.s.Limits.Max.N, "fill": round3(f.fill)}
	f.refusals(&fd)
	if line := f.composition(); line != "" {
		fd.Evidence = append(fd.Evidence, line)
	}
	f.logged(&fd)
	fd.Evidence = append(fd.Evidence, "Running connections go on. New ones are dropped: SSH logins and DNS queries too, "+
		"and a local program that sends sees EPERM, \"Operation not permitted\".")
	fd.doubts = f.growthDoubts()
	fd.explains = []string{codeEarlyDropActive}
	if !f.bucketsDefeat() {
		fd.explains = append(fd.explains, codeEarlyDropDefeated)
	}
	fd.Remedies = f.room()
	return f.onlyIfKnown(fd)
}

// logged adds what the log says of this table.
func (f *facts) logged(fd *finding) {
	here, _ := f.pasts()
	if here == nil {
		return
	}
	least, most, _ := here.refused()
	fd.Figures["logged_refused_min"], fd.Figures["logged_refused_max"] = least, most
	fd.Evidence = append(fd.Evidence, "The log: "+lowered(f.episode(here.last())))
	if n := len(here.episodes) - 1; n > 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s before that, the first %s.", count(n, "episode"), f.episodeTime(here.episodes[0])))
	}
}

// onlyIfKnown takes the claim to be the cause away from a full table whose
// entries could not be read.
func (f *facts) onlyIfKnown(fd finding) []finding {
	if !f.composed {
		fd.cause = ""
	}
	return []finding{fd}
}

// refusals adds what the counters say about the observation.
func (f *facts) refusals(fd *finding) {
	if !f.watched {
		return
	}
	fd.Figures["refused_packets"] = f.refused
	fd.Figures["evicted_entries"] = f.evicted
	fd.Figures["interval_seconds"] = round3(f.interval.Seconds())
	switch {
	case f.refused > 0 && f.evicted > 0:
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s refused in %s (%s); %s evicted to make room (%s).",
			count(f.refused, "packet"), span(f.interval), rate(f.perSecond(f.refused)),
			plural(f.evicted, "entry", "entries"), rate(f.perSecond(f.evicted))))
	case f.refused > 0:
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s refused in %s (%s); no entry was evicted to make room.",
			count(f.refused, "packet"), span(f.interval), rate(f.perSecond(f.refused))))
	case f.evicted > 0:
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("No packet was refused in %s: %s evicted instead (%s).",
			span(f.interval), plural(f.evicted, "entry was", "entries were"), rate(f.perSecond(f.evicted))))
	default:
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("Nobody asked for a new entry in %s: nothing was refused or evicted.", span(f.interval)))
	}
}

// composition says in one line what the entries are.
func (f *facts) composition() string {
	if !f.composed {
		return ""
	}
	var parts []string
	rest := 1.0
	for _, cl := range f.c.Classes {
		s := f.c.Share(cl.Entries)
		if s < 0.02 || len(parts) == 5 {
			break
		}
		parts = append(parts, pct(s)+" "+className(cl.ClassKey))
		rest -= s
	}
	if rest > 0.02 {
		parts = append(parts, pct(rest)+" other")
	}
	line := "Entries: " + strings.Join(parts, ", ") + "."
	if note := f.sample(); note != "" {
		line += " " + sentence(note) + "."
	}
	return line
}

// className names a class of entries: "tcp SYN_SENT unreplied".
func className(k ct.ClassKey) string {
	s := k.Proto.String()
	if n := ct.StateName(k.Proto, k.State); n != "" {
		s += " " + n
	}
	switch {
	case k.Assured:
		s += " assured"
	case !k.Replied:
		s += " unreplied"
	}
	if k.NAT {
		s += " NAT"
	}
	return s
}

// sizeCause: a limit below what the kernel would have chosen itself is a
// choice that somebody made, or a machine that grew; otherwise the load did.
func (f *facts) sizeCause() report.Cause {
	if k := kernelMax(f.s.Version, f.s.Memory.TotalBytes.Or(0)); k > 0 && f.s.Limits.Max.Or(0) <= k/2 {
		return report.CauseWrongSizing
	}
	return report.CauseGrowth
}

func (f *facts) growthClause() string {
	live := f.share(func(k ct.ClassKey) bool { return k.Assured })
	what := "the load has outgrown it"
	if f.sizeCause() == report.CauseWrongSizing {
		what = fmt.Sprintf("its limit of %s is small for this machine, for which the kernel would choose %s",
			num(f.s.Limits.Max.Or(0)), num(kernelMax(f.s.Version, f.s.Memory.TotalBytes.Or(0))))
	}
	s := fmt.Sprintf("%s; %s of its entries are lasting, answered connections", what, pct(live))
	if n := f.c.DistinctSources; n > 1 {
		s += " from " + f.addresses(n)
	}
	if h, ok := f.heaviest(f.c.Sources); ok && h.share >= 0.01 && h.share < oneSourceShare {
		s += fmt.Sprintf(", none of which holds more than %s", pct(f.c.Share(h.Entries)))
	}
	return s
}

func (f *facts) growthDoubts() []string {
	d := []string{"bots that finish their handshakes from many addresses would look the same"}
	if f.watched && f.s.Rates.Panel {
		return d
	}
	return append(d, "it was not seen how entries come and go")
}

// tableNearFull: little room is left, or what is left goes fast.
func tableNearFull(f *facts) []finding {
	if f.full || !f.fillKnown {
		return nil
	}
	left, filling := f.timeToFull()
	soon := filling && left <= soonFull && f.fill >= soonFill
	if !f.near && !soon {
		return nil
	}
	fd := finding{cause: f.sizeCause(), clause: f.growthClause(), confidence: report.Low, doubts: f.growthDoubts()}
	fd.Severity = report.Warning
	fd.Title = fmt.Sprintf("The table is %s full: %s of %s entries", pct(f.fill), num(f.peak), num(f.s.Limits.Max.N))
	fd.Figures = map[string]any{"count": f.peak, "max": f.s.Limits.Max.N, "fill": round3(f.fill)}
	switch {
	case filling:
		fd.Figures["seconds_to_full"] = math.Round(left.Seconds())
		fd.Figures["net_entries_per_second"] = round3(f.net)
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("It grew by %s within %s: at this rate it is full in %s.", rate(f.net), span(f.interval), span(left)))
	case f.watched:
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("It did not grow within %s (%s).", span(f.interval), signedRate(f.net)))
	}
	if f.fill >= gcFill {
		fd.Evidence = append(fd.Evidence, "Beyond 95 % a refusal makes the kernel's garbage collection evict unanswered and closing entries too, a minute later at worst.")
	}
	if line := f.composition(); line != "" {
		fd.Evidence = append(fd.Evidence, line)
	}
	fd.Remedies = f.room()
	return f.onlyIfKnown(fd)
}

// timeToFull extrapolates the net growth of the observation. ok is false where
// the count does not grow or was not watched.
func (f *facts) timeToFull() (time.Duration, bool) {
	if !f.fillKnown || f.net <= 0 || f.full {
		return 0, false
	}
	// Noise of a few entries in a second is no trend.
	if f.net*f.interval.Seconds() < math.Max(2, 0.0002*float64(f.s.Limits.Max.N)) {
		return 0, false
	}
	seconds := float64(f.s.Limits.Max.N-f.peak) / f.net
	if seconds > 7*24*3600 {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

func signedRate(x float64) string {
	if x > 0 {
		return "+" + rate(x)
	}
	return rate(x)
}

func round3(x float64) float64 { return math.Round(x*1000) / 1000 }
