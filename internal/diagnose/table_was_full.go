package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/report"
)

// tableWasFull: the log, or the drop counter, shows refusals in the past.
func tableWasFull(f *facts) []finding {
	type place struct {
		host  string
		netns uint64
	}
	groups := make(map[place][]*klog.Episode)
	var order []place
	for i := range f.episodes() {
		e := &f.in.Log.Episodes[i]
		if e.Kind != klog.TableFull {
			continue
		}
		at := place{e.Host, e.NetnsInode}
		if f.here(e) && f.looked {
			at = place{f.s.Host, f.s.Netns.Inode}
		}
		if groups[at] == nil {
			order = append(order, at)
		}
		groups[at] = append(groups[at], e)
	}
	var out []finding
	for _, at := range order {
		out = append(out, f.wasFullIn(groups[at]))
	}
	if len(out) == 0 {
		return f.wasFullByCounter()
	}
	return out
}

// maxEpisodes is how many episodes are told one by one.
const maxEpisodes = 5

func (f *facts) wasFullIn(eps []*klog.Episode) finding {
	last := eps[len(eps)-1]
	fd := finding{}
	fd.Severity = report.Notice
	if !last.TimeKnown || f.in.Now.Sub(last.End) < recentEpisode {
		fd.Severity = report.Warning
	}
	fd.Title = f.whose(last)
	fd.Figures = map[string]any{}
	if last.NetnsInode != 0 {
		fd.Figures["netns_inode"] = last.NetnsInode
	}
	if last.Host != "" {
		fd.Figures["host"] = last.Host
	}
	var least, most uint64
	open := false
	for i, e := range eps {
		least, most, open = least+e.RefusedMin, most+e.RefusedMax, open || e.OpenEnded
		if i >= len(eps)-maxEpisodes {
			fd.Evidence = append(fd.Evidence, f.episode(e))
		}
	}
	if n := len(eps) - maxEpisodes; n > 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s before that.", count(n, "episode")))
	}
	fd.Figures["episodes"], fd.Figures["refused_min"], fd.Figures["refused_max"] = len(eps), least, most
	fd.Figures["open_ended"] = open
	f.boundsExplained(&fd, last)
	if !f.looked {
		f.meaning(&fd, last)
	}
	if !f.here(last) {
		fd.Remedies = append(fd.Remedies, f.lookThere(last))
	}
	return fd
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
	s := "Once, at a time that the log does not tell"
	if e.TimeKnown {
		s = "Once, " + f.episodeTime(e)
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
	if start.Equal(end) {
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
	case !ok && f.in.Namespaces != nil && f.looked:
		return s + ", which is gone"
	case !ok:
		return s
	}
	return n.Label() + ", " + s
}

// find returns the namespace with an inode.
func (f *facts) find(inode uint64) (ct.Namespace, bool) {
	for _, n := range f.in.Namespaces {
		if n.Inode == inode {
			return n, true
		}
	}
	return ct.Namespace{}, false
}

func (f *facts) lookThere(e *klog.Episode) report.Remedy {
	r := report.Remedy{When: report.Now, What: "Look into that namespace.", Risk: "none: it only reads"}
	n, ok := f.find(e.NetnsInode)
	switch {
	case f.foreign(e):
		r.What, r.Commands = "Look at that host.", []string{"ssh " + shellQuote(e.Host) + " ctwarden check"}
	case e.NetnsInode == 0:
		r.What, r.Commands = "Look at the host's own table.", []string{"ctwarden check --netns 1"}
	case ok && n.Pid != 0:
		r.Commands = []string{fmt.Sprintf("ctwarden check --netns %d", n.Pid)}
	case ok && n.Path != "":
		r.Commands = []string{"ctwarden check --netns " + shellQuote(n.Path)}
	default:
		r.What = "Find out whose that namespace is, while it lives: the second column is a process in it."
		r.Commands = []string{fmt.Sprintf("lsns -t net -o NS,PID,COMMAND | grep %d", e.NetnsInode)}
	}
	return r
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
