package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/report"
)

// whereabouts are whose table a line speaks of.
type whereabouts struct {
	host  string
	netns uint64
}

// past is what the log tells of one place, the episodes in their order.
type past struct {
	whereabouts
	episodes []*klog.Episode
}

func (p *past) last() *klog.Episode { return p.episodes[len(p.episodes)-1] }

// refused sums the bounds.
func (p *past) refused() (least, most uint64, open bool) {
	for _, e := range p.episodes {
		least, most, open = least+e.RefusedMin, most+e.RefusedMax, open || e.OpenEnded
	}
	return least, most, open
}

// tableWasFull: the log, or the drop counter, shows refusals in the past: one
// finding for the table that was read, and one for all others.
func tableWasFull(f *facts) []finding {
	here, elsewhere := f.pasts()
	var out []finding
	if here != nil && !f.full {
		out = append(out, f.wasFullHere(here))
	}
	switch len(elsewhere) {
	case 0:
	case 1:
		out = append(out, f.wasFullThere(elsewhere[0]))
	default:
		out = append(out, f.wereFull(elsewhere))
	}
	if here == nil && f.looked {
		out = append(out, f.wasFullByCounter()...)
	}
	return out
}

// pasts sorts the episodes by place.
func (f *facts) pasts() (here *past, elsewhere []*past) {
	for i := range f.episodes() {
		e := &f.in.Log.Episodes[i]
		if e.Kind != klog.TableFull {
			continue
		}
		at := whereabouts{e.Host, e.NetnsInode}
		if f.looked && f.here(e) {
			if here == nil {
				here = &past{whereabouts: at}
			}
			here.episodes = append(here.episodes, e)
			continue
		}
		k := slices.IndexFunc(elsewhere, func(p *past) bool { return p.whereabouts == at })
		if k < 0 {
			k = len(elsewhere)
			elsewhere = append(elsewhere, &past{whereabouts: at})
		}
		elsewhere[k].episodes = append(elsewhere[k].episodes, e)
	}
	return here, elsewhere
}

// Bounds on what is told one by one.
const (
	maxEpisodes = 5
	maxPlaces   = 8
)

func (f *facts) wasFullHere(p *past) finding {
	fd := f.wasFullOf(p)
	fd.Title = "The table was full"
	return fd
}

func (f *facts) wasFullThere(p *past) finding {
	fd := f.wasFullOf(p)
	fd.Severity = f.elsewhereSeverity(p)
	fd.Title = f.whose(p.last())
	if !f.looked {
		f.meaning(&fd, p.last())
		return fd
	}
	fd.Remedies = f.lookThere(p)
	return fd
}

// wasFullOf tells the episodes of one place.
func (f *facts) wasFullOf(p *past) finding {
	fd := finding{}
	fd.Severity = f.pastSeverity(p)
	least, most, open := p.refused()
	fd.Figures = map[string]any{"episodes": len(p.episodes), "refused_min": least, "refused_max": most, "open_ended": open}
	if p.netns != 0 {
		fd.Figures["netns_inode"] = p.netns
	}
	if p.host != "" {
		fd.Figures["host"] = p.host
	}
	for _, e := range p.episodes[max(0, len(p.episodes)-maxEpisodes):] {
		fd.Evidence = append(fd.Evidence, f.episode(e))
	}
	if n := len(p.episodes) - maxEpisodes; n > 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s before that.", count(n, "episode")))
	}
	f.boundsExplained(&fd, p.last())
	return fd
}

func (f *facts) pastSeverity(p *past) report.Severity {
	if e := p.last(); !e.TimeKnown || f.in.Now.Sub(e.End) < recentEpisode {
		return report.Warning
	}
	return report.Notice
}

// elsewhereSeverity is no more than a notice for a namespace that is gone, and
// for those that nobody asked for.
func (f *facts) elsewhereSeverity(p *past) report.Severity {
	if f.gone(p) || f.s.Netns.Name != "" {
		return report.Notice
	}
	return f.pastSeverity(p)
}

// gone reports whether the namespace exists no more: nothing can be full in it
// again.
func (f *facts) gone(p *past) bool {
	if p.netns == 0 || f.s.Namespaces == nil || f.foreign(p.last()) {
		return false
	}
	_, ok := f.find(p.netns)
	return !ok
}

// wereFull sums up the tables of several places that were not read.
func (f *facts) wereFull(places []*past) finding {
	fd := finding{}
	fd.Severity = report.Notice
	slices.SortStableFunc(places, func(a, b *past) int {
		if ga, gb := f.gone(a), f.gone(b); ga != gb {
			return boolOrder(ga, gb)
		}
		return b.last().End.Compare(a.last().End)
	})
	alive, told := 0, 0
	for _, p := range places {
		if !f.gone(p) {
			alive++
			fd.Severity = max(fd.Severity, f.elsewhereSeverity(p))
			if f.looked && f.s.Netns.Name == "" && len(fd.Remedies) < maxEpisodes {
				fd.Remedies = append(fd.Remedies, f.lookThere(p)...)
			}
		}
		// Of those that are gone the latest stands for all.
		if told < maxPlaces && (!f.gone(p) || told == alive) {
			fd.Evidence = append(fd.Evidence, f.inShort(p))
			told++
		}
	}
	if n := len(places) - told; n > 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("And %s more.", num(n)))
	}
	whose := "network namespaces"
	if slices.ContainsFunc(places, func(p *past) bool { return p.host != "" && (!f.looked || f.foreign(p.last())) }) {
		whose = "hosts and namespaces"
	}
	if f.looked {
		whose = "other " + whose
	} else {
		f.meaning(&fd, places[0].last())
	}
	fd.Title = fmt.Sprintf("The tables of %s %s were full", num(len(places)), whose)
	if alive == 0 {
		fd.Title += "; they are gone"
	}
	fd.Figures = map[string]any{"tables": len(places), "alive": alive}
	return fd
}

// inShort tells one place in one line.
func (f *facts) inShort(p *past) string {
	least, most, _ := p.refused()
	s := fmt.Sprintf("%s: at least %s refused, at most %s", f.where(p), count(least, "packet"), num(most))
	if e := p.last(); e.TimeKnown {
		s += ", the last " + f.episodeTime(e)
	}
	return s + "."
}

// where names a place in few words.
func (f *facts) where(p *past) string {
	s := "the host's own table"
	if p.netns != 0 {
		s = "network namespace " + strings.TrimPrefix(f.namespace(p.netns), "namespace ")
	}
	if p.host != "" && (!f.looked || f.foreign(p.last())) {
		s += " on host " + p.host
	}
	return s
}

// ongoing returns what the log tells of the time in which the table that was
// read has been full, nil if nothing.
func (f *facts) ongoing() *klog.Episode {
	here, _ := f.pasts()
	if here == nil || !f.full {
		return nil
	}
	e := here.last()
	if !e.TimeKnown || f.in.Now.Sub(e.End) > klog.DefaultGap {
		return nil
	}
	return e
}

// whose says whose table was full.
func (f *facts) whose(e *klog.Episode) string {
	table := "The table"
	if e.NetnsInode != 0 && (!f.looked || f.foreign(e)) {
		table += " of network namespace " + f.namespace(e.NetnsInode)
	}
	switch {
	case f.foreign(e), !f.looked && e.Host != "":
		return table + " was full on host " + e.Host
	case f.here(e):
		return table + " was full"
	case e.NetnsInode == 0:
		return "The table of the host, not of this network namespace, was full"
	}
	return "The table of another network namespace was full: " + f.namespace(e.NetnsInode)
}

// episode tells one episode: when, how long, how much.
func (f *facts) episode(e *klog.Episode) string {
	s := "At a time that the log does not tell"
	if e.TimeKnown {
		s = sentence(f.episodeTime(e))
	}
	s += ": " + count(e.Lines, "line")
	if e.Suppressed > 0 {
		s += fmt.Sprintf(" printed and %s suppressed", num(e.Suppressed))
	}
	return s + ", so " + f.bounds(e) + " were refused."
}

func (f *facts) episodeTime(e *klog.Episode) string {
	const full, clock = "2006-01-02 15:04:05", "15:04:05"
	start, end := e.Start.UTC(), e.End.UTC()
	if start.Unix() == end.Unix() {
		return "at " + start.Format(full) + " UTC"
	}
	until := end.Format(clock)
	if start.YearDay() != end.YearDay() || start.Year() != end.Year() {
		until = end.Format(full)
	}
	return "from " + start.Format(full) + " to " + until + " UTC"
}

// bounds words the least and the most that the log accounts for.
func (f *facts) bounds(e *klog.Episode) string {
	s := "at least " + count(e.RefusedMin, "packet")
	if e.RefusedMax > e.RefusedMin {
		s += " and, as far as the log counts, at most " + num(e.RefusedMax)
	}
	return s
}

func (f *facts) boundsExplained(fd *finding, e *klog.Episode) {
	if e.Suppressed > 0 {
		s := "The suppressed lines are counted for everything that uses the kernel's network rate limit, so they bound the refusals from above"
		if e.OpenEnded {
			s += "; what came after the last count is in no log"
		}
		fd.Evidence = append(fd.Evidence, s+".")
	}
	if e.NetnsInode == 0 && f.looked && !f.s.Version.AtLeast(6, 17) {
		fd.Evidence = append(fd.Evidence, "This kernel's message does not say which network namespace was full: it may have been a container's.")
	}
}

// namespace names a namespace that a log line gave by its number.
func (f *facts) namespace(inode uint64) string {
	s := fmt.Sprintf("net:[%d]", inode)
	n, ok := f.find(inode)
	switch {
	case !ok && f.s.Namespaces != nil && f.looked:
		return s + ", which is gone"
	case !ok:
		return s
	}
	return n.Label() + ", " + s
}

// find returns the namespace that a line of the log speaks of.
func (f *facts) find(inode uint64) (ct.Namespace, bool) {
	for i := range f.s.Namespaces {
		if n := &f.s.Namespaces[i]; n.Inode == inode && !neverRefused(&n.Counters) {
			return *n, true
		}
	}
	return ct.Namespace{}, false
}

// lookThere says how to look at a table that was not read.
func (f *facts) lookThere(p *past) []report.Remedy {
	e := p.last()
	if f.gone(p) {
		return nil
	}
	r := report.Remedy{When: report.Now, Risk: "none: it only reads"}
	n, ok := f.find(e.NetnsInode)
	switch {
	case f.foreign(e):
		r.What, r.Commands = "Look at host "+e.Host+".", []string{"ssh " + shellQuote(e.Host) + " ctwarden check"}
	case e.NetnsInode == 0:
		r.What, r.Commands = "Look at the host's own table.", []string{"ctwarden check --netns 1"}
	case ok && n.Pid != 0:
		r.What, r.Commands = "Look into "+n.Label()+".", []string{fmt.Sprintf("ctwarden check --netns %d", n.Pid)}
	case ok && n.Path != "":
		r.What, r.Commands = "Look into "+n.Label()+".", []string{"ctwarden check --netns " + shellQuote(n.Path)}
	default:
		r.What = "Find out whose that namespace is, while it lives: the second column is a process in it."
		r.Commands = []string{fmt.Sprintf("lsns -t net -o NS,PID,COMMAND | grep %d", e.NetnsInode)}
	}
	return []report.Remedy{r}
}

// meaning tells somebody who has nothing but the log what it means.
func (f *facts) meaning(fd *finding, e *klog.Episode) {
	fd.Evidence = append(fd.Evidence,
		"It is a limit on the number of connections, not on memory: memory may be nearly empty. Packets of new connections were dropped; running ones went on.",
		"Beyond the outage it locks administrators out, breaks DNS first, makes local programs fail with \"Operation not permitted\", and hides who did it. A SYN flood alone rarely prints this line, for the kernel evicts half-open entries silently: it means that answered connections, or badly sized buckets, filled the table.")
	if era := e.Era.String(); era != "" {
		fd.Evidence = append(fd.Evidence, "The wording is that of kernels "+era+".")
	}
	maxKey, countKey := "net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_count"
	if e.Era == klog.EraIP {
		maxKey, countKey = "net.ipv4.netfilter.ip_conntrack_max", "net.ipv4.netfilter.ip_conntrack_count"
	}
	fd.Remedies = append(fd.Remedies,
		report.Remedy{When: report.Now, What: "Run this on that machine, as root: it names what fills the table.",
			Commands: []string{"ctwarden check"}, Risk: "none: it only reads"},
		report.Remedy{When: report.Now, What: "Without it: compare the entries with the limit, and count them by source.",
			Commands: []string{"sysctl " + countKey + " " + maxKey,
				"conntrack -L 2>/dev/null | grep -o 'src=[^ ]*' | awk 'NR%2' | sort | uniq -c | sort -rn | head"},
			Risk: "none; on a table of a million entries the second takes some seconds of processor time"},
		report.Remedy{When: report.Now, What: "If it is full now, double the limit, provided that memory allows: about 400 bytes an entry.",
			Commands: []string{fmt.Sprintf("sysctl -w %s=$(( $(sysctl -n %s) * 2 ))", maxKey, maxKey)},
			Cost:     "262,144 entries more are 100 MiB",
			Risk:     "none to running connections; it buys time only. Do not flush the table and do not lower the limit: both hurt the connections that work"},
	)
}

// wasFullByCounter speaks for the past where no log does: the drop counter
// runs since the namespace was made.
func (f *facts) wasFullByCounter() []finding {
	n := refusedOf(&f.s.Counters)
	if f.full || n == 0 || f.s.Counters.Has&ct.CounterDrop == 0 {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Notice
	fd.Title = fmt.Sprintf("%s dropped by connection tracking since this namespace was made", plural(n, "packet was", "packets were"))
	fd.Figures = map[string]any{"drop": f.s.Counters.Drop, "early_drop": f.s.Counters.EarlyDrop, "insert_failed": f.s.Counters.InsertFailed}
	fd.Evidence = []string{
		fmt.Sprintf("Counters since then: drop %s, early_drop %s, insert_failed %s.", num(f.s.Counters.Drop), num(f.s.Counters.EarlyDrop), num(f.s.Counters.InsertFailed)),
		"A full table is the usual reason; failed memory allocations are another. When it was, the counters do not tell.",
	}
	if f.watched && f.refused == 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("None within the last %s.", span(f.interval)))
	}
	return []finding{fd}
}
