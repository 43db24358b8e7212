package explain

// questions are what people ask about the message, and the advice they are
// given.
var questions = []entry{
	{
		id: "memory-empty", names: []string{"table full although memory is nearly empty?"},
		asks:   []string{"full memory", "memory empty", "memory free", "plenty ram", "why table full"},
		answer: "The limit is a count, not memory: nf_conntrack_max entries a namespace, whatever the machine has.",
		means:  []string{"An entry takes 256 to 400 bytes: the default of 262144 is about 100 MiB."},
		not:    []string{"The message does not say that memory is short."},
		do:     []string{"If there is memory, raise max and buckets together: ctwarden plan. But look first what fills the table: ctwarden check."},
	},
	{
		id: "security", names: []string{"no security implication?"},
		asks:   []string{"security", "security implication", "dos", "denial service", "attack dangerous", "risk message"},
		answer: "A denial of service, and what comes with it; nothing is let through that rules forbid.",
		means: []string{
			"A full table fails closed: a packet without an entry is dropped, it does not pass unfiltered.",
			"It locks the administrator out: a new SSH session is a new connection too.",
			"Local programs fail: sendto gives Operation not permitted, TCP connections hang. DNS breaks first, and much with it.",
			"It hides who did it: the log names no source, and the count of suppressed lines is shared by all of the kernel's network code.",
			"Early drop takes half-open connections of users along with those of an attacker.",
		},
		not: []string{
			"It is no sign of a break-in by itself.",
			"The cures have implications of their own: a flush breaks running connections, tcp_be_liberal=1 takes forged resets more easily, rules after connection tracking come too late.",
		},
		do: []string{
			"Keep a session open; ctwarden check says what was refused and who fills the table.",
			"Drop junk before tracking (nftables priority −300, netdev ingress), and exempt management traffic so that it needs no entry.",
		},
	},
	{
		id: "raise-max", names: []string{"should i raise nf_conntrack_max?"},
		asks:   []string{"raise max", "increase max", "higher nf_conntrack_max", "larger table", "increase nf_conntrack_max", "raise nf_conntrack_max"},
		answer: "Yes, within memory and together with the buckets; it does nothing for a table that is filled faster than it empties.",
		means:  []string{"The memory cannot be given back under pressure: keep max × 400 bytes × the number of busy namespaces below about a tenth of it."},
		do:     []string{"ctwarden plan computes it from observed rates and lifetimes."},
	},
	{
		id: "hashsize-ratio", names: []string{"hashsize = max / 4?"},
		asks:   []string{"hashsize max", "hash size", "ratio buckets", "buckets max", "max 4", "hashsize 4", "hashsize 8"},
		answer: "The ratio decides both the length of chains and whether the kernel finds an entry to evict: one bucket an entry on kernels since 5.15, one for two to four before.",
		means: []string{
			"[5.15-] The default is as many buckets as entries. max/4 means chains of eight on the average, and near four entries a bucket 5.15 to 6.0 begin to drop.",
			"[-5.14] The default is a quarter of max.",
			"Many more buckets than max is as bad: measured on 6.18 under a spoofed SYN flood, max 5,000 with 262,144 buckets refused 407,875 packets, with 1,536 buckets none.",
		},
		do: []string{"ctwarden plan chooses buckets for this kernel from both effects."},
	},
	{
		id: "too-high", names: []string{"can too high a value freeze the system?"},
		asks:   []string{"too high", "freeze", "too large", "crash system", "too big"},
		answer: "Yes: the memory of entries cannot be reclaimed, and resizing the hash table stalls the machine.",
		means: []string{
			"A million entries are about 400 MiB; ten million 4 GiB, for each namespace that fills up. When memory is gone the OOM killer takes innocent processes.",
			"A resize stops insertions for about half a microsecond an entry: half a second with a million.",
		},
		do: []string{"ctwarden plan has a ceiling and resizes once."},
	},
	{
		id: "shorten-timeouts", names: []string{"shorten the timeouts?"},
		asks:   []string{"timeout", "shorten timeouts", "lower timeout", "reduce timeout", "timeouts 54000", "decrease timeout"},
		answer: "It helps against accumulation, for entries that are new or see a packet; idle ones keep the timeout they have.",
		means: []string{
			"Closing and half-open states can be shortened with little risk: time_wait, fin_wait, close_wait, syn_sent, syn_recv. close_wait is 60 s already by default.",
			"Established below 7200 s breaks idle sessions of databases, SSH and MQTT, for good where addresses are translated. 54000 s (15 hours) is harmless in this respect, but five days of leaked entries go only when each entry's old timeout is over.",
			"Generic applies to protocols without a tracker only; it does nothing for TCP or UDP.",
			"[4.9-] Some names of old guides are gone: ip_conntrack_*, net.ipv4.netfilter.*.",
		},
		not: []string{
			"Writing a timeout does not empty the table: measured on 6.18, a gateway with 20,000 entries under 16,759 ASSURED ones served none of 20 new connections after established was lowered to 60 s.",
			"0 or a negative value does not mean \"never\": it ends each connection at its next packet.",
		},
		do: []string{
			"ctwarden plan chooses values by state with their risk; ctwarden apply tries them and takes them back unless confirmed.",
			"ctwarden evict brings a shorter timeout to chosen entries that exist.",
		},
	},
	{
		id: "names-differ", names: []string{"which sysctl name does this kernel have?"},
		asks:   []string{"names", "sysctl name", "which name", "name differ", "ip_conntrack nf_conntrack", "grep conntrack"},
		answer: "[4.9-] net.netfilter.nf_conntrack_*, and net.nf_conntrack_max as a second name of the max in the initial namespace.|[-4.8] net.netfilter.nf_conntrack_*, and as copies the older net.ipv4.netfilter.ip_conntrack_* and net.ipv4.ip_conntrack_max.",
		means: []string{
			"Up to 2.6.20 the names were net.ipv4.ip_conntrack_max and net.ipv4.netfilter.ip_conntrack_*. The newer ones exist since 2.6.18, the older ones were kept as copies up to 4.8.",
			"The keys exist only while the module is loaded: at boot a file may be applied before.",
		},
		do: []string{
			"sysctl --names --all --pattern conntrack lists the live ones.",
			"ctwarden explain NAME translates a name; ctwarden lint FILE finds dead ones.",
		},
	},
	{
		id: "notrack-safe", names: []string{"can i switch tracking off?"},
		asks:   []string{"switch off", "disable", "notrack", "turn off", "without conntrack", "disable tracking", "unload module", "remove nf_conntrack"},
		answer: "On a server whose rules are stateless, for its own services and in both directions; never on a machine that translates addresses.",
		means: []string{
			"Docker's port publishing, kube-proxy's services, masquerade, ct state rules, helpers and connection limits all need tracking.",
			"Typical safe cases: the port of a public DNS, NTP or web server, health checks, tunnels' own packets.",
		},
		not: []string{"It is not enough to exempt the packets that come in: the answers make the entries then."},
		do:  []string{"ctwarden notrack proves from rules and sockets whether it is safe, and writes the rules for both directions."},
	},
	{
		id: "make-permanent", names: []string{"how do i make it permanent?"},
		asks:   []string{"permanent", "persist", "reboot", "survive boot", "sysctl.conf", "rc.local"},
		answer: "A file in /etc/sysctl.d, and one in /etc/modules-load.d that loads nf_conntrack before it is applied.",
		means:  []string{"Without the second, the file is applied before the keys exist, and is lost without a trace but one line in the log."},
		not: []string{
			"Guides that append nf_conntrack_count mean nf_conntrack_max; the count is read-only.",
			"cat > /etc/sysctl.conf overwrites everything else in it.",
		},
		do: []string{"ctwarden apply, once confirmed, keeps it for every boot in files of its own; ctwarden verify proves that after one."},
	},
	{
		id: "try-first", names: []string{"apply it temporarily and revert?"},
		asks:   []string{"temporarily", "revert", "undo", "try first", "trial", "roll back", "rollback"},
		answer: "That is the best advice: try, watch, take back unless it helped.",
		do:     []string{"ctwarden apply reverts by itself at its deadline unless ctwarden confirm is run; it remembers the values that were there."},
	},
	{
		id: "watch-counters", names: []string{"what do the counters mean?"},
		asks:   []string{"counters", "real time", "watch", "statistics", "conntrack s", "proc net stat"},
		answer: "Look at drop and early_drop, and at their growth only: several of the others do not mean what their names say.",
		means: []string{
			"drop: packets refused. early_drop: entries evicted to make room for packets that were let in.",
			"insert_failed: lost races and chains too long. chaintoolong (5.15 and later): buckets too few.",
			"[4.9-] insert counts only ctnetlink, found only collisions of address translation; new, searched and delete are 0 for ever.",
			"/proc/net/stat/nf_conntrack is hexadecimal, a line for each CPU, and its columns changed their meaning: read it by its header. entries is the same on each line.",
			"All are of one network namespace: those of the host say nothing of a container.",
		},
		not: []string{"No counter says how many new connections there are, since 4.9."},
		do:  []string{"ctwarden top shows them live under their true meaning; ctwarden explain NAME explains each."},
	},
	{
		id: "ufw", names: []string{"does this affect ufw?"},
		asks:   []string{"ufw", "firewalld", "tuned", "kube-proxy", "kube proxy", "who sets", "overwritten"},
		answer: "Yes: ufw applies a settings file of its own, /etc/ufw/sysctl.conf, over yours.",
		means: []string{
			"/etc/default/ufw names the file (IPT_SYSCTL).",
			"firewalld re-applies net.netfilter.nf_conntrack* when the module is loaded; kube-proxy writes max and buckets at every start; TuneD sets hashsize.",
		},
		do: []string{"ctwarden check finds every owner of a value, and says who wins now and at the next boot."},
	},
	{
		id: "reject-or-drop", names: []string{"reject or drop?"},
		asks:   []string{"reject", "reject drop", "drop or reject", "drop rather"},
		answer: "For the table it makes no difference to a new connection: refused by a filter rule either way, it leaves no entry. A reset helps only an existing entry to close.",
		means: []string{
			"The entry of a packet that a rule drops is released at once: 20 packets dropped by a filter rule left no entry.",
			"A reset sent into an existing connection takes its entry to CLOSE, 10 s; before any answer was seen it removes the entry at once.",
			"Dropping at the raw table (priority −300) or earlier costs no entry even for an instant, so it also works while the table is full.",
		},
		not: []string{
			"Drop does not make entries linger, as is often said.",
			"Rejecting is no defence against forged sources: every reset or ICMP error goes to somebody who did not ask, and the machine becomes part of the attack.",
		},
		do: []string{"Reject towards your own users, for they learn at once; drop what may be forged, and before tracking where it comes in masses."},
	},
	{
		id: "nat-users", names: []string{"malicious users behind the nat?"},
		asks:   []string{"malicious users nat", "behind nat", "malicious users", "per source", "per host limit", "one client", "abuse nat"},
		answer: "Shorter timeouts hurt all alike; a limit for each source is the sharper tool.",
		means:  []string{"Behind a carrier's NAT one address is many people: a limit on it hits all of them."},
		not:    []string{"A source that never completed a handshake may be forged: it is no offender yet."},
		do:     []string{"ctwarden list --by src, or ctwarden check, shows who holds how much; ctwarden evict removes chosen entries, after showing what it would do."},
	},
	{
		id: "revert-values", names: []string{"set close_wait, fin_wait, time_wait to 60 and back to 120?"},
		asks:   []string{"close_wait fin_wait time_wait", "524288 262144", "back 120", "for i in close_wait"},
		answer: "The values to go back to must be remembered, not assumed: close_wait is 60 s by default, not 120.",
		do:     []string{"ctwarden apply notes what was there and restores that."},
	},
	{
		id: "flush", names: []string{"conntrack -f"},
		asks:   []string{"flush", "conntrack f", "clear table", "empty table"},
		answer: "Flushing the table (conntrack -F) breaks running connections wherever addresses are translated or rules ask for ct state established.",
		means:  []string{"Everything that is not translated may be picked up again while nf_conntrack_tcp_loose is 1 and the rules let it."},
		not:    []string{"It is no cure: what filled the table fills it again."},
		do:     []string{"ctwarden evict chooses entries by what they are, and shows first what it would remove."},
	},
}
