package explain

// messages are what the kernel and the boot's programs log; the ids are those
// of klog.Kind.
var messages = []entry{
	{
		id: "table-full", names: []string{"nf_conntrack: table full, dropping packet", "table full", "table full, dropping packet"},
		answer: "The connection tracking table holds as many entries as it may: the kernel drops packets that would open a new connection.",
		means: []string{
			"A network namespace has nf_conntrack_max entries. The limit is a count; how much memory is free plays no part in it.",
			"A packet needs its entry before the filter rules are asked, so none of them can let it through. Connections that have an entry go on, and so does traffic that rules exempt with notrack; new TCP, UDP and ping, and even stray resets, are dropped.",
			"It appears only where the kernel found no entry to evict: early drop looks at a few buckets and spares ASSURED entries. So most of the table is ASSURED, or there are many more buckets than entries.",
			"[6.17-] \"in netns N\" names the namespace by its inode; without it, it is the initial one.",
			"[-6.16] It does not say which network namespace is full; the limit is one number for the host, but each namespace is counted by itself.",
			"[4.8-] The doubled prefix \"nf_conntrack: nf_conntrack:\" is how this kernel prints it.",
		},
		not: []string{
			"It does not mean that memory is short.",
			"It does not mean that there is an attack, nor that there is none: leaked idle connections, a scan, DNS churn and plain growth end here too. A spoofed SYN flood alone fills the table without this line, for its entries are evicted silently.",
			"The number of lines is not the number of packets: all of the kernel's network code together prints net.core.message_burst (10) lines in net.core.message_cost (5) seconds.",
		},
		do: []string{
			"ctwarden check says what fills the table and who, and what to do.",
			"At once, if memory allows it: sysctl -w net.netfilter.nf_conntrack_max=N in the initial namespace, some 400 bytes an entry; and with it the buckets, ctwarden plan chooses both.",
			"Do not flush the table (conntrack -F) on a machine that translates addresses: running connections break.",
		},
	},
	{
		id: "suppressed", names: []string{"net_ratelimit: n callbacks suppressed", "callbacks suppressed", "__ratelimit", "net_ratelimit", "messages suppressed"},
		answer: "So many further messages of the kernel's network code were not printed.",
		means: []string{
			"The limiter is one for the whole kernel, all namespaces and all network messages: after net.core.message_burst (10) lines in net.core.message_cost (5) seconds it only counts.",
			"The count is printed by the first message after the interval, whoever causes it; what was kept back after the last line is in no log.",
			"[6.17-] Printed and suppressed together are exactly the calls, over all users of the limiter.",
			"[-6.16] A caller that finds the limiter busy on another CPU is not counted, so the number is a lower bound of what was kept back.",
		},
		not: []string{
			"It is not the number of packets dropped by the connection tracking table: it bounds that from above at best, for others share the limiter.",
			"Under the name __ratelimit (2.6.27 to 2.6.31 and Red Hat's 2.6.32) every limiter of the kernel prints, so it says even less.",
		},
		do: []string{"Read the exact number: the drop column of conntrack -S, twice, or ctwarden check."},
	},
	{
		id: "suppressed-private", names: []string{"func: n callbacks suppressed"},
		answer: "Messages of one function of the kernel were not printed; connection tracking has no part in it.",
		means:  []string{"A name other than net_ratelimit, __ratelimit or printk is that function's own limiter."},
		not:    []string{"It does not count packets that the connection tracking table refused."},
	},
	{
		id: "expectation-table-full", names: []string{"nf_conntrack: expectation table full", "expectation table full"},
		answer: "A helper (FTP, SIP, …) may not announce one more connection: the table of expectations is full, not that of connections.",
		means: []string{
			"Expectations are the secondary connections that helpers foresee. Their number in a namespace reached nf_conntrack_expect_max.",
			"The secondary connection then is not recognised as RELATED, and not translated.",
		},
		not: []string{"It does not mean that new connections in general are refused, and raising nf_conntrack_max does not help."},
		do: []string{
			"See what expects: conntrack -L expect.",
			"Raise net.netfilter.nf_conntrack_expect_max in the initial namespace, or take away helpers that nobody uses.",
		},
	},
	{
		id: "syn-flood", names: []string{"possible syn flooding on port", "syn flooding"},
		answer: "A listening socket had more half-open connections than its backlog holds, and answers with SYN cookies or drops.",
		means: []string{
			"It is about the queue of one listening socket, not about the connection tracking table.",
			"It is printed once for each listening socket and then never again, so its absence proves nothing.",
		},
		not: []string{
			"It does not prove an attack: a backlog that is small for the load gives the same line.",
			"It does not mean that the connection tracking table is full, though a flood may fill that too.",
		},
		do: []string{
			"Look at ss -lnt (Recv-Q against Send-Q), nstat -az TcpExtListenOverflows TcpExtTCPReqQFullDoCookies.",
			"Raise net.core.somaxconn, net.ipv4.tcp_max_syn_backlog and the program's own backlog; keep net.ipv4.tcp_syncookies=1.",
		},
	},
	{
		id: "neighbour-overflow", names: []string{"neighbour table overflow", "neighbor table overflow", "neighbour: arp_cache: neighbor table overflow!"},
		answer: "The table of link-layer addresses (ARP or ND) is full; it looks like a full connection tracking table but is another one.",
		means:  []string{"The machine has more neighbours on its links than gc_thresh3 allows, or somebody scans a large local network through it. Packets to new neighbours are dropped."},
		not:    []string{"It has nothing to do with nf_conntrack_max."},
		do: []string{
			"Count them: ip neigh | wc -l, ip -6 neigh | wc -l.",
			"Raise net.ipv4.neigh.default.gc_thresh1, gc_thresh2 and gc_thresh3 (for ndisc_cache those of net.ipv6), or find out who scans.",
		},
	},
	{
		id: "socket-memory", names: []string{"out of memory -- consider tuning tcp_mem", "out of socket memory", "tcp_mem"},
		answer: "TCP has used the memory that net.ipv4.tcp_mem allows it; sockets, not the connection tracking table.",
		means:  []string{"The sum of all socket buffers reached the third value of net.ipv4.tcp_mem, in pages."},
		not:    []string{"Entries of the connection tracking table are not in it, and raising nf_conntrack_max does not help."},
		do:     []string{"Look at cat /proc/net/sockstat, and for the programs that hold the buffers: ss -tmn."},
	},
	{
		id: "orphaned-sockets", names: []string{"too many orphaned sockets"},
		answer: "More TCP sockets than net.ipv4.tcp_max_orphans are closed by their program but not yet finished; they are reset.",
		means:  []string{"Many peers do not finish closing, as after a flood of abandoned connections."},
		not:    []string{"It is not about the connection tracking table."},
		do:     []string{"Look at the orphan figure in cat /proc/net/sockstat; lower net.ipv4.tcp_fin_timeout or raise net.ipv4.tcp_max_orphans within memory."},
	},
	{
		id: "buckets-fell-back", names: []string{"falling back to vmalloc"},
		answer: "The hash table of connection tracking was too large for contiguous memory and was put together from pages; it works.",
		means:  []string{"Kernels up to 3.10 say it when the table is made or resized."},
		not:    []string{"It is no error, and says nothing about the table being full."},
	},
	{
		id: "loaded", names: []string{"nf_conntrack version"},
		answer: "Connection tracking was loaded, with so many buckets and this max.",
		means: []string{
			"Kernels up to 4.15 print it once.",
			"It tells when the settings under net.netfilter came into being: values applied earlier in the boot were lost.",
		},
		not: []string{"The max in it is the default at that time; settings written later are not in the line."},
		do:  []string{"Compare with now: sysctl net.netfilter.nf_conntrack_max net.netfilter.nf_conntrack_buckets."},
	},
	{
		id: "helper-assignment", names: []string{"automatic helper assignment"},
		answer: "Helpers (FTP, SIP, …) are no longer attached to connections by port alone; rules must attach them.",
		means:  []string{"Printed once for each namespace. Automatic assignment was off by default later, and is gone since 6.1."},
		not:    []string{"It is not about the size of the table."},
		do:     []string{"Attach helpers with iptables -t raw … -j CT --helper NAME or nft ct helper set, for the addresses that need them."},
	},
	{
		id: "helper-drop", names: []string{"nf_ct_name: dropping packet"},
		answer: "A helper dropped a packet of its protocol and says why.",
		means:  []string{"It is seen only while nf_conntrack_log_invalid is on. \"cannot add expectation\" usually goes with a full expectation table."},
		not:    []string{"It is not the line of a full connection tracking table."},
		do:     []string{"Look at conntrack -L expect and net.netfilter.nf_conntrack_expect_max."},
	},
	{
		id: "invalid-packet", names: []string{"nf_ct_proto_6: invalid rst", "nf_ct_proto_6"},
		answer: "A packet did not fit its connection and is INVALID; it is in the log because nf_conntrack_log_invalid is on.",
		means: []string{
			"The reason stands after the protocol's number: outside the window, a reset that fits nothing, a bad checksum and the like.",
			"These lines are not rate limited.",
		},
		not: []string{
			"INVALID is not dropped by connection tracking: the packet goes on, and a rule like ct state invalid drop decides.",
			"It does not mean that the table is full.",
		},
		do: []string{"When you have seen enough: sysctl -w net.netfilter.nf_conntrack_log_invalid=0."},
	},
	{
		id: "setting-not-applied", names: []string{"couldn't write to net/netfilter/nf_conntrack_max", "cannot stat /proc/sys/net/netfilter/nf_conntrack_max"},
		answer: "A setting of connection tracking was to be written when its key did not exist, or could not be written: it was lost.",
		means: []string{
			"The keys appear only when the module nf_conntrack is loaded. systemd-sysctl runs once, before a module that is loaded on demand.",
			"Inside a network namespace nf_conntrack_max, buckets and expect_max are read-only: one number for the host.",
		},
		not: []string{"The file being right does not mean that the value is live."},
		do: []string{
			"Load the module earlier: echo nf_conntrack > /etc/modules-load.d/nf_conntrack.conf.",
			"ctwarden plan writes the files for that, and ctwarden verify proves them after the next boot.",
		},
	},
}
