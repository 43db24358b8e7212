package explain

import (
	"fmt"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// timeoutUse says when a timeout applies, for those whose name needs it.
var timeoutUse = map[ct.TimeoutKey]string{
	ct.TimeoutTCPSynSent:        "a SYN without an answer",
	ct.TimeoutTCPSynRecv:        "a SYN that was answered, before the handshake is complete",
	ct.TimeoutTCPEstablished:    "an established TCP connection",
	ct.TimeoutTCPFinWait:        "a TCP connection of which one side has closed",
	ct.TimeoutTCPCloseWait:      "a TCP connection whose first FIN was acknowledged",
	ct.TimeoutTCPLastAck:        "a TCP connection whose second FIN waits for its acknowledgement",
	ct.TimeoutTCPTimeWait:       "a TCP connection that both sides have closed",
	ct.TimeoutTCPClose:          "a TCP connection after a reset",
	ct.TimeoutTCPMaxRetrans:     "a TCP connection after nf_conntrack_tcp_max_retrans identical acknowledgements, and one whose window is zero",
	ct.TimeoutTCPUnacknowledged: "a TCP connection with data that nobody has acknowledged, and one picked up in the middle",
	ct.TimeoutUDP:               "UDP that went one way, or both ways only just now",
	ct.TimeoutUDPStream:         "UDP that goes both ways",
	ct.TimeoutICMP:              "a ping",
	ct.TimeoutICMPv6:            "a ping over IPv6",
	ct.TimeoutGeneric:           "any protocol that has no tracker of its own",
	ct.TimeoutGRE:               "GRE that went one way",
	ct.TimeoutGREStream:         "GRE that goes both ways",
	ct.TimeoutSCTPEstablished:   "an established SCTP association",
}

// settings are the limits and knobs, and every timeout.
func settings() []entry {
	list := append([]entry{}, knobs...)
	for k := range ct.NumTimeouts {
		list = append(list, timeoutEntry(k))
	}
	return list
}

func timeoutEntry(k ct.TimeoutKey) entry {
	use := timeoutUse[k]
	if use == "" {
		use = "an entry in the state of that name"
	}
	e := entry{
		id: "timeout-" + strings.ReplaceAll(k.String(), "_", "-"), names: []string{"nf_conntrack_" + k.String(), k.String()},
		answer: "How many seconds " + use + " stays in the table after its last packet.",
		means: append(defaultOf(k),
			"Each network namespace has its own (since 3.6); a new namespace starts from the compiled-in default, not from its parent's value."),
		not: []string{
			"A new value does not reach the entries that exist: each takes it over with its next packet, and an idle one keeps what it has.",
		},
		do: []string{"ctwarden plan chooses timeouts with their risk; ctwarden evict acts on entries that exist."},
	}
	switch k {
	case ct.TimeoutTCPEstablished:
		e.means = append(e.means, "Below 7200 s idle connections break: that is when TCP keepalive sends its first probe by default, and many programs send none. 7440 s is the floor that RFC 5382 gives to gateways.")
	case ct.TimeoutTCPUnacknowledged, ct.TimeoutTCPMaxRetrans:
		e.means = append(e.means, "It caps the timeout of running transfers: low values cut the busiest connections, not the idle ones.")
	case ct.TimeoutGRE, ct.TimeoutGREStream:
		e.not = []string{"A new value never reaches entries that exist: it is copied into the entry when that is made."}
	case ct.TimeoutUDPStream:
		e.means = append(e.means, "[5.0-] It applies only from two seconds after the first packet on; until then it is nf_conntrack_udp_timeout.")
	}
	return e
}

// defaultOf lists the defaults of a timeout over the versions of the kernel.
func defaultOf(k ct.TimeoutKey) (out []string) {
	versions := []string{"2.6", "4.4", "4.12", "5.0", "6.1", "6.15"}
	ends := []string{"4.3", "4.11", "4.20", "6.0", "6.14", ""}
	since, last := "", ""
	flush := func(until string) {
		if last != "" {
			span := "[" + since + "-" + until + "] "
			if since == "" && until == "" {
				span = ""
			}
			out = append(out, span+last)
		}
	}
	for i, v := range versions {
		t := ct.DefaultTimeouts(version(v + ".0"))
		text := "This kernel has no such setting."
		if s, ok := t.Get(k); ok {
			text = fmt.Sprintf("The default is %d s.", s)
		}
		if (k == ct.TimeoutGRE || k == ct.TimeoutGREStream) && i < 3 {
			text = "This kernel has no such setting; the value is compiled in."
		}
		if text == last {
			continue
		}
		if i > 0 {
			flush(ends[i-1])
			since = v
		}
		last = text
	}
	flush("")
	return out
}

var knobs = []entry{
	{
		id: "max", names: []string{"nf_conntrack_max", "max", "node_nf_conntrack_entries_limit", "conntrack-max-per-core"},
		answer: "How many entries each network namespace may hold: one number for the host, applied to every namespace by itself.",
		means: []string{
			"At this count a new connection is admitted only if the kernel finds an entry to evict; 0 means no limit at all.",
			"An entry takes 256 to 400 bytes of memory that the kernel cannot give back under pressure.",
			"[5.15-] The default is 262144 on 64-bit machines with more than 4 GiB, 65536 above 1 GiB.",
			"[4.1-5.14] The default is 262144 with more than 4 GiB, 65536 above 1 GiB.",
			"It can be written in the initial namespace only. A hashsize given when the module is loaded sets it to eight times that.",
		},
		not: []string{
			"It is not a limit of memory, and not a limit for the host as a whole.",
			"Raising it does nothing for long against a table that is filled faster than it empties.",
		},
		do: []string{
			"Raise it together with the buckets, within about a tenth of the memory: ctwarden plan.",
			"Never set it below count × 1.2: nothing is purged, and new connections fail.",
		},
	},
	{
		id: "count", names: []string{"nf_conntrack_count", "count", "node_nf_conntrack_entries"},
		answer: "How many entries the table of this namespace holds now; it is read-only.",
		means: []string{
			"Entries in flight count too, and so do dead ones whose event nobody has read.",
			"[4.9-] An expired entry counts until something walks over it: a look-up, a dump, the garbage collector.",
		},
		not: []string{"It is not a setting: writing it into a sysctl file, as some guides do, has no effect but an error at boot. They mean nf_conntrack_max."},
		do:  []string{"Compare it with nf_conntrack_max in the same namespace."},
	},
	{
		id: "buckets", names: []string{"nf_conntrack_buckets", "hashsize", "buckets", "nf_conntrack.hashsize"},
		answer: "The number of chains in the hash table of connection tracking, one table for the host.",
		means: []string{
			"Too few make long chains. Too many make the kernel refuse: at the limit it looks for a victim in eight buckets only, and finds none where most are empty.",
			"[4.7-] It can be written at any time in the initial namespace, and is rounded up to a multiple of 512.",
			"[-4.6] It can only be written through /sys/module/nf_conntrack/parameters/hashsize.",
			"[5.15-6.0] Chains longer than a random 8 to 31 drop packets: stay near one bucket an entry.",
			"[6.1-] Chains longer than a random 50 to 79 drop packets.",
		},
		not: []string{
			"Writing it does not change nf_conntrack_max; only hashsize given when the module is loaded does, to eight times the value.",
			"options nf_conntrack nf_conntrack_max= in modprobe.d is no such parameter; hashsize= is the only size there.",
		},
		do: []string{"Resize once, in a quiet hour: all insertions stall for about half a microsecond an entry. ctwarden plan chooses the number for this kernel."},
	},
	{
		id: "expect-max", names: []string{"nf_conntrack_expect_max", "expect_hashsize"},
		answer: "How many connections helpers (FTP, SIP, …) may announce at a time in each namespace.",
		not:    []string{"It does not limit connections."},
	},
	{
		id: "acct", names: []string{"nf_conntrack_acct", "acct"},
		answer: "Whether entries count packets and bytes; it reaches only entries made afterwards.",
		means:  []string{"It costs memory: 128 bytes for an entry that had no extension before."},
		not:    []string{"It does not change what is tracked."},
	},
	{
		id: "timestamp", names: []string{"nf_conntrack_timestamp", "tstamp"},
		answer: "Whether entries keep the time of their birth; it reaches only entries made afterwards, and costs memory.",
	},
	{
		id: "events", names: []string{"nf_conntrack_events"},
		answer: "Whether entries report their birth, changes and death to listeners.",
		means: []string{
			"[5.18-] 2, the default, does so only for entries made while somebody listens; 1 always; 0 never.",
			"[-5.17] 1, the default, does so always; 0 never.",
			"An entry made before the listener came never reports anything, not even its end.",
		},
	},
	{
		id: "checksum", names: []string{"nf_conntrack_checksum"},
		answer: "Whether packets with a wrong checksum are INVALID; 1 is the default.",
	},
	{
		id: "log-invalid", names: []string{"nf_conntrack_log_invalid"},
		answer: "Whether INVALID packets are logged: 0 none, a protocol's number, or 255 for all.",
		means:  []string{"These lines are not rate limited."},
		do:     []string{"Keep it at 0 outside of a search for an error."},
	},
	{
		id: "helper", names: []string{"nf_conntrack_helper"},
		answer: "[-6.0] Whether helpers attach to connections by port alone.|[6.1-] Nothing: the setting is gone since 6.1.",
		not:    []string{"[6.1-] Writing it does not bring automatic helpers back; rules must attach them."},
	},
	{
		id: "tcp-loose", names: []string{"nf_conntrack_tcp_loose", "tcp_loose"},
		answer: "Whether a TCP connection may be picked up in its middle: 1, the default, yes; 0 only a SYN opens an entry.",
		means: []string{
			"With 0, every running connection whose entry is lost (flush, reboot, failover) is INVALID from then on.",
			"A connection that was picked up has 300 s until the other side answers, and its windows are not checked.",
			"SYNPROXY needs 0.",
		},
		not: []string{"With 1 a lost entry is still not free: translated connections do not find their way back, and rules may drop what is not a SYN."},
	},
	{
		id: "tcp-be-liberal", names: []string{"nf_conntrack_tcp_be_liberal", "tcp_be_liberal"},
		answer: "Whether packets outside the window are accepted: 0, the default, they are INVALID or ignored.",
		means:  []string{"With 1 forged resets and data are accepted more easily."},
	},
	{
		id: "tcp-max-retrans", names: []string{"nf_conntrack_tcp_max_retrans", "tcp_max_retrans"},
		answer: "After how many identical acknowledgements a TCP connection is given nf_conntrack_tcp_timeout_max_retrans (300 s).",
		means:  []string{"0 gives every established connection those 300 s."},
	},
	{
		id: "tcp-ignore-invalid-rst", names: []string{"nf_conntrack_tcp_ignore_invalid_rst"},
		answer: "[5.14-] Whether a reset below the highest acknowledgement is let through instead of being INVALID.|[-5.13] This kernel has no such setting.",
	},
	{
		id: "default-on", names: []string{"nf_conntrack_default_on"},
		answer: "[4.10-4.12] Whether new namespaces track at once, without a rule that asks for it.|[-4.9] This kernel has no such setting: it tracks everywhere.|[4.13-] This setting is gone: tracking is on where rules ask for it.",
	},
	{
		id: "message-cost", names: []string{"net.core.message_cost", "message_cost", "net.core.message_burst", "message_burst"},
		answer: "How much the kernel's network code may log: message_burst lines (10) in message_cost seconds (5), for all of it together.",
		means:  []string{"Both exist in the initial namespace only. A cost of 0 means no limit: any flood of drops then floods the log."},
		not:    []string{"They change nothing about what is dropped."},
	},
}

// fullName is the name of a setting as sysctl takes it.
func fullName(name string) string {
	switch {
	case strings.HasPrefix(name, "nf_conntrack_"):
		return "net.netfilter." + name
	case strings.HasPrefix(name, "net."):
		return name
	}
	return "net.netfilter.nf_conntrack_" + name
}

// judgeValue says what is wrong with, or to know of, a setting's value.
func judgeValue(name string, n int64) string {
	switch {
	case name == "nf_conntrack_max" && n == 0:
		return "0 means no limit: the table grows until memory is gone."
	case name == "nf_conntrack_max" && n > 0 && n < 100:
		return "Below 100 the garbage collector no longer helps when the table is full."
	case name == "nf_conntrack_count":
		return "The key is read-only: this line has no effect but an error."
	case name == "nf_conntrack_buckets" && n == 0:
		return "0 is refused with EINVAL."
	case name == "nf_conntrack_tcp_max_retrans" && n == 0:
		return "0 caps every established connection at 300 s."
	case name == "nf_conntrack_log_invalid" && n != 0:
		return "Every INVALID packet is logged, without a limit."
	case strings.Contains(name, "timeout") && n <= 0:
		return fmt.Sprintf("%d is accepted, and ends each such connection at its next packet.", n)
	case name == "nf_conntrack_tcp_timeout_established" && n < 7200:
		return fmt.Sprintf("%d s is below the 7200 s after which TCP keepalive first probes: idle connections lose their entry.", n)
	case strings.Contains(name, "timeout") && n > 8589934:
		return fmt.Sprintf("%d s is more than a kernel with HZ=250 takes (8589934); with HZ=1000 it is 2147483.", n)
	}
	return ""
}
