package diagnose

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/report"
)

// grown is the growth of a counter within the observation.
func (f *facts) grown(get func(*ct.Lookalikes) ct.Value) int64 {
	a, b := f.s.LookalikesBefore, f.s.Lookalikes
	if a == nil || b == nil || !get(a).Known || !get(b).Known {
		return 0
	}
	return max(get(b).N-get(a).N, 0)
}

func (f *facts) look() *ct.Lookalikes {
	if f.s.Lookalikes == nil {
		return &ct.Lookalikes{}
	}
	return f.s.Lookalikes
}

// lookAlike makes a finding about a neighbour: a cause of its own, which the
// connection table has nothing to do with.
func lookAlike(sev report.Severity, title, clause string) finding {
	fd := finding{cause: report.CauseLookAlike, confidence: report.High, clause: clause}
	fd.Severity, fd.Title = sev, title
	return fd
}

// cloudLimit: the provider tracks connections too, with a limit that no sysctl
// shows.
func cloudLimit(f *facts) []finding {
	var fds []finding
	for _, a := range f.look().Allowances {
		if a.Exceeded == 0 {
			continue
		}
		grown := int64(0)
		if b := f.s.LookalikesBefore; b != nil {
			for _, x := range b.Allowances {
				if x.Interface == a.Interface && a.Exceeded > x.Exceeded {
					grown = int64(a.Exceeded - x.Exceeded)
				}
			}
		}
		sev := report.Notice
		if grown > 0 {
			sev = report.Critical
		}
		fd := lookAlike(sev, fmt.Sprintf("The cloud drops packets of %s: its own connection limit is exceeded", a.Interface),
			fmt.Sprintf("the cloud provider's own connection limit for %s is exceeded, which no sysctl changes", a.Interface))
		fd.Figures = map[string]any{"interface": a.Interface, "exceeded": a.Exceeded, "grown": grown}
		fd.Evidence = []string{fmt.Sprintf("conntrack_allowance_exceeded of %s is %s, and grew by %s in %s.", a.Interface, num(a.Exceeded), num(grown), span(f.interval))}
		if a.Available.Known {
			fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s more connections are allowed.", num(a.Available.N)))
		}
		fd.Remedies = []report.Remedy{{When: report.ForGood,
			What: "Take a larger instance, or security groups that need no tracking: allow the port from and to everywhere (0.0.0.0/0 and ::/0) both ways, so that the provider does not track it.",
			Risk: "such a group no longer filters; the machine's own rules must"}}
		fds = append(fds, fd)
	}
	return fds
}

// neighbourOverflow: the table of hardware addresses is full.
func neighbourOverflow(f *facts) []finding {
	var fds []finding
	l := f.look()
	for _, t := range []struct {
		name, limitKey        string
		entries, limit, fulls ct.Value
		get                   func(*ct.Lookalikes) ct.Value
	}{
		{"IPv4 (ARP)", "net.ipv4.neigh.default.gc_thresh", l.ARPEntries, l.ARPLimit, l.ARPTableFulls, func(l *ct.Lookalikes) ct.Value { return l.ARPTableFulls }},
		{"IPv6 (NDP)", "net.ipv6.neigh.default.gc_thresh", l.NDPEntries, l.NDPLimit, l.NDPTableFulls, func(l *ct.Lookalikes) ct.Value { return l.NDPTableFulls }},
	} {
		grown := f.grown(t.get)
		near := t.entries.Known && t.limit.Or(0) > 0 && float64(t.entries.N) >= nearLimit*float64(t.limit.N)
		if grown == 0 && !near {
			continue
		}
		sev := report.Warning
		title := fmt.Sprintf("The %s neighbour table is nearly full: %s of %s", t.name, num(t.entries.Or(0)), num(t.limit.Or(0)))
		if grown > 0 {
			sev = report.Critical
			title = fmt.Sprintf("The %s neighbour table is full and refuses new hosts", t.name)
		}
		fd := lookAlike(sev, title, fmt.Sprintf("it is the %s neighbour table that is full, not connection tracking", t.name))
		fd.Figures = map[string]any{"entries": t.entries, "limit": t.limit, "refused": grown}
		fd.Evidence = []string{fmt.Sprintf("%s of %s entries; %s refused within %s. Packets to hosts on the local network fail, new ones first.", num(t.entries.Or(0)), num(t.limit.Or(0)), count(grown, "entry"), span(f.interval))}
		want := max(4*t.limit.Or(1024), 4096)
		fd.Remedies = []report.Remedy{{When: report.Now,
			What: "Raise the three thresholds together.",
			Commands: []string{
				fmt.Sprintf("sysctl -w %s3=%d", t.limitKey, want),
				fmt.Sprintf("sysctl -w %s2=%d", t.limitKey, want/2),
				fmt.Sprintf("sysctl -w %s1=%d", t.limitKey, want/4)},
			Cost: byteSize(want*512) + " of kernel memory at most",
			Risk: "none; look also for a scan of your own networks, which is what mostly fills it"}}
		fds = append(fds, fd)
	}
	if len(fds) == 0 {
		if n := f.neighbourLines(klog.NeighbourOverflow); n > 0 {
			fd := finding{}
			fd.Severity, fd.Title = report.Notice, "The neighbour table has overflowed: the log says so"
			fd.Evidence = []string{fmt.Sprintf("%s of it. This is not connection tracking: it is the table of hardware addresses.", count(n, "line"))}
			return []finding{fd}
		}
	}
	return fds
}

// synBacklogOverflow: listening sockets refuse what the table let in.
func synBacklogOverflow(f *facts) []finding {
	overflow := f.grown(func(l *ct.Lookalikes) ct.Value { return l.ListenOverflows })
	queue := f.grown(func(l *ct.Lookalikes) ct.Value { return l.ReqQFullDrops })
	cookies := f.grown(func(l *ct.Lookalikes) ct.Value { return l.ReqQFullCookies })
	if overflow+queue+cookies == 0 {
		if n := f.neighbourLines(klog.SynFlood); n > 0 {
			fd := finding{}
			fd.Severity, fd.Title = report.Notice, "A listening socket has met more SYNs than it can queue: the log says so"
			fd.Evidence = []string{fmt.Sprintf("%s. Each listening socket prints it once in its life, so its absence proves nothing.", count(n, "line"))}
			return []finding{fd}
		}
		return nil
	}
	fd := lookAlike(report.Warning, fmt.Sprintf("Listening sockets overflow: %s dropped in %s", plural(overflow+queue, "connection was", "connections were"), span(f.interval)),
		"a listening program does not accept connections fast enough: it is its queue that is full")
	if overflow+queue == 0 {
		fd.Severity = report.Notice
		fd.cause = ""
		fd.Title = fmt.Sprintf("The kernel answers %s with SYN cookies in %s", count(cookies, "SYN"), span(f.interval))
	}
	fd.Figures = map[string]any{"listen_overflows": overflow, "request_queue_drops": queue, "cookies": cookies, "somaxconn": f.look().SomaxConn}
	fd.Evidence = []string{
		fmt.Sprintf("Accept queues overflowed %s, request queues %s; %s were answered with cookies.", count(overflow, "time"), count(queue, "time"), count(cookies, "SYN")),
		"Such a connection has its entry in the table; it is the program behind the port that does not take it.",
	}
	if c := f.look().Syncookies; c.Known && c.N == 0 {
		fd.Remedies = append(fd.Remedies, report.Remedy{When: report.Now, What: "Switch SYN cookies on.",
			Commands: []string{f.within("sysctl -w net.ipv4.tcp_syncookies=1")}, Risk: "none", Undo: []string{f.within("sysctl -w net.ipv4.tcp_syncookies=0")}})
	}
	fd.Remedies = append(fd.Remedies, report.Remedy{When: report.Now,
		What:     "Find the socket: a Recv-Q at or above Send-Q is a full accept queue.",
		Commands: []string{f.within("ss -Hltn | awk '$2 >= $3 && $3 > 0'")}, Risk: "none: it only reads"})
	return []finding{fd}
}

// socketMemory: TCP has no memory left for its sockets.
func socketMemory(f *facts) []finding {
	l := f.look()
	aborts := f.grown(func(l *ct.Lookalikes) ct.Value { return l.AbortOnMemory })
	near := l.TCPMemPages.Known && l.TCPMemLimitPages.Or(0) > 0 && float64(l.TCPMemPages.N) >= nearLimit*float64(l.TCPMemLimitPages.N)
	orphans := l.TCPOrphans.Known && l.TCPMaxOrphans.Or(0) > 0 && float64(l.TCPOrphans.N) >= nearLimit*float64(l.TCPMaxOrphans.N)
	logged := f.neighbourLines(klog.SocketMemory) + f.neighbourLines(klog.OrphanedSockets)
	if aborts == 0 && !near && !orphans {
		if logged == 0 {
			return nil
		}
		fd := finding{}
		fd.Severity, fd.Title = report.Notice, "TCP has run out of memory for sockets before: the log says so"
		fd.Evidence = []string{fmt.Sprintf("%s of it. This is not connection tracking.", count(logged, "line"))}
		return []finding{fd}
	}
	fd := lookAlike(report.Warning, "TCP runs out of memory for its sockets", "it is TCP's socket memory that runs out, not connection tracking")
	fd.Figures = map[string]any{"tcp_mem_pages": l.TCPMemPages, "limit_pages": l.TCPMemLimitPages, "orphans": l.TCPOrphans, "aborts": aborts}
	fd.Evidence = []string{
		fmt.Sprintf("Sockets hold %s of %s pages; %s of %s orphans; %s for lack of memory in %s.", num(l.TCPMemPages.Or(0)), num(l.TCPMemLimitPages.Or(0)), num(l.TCPOrphans.Or(0)), num(l.TCPMaxOrphans.Or(0)), plural(aborts, "connection was ended", "connections were ended"), span(f.interval)),
	}
	fd.Remedies = []report.Remedy{{When: report.Now, What: "Find the sockets that hold it.",
		Commands: []string{f.within("ss -Htnm | grep -o 'skmem:([^)]*)' | sort | uniq -c | sort -rn | head")}, Risk: "none: it only reads"},
		{When: report.ForGood, What: "Raise the third value of net.ipv4.tcp_mem (pages), if the machine has the memory.", Risk: "this memory cannot be swapped"}}
	return []finding{fd}
}

// portExhaustion: a machine, or a masquerading gateway, has no source port left
// towards one destination.
func portExhaustion(f *facts) []finding {
	if fd, ok := f.natPortsUsed(); ok {
		return []finding{fd}
	}
	l := f.look()
	span0 := l.PortLast.Or(0) - l.PortFirst.Or(0) + 1
	dst, ok := f.heaviest(f.c.Destinations)
	if !ok || span0 <= 1 || !f.composed {
		return nil
	}
	src, okSrc := f.heaviest(f.c.Sources)
	used := f.estimate(dst.share * min(dst.MainPortShare, 1))
	if !okSrc || !f.isSelf(src.addr()) || src.share < dst.share*nearLimit || float64(used) < nearLimit*float64(span0) {
		return nil
	}
	fd := lookAlike(report.Warning, fmt.Sprintf("This machine runs out of local ports towards %s port %d", dst.addr(), dst.MainPort),
		fmt.Sprintf("this machine has used %s of its %s local ports towards %s port %d", num(used), num(span0), dst.addr(), dst.MainPort))
	fd.Figures = map[string]any{"used": used, "ports": span0, "destination": dst.addr().String(), "port": dst.MainPort}
	fd.Evidence = []string{fmt.Sprintf("Local ports %d to %d; programs see \"cannot assign requested address\" (EADDRNOTAVAIL).", l.PortFirst.N, l.PortLast.N)}
	fd.Remedies = []report.Remedy{{When: report.Now, What: "Widen the range of local ports.",
		Commands: []string{f.within("sysctl -w net.ipv4.ip_local_port_range='10240 65535'")},
		Risk:     "a program that listens inside the new range may lose its port to an outgoing connection: reserve it in net.ipv4.ip_local_reserved_ports",
		Undo:     []string{f.within(fmt.Sprintf("sysctl -w net.ipv4.ip_local_port_range='%d %d'", l.PortFirst.N, l.PortLast.N))}},
		{When: report.ForGood, What: "Keep connections open and use them again (pools, keep-alive), or use more source addresses.", Risk: "none"}}
	return []finding{fd}
}

// natPortsUsed looks at a gateway: all flows towards one address and port share
// the ports of the address they are masqueraded to.
func (f *facts) natPortsUsed() (finding, bool) {
	dst, ok := f.heaviest(f.c.Destinations)
	if !ok || f.s.Tracking.NAT != ct.Yes || f.isSelf(dst.addr()) || !f.composed {
		return finding{}, false
	}
	natted := f.share(func(k ct.ClassKey) bool { return k.NAT })
	used := f.estimate(min(dst.share*dst.MainPortShare, natted))
	collisions := uint64(0)
	if f.watched {
		collisions = uint64(f.s.Rates.Counters.Found)
	}
	if float64(used) < nearLimit*natPorts {
		return finding{}, false
	}
	fd := lookAlike(report.Warning, fmt.Sprintf("Masquerading runs out of ports towards %s port %d", dst.addr(), dst.MainPort),
		fmt.Sprintf("about %s translated connections to %s port %d share the %s ports of one outside address", num(used), dst.addr(), dst.MainPort, num(natPorts)))
	fd.Figures = map[string]any{"used": used, "ports": natPorts, "destination": dst.addr().String(), "port": dst.MainPort, "collisions": collisions}
	fd.Evidence = []string{fmt.Sprintf("The search for a free port met %s in %s (counter found).", plural(collisions, "taken one", "taken ones"), span(f.interval)),
		"A new connection that finds no free port is dropped and counted in drop, although the table has room."}
	fd.Remedies = []report.Remedy{{When: report.ForGood,
		What: "Translate to several outside addresses (snat to a range), or spread the destination over several addresses.",
		Risk: "servers that tie a session to an address need \"persistent\""}}
	return fd, true
}

// expectationTableFull: helpers (FTP, SIP) expect more connections than allowed.
func expectationTableFull(f *facts) []finding {
	l := f.s.Limits
	near := l.ExpectCount.Known && l.ExpectMax.Or(0) > 0 && float64(l.ExpectCount.N) >= nearLimit*float64(l.ExpectMax.N)
	lines := uint64(0)
	for i := range f.episodes() {
		if e := &f.in.Log.Episodes[i]; e.Kind == klog.ExpectTableFull && f.here(e) {
			lines += e.Lines
		}
	}
	if !near && lines == 0 {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Notice
	if near {
		fd = lookAlike(report.Warning, "", "it is the table of expectations that is full, not that of connections")
	}
	fd.Title = "The table of expected connections is full"
	fd.Figures = map[string]any{"expectations": l.ExpectCount, "expect_max": l.ExpectMax, "lines": lines}
	fd.Evidence = []string{"Expectations are what helpers make for the data connections of FTP, SIP and the like; only those fail."}
	if near {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s of %s are in use.", num(l.ExpectCount.N), num(l.ExpectMax.N)))
	}
	if lines > 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("The log holds %s of \"expectation table full\".", count(lines, "line")))
	}
	if l.ExpectMax.Known {
		fd.Remedies = []report.Remedy{{When: report.Now, What: "Raise its limit" + f.onHost() + ".",
			Commands: []string{fmt.Sprintf("sysctl -w %s=%d", f.key("expect_max"), 4*l.ExpectMax.N)},
			Cost:     "a few hundred bytes each",
			Risk:     "none; find out first who opens so many: it may be an attack on the helper",
			Undo:     []string{fmt.Sprintf("sysctl -w %s=%d", f.key("expect_max"), l.ExpectMax.N)}}}
	}
	return []finding{fd}
}
