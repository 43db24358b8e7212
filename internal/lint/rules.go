package lint

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

var errYAML = errors.New("unreadable YAML")

const (
	prefix  = "net.netfilter.nf_conntrack_"
	classic = "net.ipv4.netfilter.ip_conntrack_"
	ownFile = "/etc/sysctl.d/90-conntrack.conf"
)

// one judges a line by itself.
func (l *linter) one(a *act) {
	switch a.verb {
	case set:
		l.setting(a)
	case param:
		l.param(a)
	case install:
		l.report(a, Warning, "install-hook", "an install hook replaces the loading of the module; a second one, such as firewalld's, clashes with it, and a mistake leaves the machine without the module",
			"# in /etc/modules-load.d/conntrack.conf: nf_conntrack")
	case load:
		if strings.HasPrefix(a.key, "ip_") && l.o.Version.AtLeast(2, 6) {
			l.report(a, Error, "dead-module", "ip_conntrack is the name of kernels up to 2.6.20; the module is nf_conntrack", strings.ReplaceAll(a.text, "ip_conntrack", "nf_conntrack"))
		}
	case overwrite:
		l.report(a, Error, "overwrites-file", fmt.Sprintf("this throws away everything else in %s", a.key), "put the settings into a file of their own, "+ownFile)
	case flush:
		l.flush(a)
	}
}

func (l *linter) flush(a *act) {
	sev, when := Warning, "each time it runs"
	if a.kind == kindCron {
		sev, when = Error, "again and again"
	}
	l.report(a, sev, "flushes-table", "this forgets every connection "+when+": translated ones break for good, and others wherever the rules refuse a packet in mid-stream",
		"ctwarden evict selects what may go; ctwarden plan makes room")
}

// setting judges an assignment: its name first, then its value.
func (l *linter) setting(a *act) {
	if templated(a.value) {
		return
	}
	key, ok := l.name(a)
	if !ok {
		return
	}
	l.value(a, key)
}

// templated values are only known when the file is used.
func templated(v string) bool { return strings.ContainsAny(v, "${}`%") || v == "" }

// name judges the name and returns the part after the prefix of a living one.
func (l *linter) name(a *act) (key string, ok bool) {
	switch {
	case a.key == "net.nf_conntrack_max":
		return "max", true
	case a.key == "net.ipv4.ip_conntrack_max":
		key = "max"
	case strings.HasPrefix(a.key, classic):
		key = strings.TrimPrefix(a.key, classic)
	case strings.HasPrefix(a.key, prefix):
		key = strings.TrimPrefix(a.key, prefix)
		return key, l.living(a, key)
	default:
		return "", false
	}
	if l.o.Version.AtLeast(4, 9) {
		fix := l.line(a, prefix+key, a.value)
		if key == "count" {
			fix = l.line(a, prefix+"max", a.value)
		}
		l.report(a, Error, "dead-name", fmt.Sprintf("%s does not exist since Linux 4.9; it is %s%s now", a.key, prefix, key), fix)
	}
	if key == "count" {
		l.report(a, Error, "read-only", "the count of entries cannot be set; nf_conntrack_max is meant", l.line(a, prefix+"max", a.value))
		return "", false
	}
	return key, true
}

// gone lists settings with the kernels that have them: from one, up to before
// the other.
var gone = map[string]struct {
	from, until [2]int
	say         string
}{
	"helper":                       {[2]int{3, 5}, [2]int{6, 1}, "helpers are assigned by rules since Linux 6.1: -j CT --helper, or nft ct helper"},
	"sctp_timeout_heartbeat_acked": {[2]int{4, 4}, [2]int{6, 1}, "removed in Linux 6.1"},
	"udplite_timeout":              {[2]int{2, 6}, [2]int{4, 12}, "UDP-Lite shares the timeouts of UDP since Linux 4.12"},
	"udplite_timeout_stream":       {[2]int{2, 6}, [2]int{4, 12}, "UDP-Lite shares the timeouts of UDP since Linux 4.12"},
	"gre_timeout":                  {[2]int{5, 0}, [2]int{}, "a setting since Linux 5.0 only"},
	"gre_timeout_stream":           {[2]int{5, 0}, [2]int{}, "a setting since Linux 5.0 only"},
	"tcp_ignore_invalid_rst":       {[2]int{5, 14}, [2]int{}, "exists since Linux 5.14"},
	"tcp_timeout_syn_sent2":        {[2]int{2, 6}, [2]int{4, 9}, "has no setting since Linux 4.9"},
	"default_on":                   {[2]int{4, 10}, [2]int{4, 14}, "existed in Linux 4.10 to 4.12 only"},
}

// living judges a name with today's prefix.
func (l *linter) living(a *act, key string) bool {
	v := l.o.Version
	if key == "count" {
		l.report(a, Error, "read-only", "the count of entries cannot be set; nf_conntrack_max is meant", l.line(a, prefix+"max", a.value))
		return false
	}
	g, has := gone[key]
	if strings.HasPrefix(key, "dccp_") {
		g, has = struct {
			from, until [2]int
			say         string
		}{[2]int{2, 6}, [2]int{6, 15}, "DCCP is not tracked since Linux 6.15"}, true
	}
	switch {
	case has && (!v.AtLeast(g.from[0], g.from[1]) || g.until != [2]int{} && v.AtLeast(g.until[0], g.until[1])):
		l.report(a, Error, "dead-name", a.key+" does not exist on this kernel: "+g.say, "")
		return false
	case !has && !slices.Contains(knownKeys, key):
		msg, fix := a.key+" is no setting of any kernel", ""
		if near := nearest(key); near != "" {
			msg += "; " + prefix + near + " may be meant"
			fix = l.line(a, prefix+near, a.value)
		}
		l.report(a, Error, "unknown-name", msg, fix)
		return false
	}
	return true
}

// knownKeys are the settings of kernels of today, without the prefix.
var knownKeys = func() []string {
	keys := []string{"max", "buckets", "expect_max", "checksum", "log_invalid", "acct", "timestamp", "events",
		"tcp_loose", "tcp_be_liberal", "tcp_max_retrans", "frag6_timeout", "frag6_low_thresh", "frag6_high_thresh"}
	for k := range ct.NumTimeouts {
		keys = append(keys, k.String())
	}
	return keys
}()

// line writes an assignment in the form of the line that it corrects.
func (l *linter) line(a *act, key, value string) string {
	switch a.kind {
	case kindShell, kindCron:
		return "sysctl -w " + key + "=" + value
	case kindYAML:
		return key + ": " + value
	}
	return key + " = " + value
}

// value judges what is assigned to a living setting.
func (l *linter) value(a *act, key string) {
	n, err := strconv.ParseInt(a.value, 0, 64)
	if err != nil {
		if strings.Contains(a.value, "#") {
			num, _, _ := strings.Cut(a.value, "#")
			l.report(a, Error, "trailing-comment", "a comment after the value becomes part of it, and the kernel refuses it", l.line(a, a.key, strings.TrimSpace(num)))
			return
		}
		l.report(a, Error, "not-a-number", fmt.Sprintf("%q is not a number", a.value), "")
		return
	}
	full := prefix + key
	switch {
	case key == "max":
		l.max(a, n)
	case key == "buckets" && n <= 0:
		l.report(a, Error, "out-of-range", "a table without buckets is refused", "")
	case strings.Contains(key, "timeout"):
		l.timeout(a, key, n)
	case key == "tcp_max_retrans" && n == 0:
		l.report(a, Error, "out-of-range", "0 gives every established connection a timeout of 300 s", l.line(a, full, "3"))
	case key == "tcp_max_retrans" && (n < 0 || n > 255):
		l.report(a, Error, "out-of-range", "the kernel takes 0 to 255", l.line(a, full, "3"))
	case key == "log_invalid" && n != 0:
		l.report(a, Warning, "unlimited-log", "one log line for every invalid packet, without any limit", l.line(a, full, "0"))
	case key == "tcp_loose" && n == 0:
		l.report(a, Warning, "loses-connections", "after a flush, failover or reboot every running connection is invalid; only SYNPROXY needs 0", l.line(a, full, "1"))
	case key == "tcp_be_liberal" && n == 1:
		l.report(a, Warning, "weakens-checks", "forged resets and data are accepted more easily", l.line(a, full, "0"))
	case (key == "tcp_loose" || key == "tcp_be_liberal" || key == "acct" || key == "timestamp" || key == "checksum") && n != 0 && n != 1:
		l.report(a, Error, "out-of-range", "it is 0 or 1", "")
	}
}

// bytesPerEntry prices a table: a slab object and a block of extensions.
const bytesPerEntry = 400

func (l *linter) max(a *act, n int64) {
	key := prefix + "max"
	switch {
	case n == 0:
		l.report(a, Error, "no-limit", "0 means no limit, so that a flood takes memory until the kernel kills processes; new kernels (7.3) refuse it", l.line(a, key, "262144"))
	case n < 0 || n > 1<<31-1:
		l.report(a, Error, "out-of-range", "the kernel takes 0 to 2147483647", l.line(a, key, "262144"))
	case n < 1024:
		l.report(a, Warning, "small-table", fmt.Sprintf("%d entries are soon full; a web page opens dozens", n), l.line(a, key, "65536"))
	case n > 8<<20:
		l.report(a, Warning, "much-memory", fmt.Sprintf("a full table takes up to %.1f GiB that cannot be reclaimed, in each network namespace", float64(n)*bytesPerEntry/(1<<30)), "")
	}
}

// floorSeconds are the least timeouts that break nothing ordinary, and why.
var floorSeconds = map[string]struct {
	s   int64
	why string
}{
	"tcp_timeout_established": {7200, "TCP first probes an idle connection after 7200 s: idle sessions (databases, SSH, MQTT) lose their entry"},
	"tcp_timeout_syn_sent":    {15, "slow handshakes are cut"},
	"tcp_timeout_syn_recv":    {15, "slow handshakes are cut"},
	"tcp_timeout_fin_wait":    {30, "half-closed connections are cut"},
	"tcp_timeout_close_wait":  {30, "half-closed connections are cut"},
	"tcp_timeout_time_wait":   {10, "retransmitted FINs find no entry"},
	"tcp_timeout_max_retrans": {60, "busy connections are cut during a short outage"},
	// Running transfers always carry it.
	"tcp_timeout_unacknowledged": {60, "busy connections are cut during a short outage"},
	"udp_timeout":                {10, "answers that take longer find no entry"},
	"udp_timeout_stream":         {30, "peers that are silent for longer lose their port behind NAT"},
	"generic_timeout":            {30, "tunnels (ESP, AH) are cut between keepalives"},
}

func (l *linter) timeout(a *act, key string, n int64) {
	def := ct.DefaultTimeouts(l.o.Version)
	std := ""
	if k, ok := ct.ParseTimeoutKey(key); ok {
		if s, ok := def.Get(k); ok {
			std = strconv.Itoa(int(s))
		}
	}
	floor := floorSeconds[key]
	switch {
	case n <= 0:
		l.report(a, Error, "out-of-range", fmt.Sprintf("%d ends each flow at its next packet", n), l.line(a, prefix+key, std))
	case n > 2147483:
		l.report(a, Error, "out-of-range", "kernels of 1000 Hz refuse more than 2147483 s", l.line(a, prefix+key, std))
	case n < floor.s:
		code := "short-timeout"
		if key == "tcp_timeout_established" {
			code = "breaks-keepalives"
		}
		l.report(a, Warning, code, fmt.Sprintf("%d s: %s", n, floor.why), l.line(a, prefix+key, strconv.FormatInt(max(floor.s, fixFloor(key)), 10)))
	}
}

// fixFloor is what to write instead where the bare floor has no margin.
func fixFloor(key string) int64 {
	if key == "tcp_timeout_established" {
		return 7440 // RFC 5382 REQ-5
	}
	return 0
}

// params of nf_conntrack, and until which kernel.
var params = map[string][2]int{"hashsize": {}, "expect_hashsize": {}, "acct": {}, "tstamp": {},
	"enable_hooks": {}, "nf_conntrack_helper": {6, 1}}

func (l *linter) param(a *act) {
	mod, name, _ := strings.Cut(a.key, ".")
	name, running := strings.CutSuffix(name, " at run time")
	if mod == "ip_conntrack" {
		l.report(a, Error, "dead-module", "ip_conntrack is the name of kernels up to 2.6.20; the module is nf_conntrack", strings.ReplaceAll(a.text, "ip_conntrack", "nf_conntrack"))
		return
	}
	until, ok := params[name]
	n, err := strconv.ParseInt(a.value, 0, 64)
	switch {
	case !ok && (name == "nf_conntrack_max" || name == "max"):
		l.report(a, Error, "no-such-parameter", "the module has no parameter for its limit: kernels from 3.11 on ignore it with a line in the log, older ones refuse to load the module", prefix+"max = "+a.value+"   # in "+ownFile)
	case !ok:
		l.report(a, Error, "no-such-parameter", "nf_conntrack has no parameter "+name, "")
	case until != [2]int{} && l.o.Version.AtLeast(until[0], until[1]):
		l.report(a, Error, "no-such-parameter", fmt.Sprintf("nf_conntrack has no parameter %s since Linux %d.%d", name, until[0], until[1]), "")
	case name != "hashsize" || templated(a.value):
	case err != nil || n <= 0:
		l.report(a, Error, "out-of-range", "the number of buckets is a positive number", "")
	case running && l.o.Version.AtLeast(4, 7):
		l.report(a, Note, "old-way", "since Linux 4.7 there is a setting for it, which sysctl.d can keep", "sysctl -w "+prefix+"buckets="+a.value)
	}
}

// nearest finds the known name that differs least, "" if none is near.
func nearest(key string) string {
	best, near := 4, ""
	for _, k := range knownKeys {
		if d := distance(key, k); d < best {
			best, near = d, k
		}
	}
	return near
}

// distance is Levenshtein's.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			prev, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, prev+cost)
		}
	}
	return row[len(b)]
}
