package diagnose

import (
	"fmt"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// key returns the live name of a setting, whatever the kernel's era calls it.
func (f *facts) key(name string) string {
	const modern = "net.netfilter.nf_conntrack_"
	if _, ok := f.s.Sysctls[modern+name]; ok || len(f.s.Sysctls) == 0 {
		return modern + name
	}
	for _, classic := range []string{"net.ipv4.netfilter.ip_conntrack_", "net.ipv4.ip_conntrack_"} {
		if _, ok := f.s.Sysctls[classic+name]; ok {
			return classic + name
		}
	}
	return modern + name
}

// within prefixes a command so that it runs in the namespace that was read.
func (f *facts) within(command string) string {
	n := f.s.Netns.Name
	switch {
	case n == "" || f.s.Netns.Initial == ct.Yes:
		return command
	case strings.Contains(n, "/"):
		return "nsenter --net=" + shellQuote(n) + " " + command
	case strings.Trim(n, "0123456789") == "":
		return "nsenter --net=/proc/" + n + "/ns/net " + command
	}
	return "ip netns exec " + shellQuote(n) + " " + command
}

// place makes the commands of a remedy run in the namespace that was read.
// Those that write settings of the whole host say so themselves.
func (f *facts) place(r *report.Remedy) {
	for _, lines := range [][]string{r.Commands, r.Undo} {
		for i, c := range lines {
			for _, tool := range []string{"nft ", "conntrack ", "tcpdump ", "ss "} {
				if strings.HasPrefix(c, tool) {
					lines[i] = f.within(c)
				}
			}
		}
	}
}

// shellQuote quotes a word for a POSIX shell where it needs to.
func shellQuote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// raiseMax is the act without victims: more room, within memory.
func (f *facts) raiseMax() []report.Remedy {
	sz, ok := f.wanted()
	if !ok {
		return nil
	}
	l := f.s.Limits
	r := report.Remedy{
		When: report.Now,
		What: fmt.Sprintf("Raise the limit from %s to %s%s.", num(l.Max.N), num(sz.max), f.onHost()),
		Cost: fmt.Sprintf("at most %s of kernel memory for each namespace that fills up (%s an entry); %s",
			byteSize(f.tableBytes(sz.max, sz.buckets)), fmt.Sprintf("%d bytes", f.entryBytes()), f.memoryText()),
		Risk: "none to running connections. It buys time only, if the table fills faster than it empties",
	}
	if f.bucketsDefeat() {
		r.Risk = "none to running connections. With about as many entries as buckets the kernel finds something to evict again"
	}
	if sz.buckets != l.Buckets.Or(0) {
		r.Commands = append(r.Commands, f.setBuckets(sz.buckets))
		r.Risk += fmt.Sprintf(". Resizing the buckets stalls new connections for about %s, once", stall(f.peak))
	}
	r.Commands = append(r.Commands, fmt.Sprintf("sysctl -w %s=%d", f.key("max"), sz.max))
	return []report.Remedy{r, f.keepMax(sz)}
}

// stall is how long a resize holds up inserts: about 0.5 µs an entry.
func stall(entries int64) string {
	return fmt.Sprintf("%d ms", max(entries/2000, 1))
}

func (f *facts) onHost() string {
	if f.s.Limits.MaxWritable == ct.No || f.s.Netns.Initial == ct.No {
		return ", on the host: it is one number for all its namespaces and cannot be written in this one"
	}
	return ""
}

func (f *facts) memoryText() string {
	if a := f.s.Memory.AvailableBytes; a.Known {
		return byteSize(a.N) + " are available"
	}
	return "check MemAvailable in /proc/meminfo first"
}

// setBuckets is the live way to change the buckets: a sysctl from 4.7 on, the
// module parameter before.
func (f *facts) setBuckets(n int64) string {
	if v := f.s.Version; !v.IsZero() && !v.AtLeast(4, 7) {
		return fmt.Sprintf("echo %d > /sys/module/nf_conntrack/parameters/hashsize", n)
	}
	return fmt.Sprintf("sysctl -w %s=%d", f.key("buckets"), n)
}

// keepMax makes the size survive a reboot. The keys exist only once the module
// is loaded, and systemd-sysctl does not wait for that.
func (f *facts) keepMax(sz size) report.Remedy {
	const file = "/etc/sysctl.d/90-conntrack-size.conf"
	old := !f.s.Version.IsZero() && !f.s.Version.AtLeast(4, 7)
	r := report.Remedy{
		When: report.ForGood,
		What: "Keep the new limit over a reboot" + f.onHost() + ".",
		Risk: "another owner may overwrite it: kube-proxy, firewalld, ufw, TuneD. After the next boot compare: sysctl " + f.key("max"),
		Undo: []string{"rm " + file},
	}
	if old {
		r.Commands = append(r.Commands, fmt.Sprintf("echo 'options nf_conntrack hashsize=%d' > /etc/modprobe.d/conntrack-size.conf", sz.buckets))
		r.Undo[0] += " /etc/modprobe.d/conntrack-size.conf"
	} else {
		r.Commands = append(r.Commands, fmt.Sprintf("echo '%s = %d' > %s", f.key("buckets"), sz.buckets, file))
	}
	redirect := ">>"
	if old {
		redirect = ">"
	}
	r.Commands = append(r.Commands, fmt.Sprintf("echo '%s = %d' %s %s", f.key("max"), sz.max, redirect, file))
	if f.s.Tracking.BuiltIn != ct.Yes {
		r.Commands = append(r.Commands, "echo nf_conntrack > /etc/modules-load.d/conntrack.conf")
		r.Undo[0] += " /etc/modules-load.d/conntrack.conf"
		r.Cost = "loads the module at boot, so that the keys exist when sysctl.d is applied"
	}
	return r
}

// floor is the least that a timeout may be set to. Where addresses are or may
// be translated an entry that is gone cuts its connection, so there the floors
// are those for NATs: RFC 5382 (established 2 h 4 min, transitory 4 min), RFC
// 4787 (UDP 2 min), RFC 5508 (ICMP 1 min). Elsewhere a lost SYN must have time
// for its retransmissions.
func (f *facts) floor(k ct.TimeoutKey) int32 {
	const establishedFloor, handshakeFloor, otherFloor = 7440, 15, 10
	switch {
	case k == ct.TimeoutTCPEstablished:
		return establishedFloor
	case f.s.Tracking.NAT == ct.No && (k == ct.TimeoutTCPSynSent || k == ct.TimeoutTCPSynRecv):
		return handshakeFloor
	case f.s.Tracking.NAT == ct.No:
		return otherFloor
	case k == ct.TimeoutUDP || k == ct.TimeoutUDPStream:
		return 120
	case k == ct.TimeoutICMP || k == ct.TimeoutICMPv6:
		return 60
	}
	return 240
}

// setTimeout proposes a shorter timeout, if it is shorter than today's and not
// below its floor.
func (f *facts) setTimeout(k ct.TimeoutKey, seconds int32, risk string) []report.Remedy {
	today, ok := f.s.Timeouts.Get(k)
	if !ok || today <= seconds || seconds < f.floor(k) {
		return nil
	}
	name := f.key(k.String())
	return []report.Remedy{{
		When:     report.Now,
		What:     fmt.Sprintf("Shorten %s from %d to %d s.", name, today, seconds),
		Commands: []string{f.within(fmt.Sprintf("sysctl -w %s=%d", name, seconds))},
		Cost:     "nothing; but it reaches new entries only: one that exists keeps its timeout until its next packet",
		Risk:     risk,
		Undo:     []string{f.within(fmt.Sprintf("sysctl -w %s=%d", name, today))},
	}}
}

// keepTimeout makes a timeout survive a reboot.
func (f *facts) keepTimeout(k ct.TimeoutKey, seconds int32, risk string) []report.Remedy {
	today, ok := f.s.Timeouts.Get(k)
	if !ok || today <= seconds || seconds < f.floor(k) || f.s.Netns.Initial == ct.No {
		return nil
	}
	file := "/etc/sysctl.d/90-conntrack-" + strings.ReplaceAll(strings.TrimPrefix(k.String(), "tcp_"), "_", "-") + ".conf"
	return []report.Remedy{{
		When:     report.ForGood,
		What:     fmt.Sprintf("Keep %s at %d s over a reboot, once a few days have shown that it helps.", f.key(k.String()), seconds),
		Commands: []string{fmt.Sprintf("echo '%s = %d' > %s", f.key(k.String()), seconds, file)},
		Risk:     risk,
		Undo:     []string{"rm " + file},
	}}
}

// room is what comes first for any cause: keep what works, and raise the limit.
func (f *facts) room() []report.Remedy {
	var out []report.Remedy
	if f.full {
		out = append(out, admin())
	}
	if f.bucketsDefeat() {
		out = append(out, f.fewerEmptyBuckets()...)
	} else {
		out = append(out, f.raiseMax()...)
	}
	if f.s.Netns.Initial != ct.No {
		out = append(out, planned())
	}
	return out
}

// planned hands the sizes and timeouts over to the commands that compute and
// try them.
func planned() report.Remedy {
	return report.Remedy{
		When:     report.ForGood,
		What:     "Or leave the settings to ctwarden: plan computes limit, buckets and timeouts from the load seen here, and apply tries them and takes them back by itself unless you confirm.",
		Commands: []string{"ctwarden plan", "ctwarden apply", "ctwarden confirm"},
		Risk:     "plan states that of each step",
	}
}

// ctwarden is a command of this program for the namespace that was read.
func (f *facts) ctwarden(command string) string {
	if n := f.s.Netns; n.Name != "" && n.Initial != ct.Yes {
		command += " --netns " + shellQuote(n.Name)
	}
	return "ctwarden " + command
}

// admin says how not to be locked out, for a table that refuses newcomers.
func admin() report.Remedy {
	return report.Remedy{
		When: report.Now,
		What: "Keep the shell you have: connections that exist go on, a new SSH login may be refused.",
		Risk: "none",
	}
}
