package explain

// errors are what programs are told. Names with a blank are looked for anywhere
// in a line.
var errors = []entry{
	{
		id: "operation-not-permitted", names: []string{"sendto: operation not permitted", "sendmsg: operation not permitted", "operation not permitted", "eperm"},
		answer: "On sending, this is what a local program sees when the kernel refuses its packet: a full connection tracking table, or a firewall rule that drops.",
		means: []string{
			"A new UDP or ping flow that gets no entry because the table is full fails with EPERM at once. A TCP connect only hangs, for its SYN is dropped and sent again.",
			"DNS fails first: every question is a new flow.",
			"From conntrack or sysctl it means missing rights: every ctnetlink message, reading included, needs CAP_NET_ADMIN in the user namespace that owns the network namespace.",
		},
		not: []string{
			"It does not prove that a rule forbids the traffic; look at the table before the rules.",
			"It does not mean that the program lacks rights to use the network.",
		},
		do: []string{
			"Compare: sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max, in the namespace of the program.",
			"ctwarden check; for a container ctwarden check --netns PID.",
			"If the table is not full: nft list ruleset, the output chains with drop or reject.",
		},
	},
	{
		id: "no-buffer-space", names: []string{"no buffer space available", "enobufs"},
		answer: "On reading events it means that the kernel had more of them than the socket's buffer holds, and some are lost.",
		means:  []string{"A listener of connection tracking events was too slow. Messages that were queued can still be read."},
		not:    []string{"It does not mean that the table is full, nor that memory is short."},
		do: []string{
			"Read the table again to be in step: conntrack -L. Lost messages are in the Drops column of /proc/net/netlink.",
			"Give the listener a larger buffer (conntrack -E -b BYTES), or read counters instead of events under load.",
		},
	},
	{
		id: "cannot-allocate-memory", names: []string{"cannot allocate memory", "enomem"},
		answer: "From conntrack -I it means that the table is full; from writing the number of buckets that so large a hash table cannot be had.",
		means: []string{
			"An insertion through ctnetlink at the limit fails with ENOMEM, and logs the same line as a refused packet, without raising the drop counter.",
		},
		not: []string{"For an insertion it does not mean that memory is short."},
		do:  []string{"Compare net.netfilter.nf_conntrack_count with nf_conntrack_max."},
	},
	{
		id: "cannot-assign-address", names: []string{"cannot assign requested address", "eaddrnotavail"},
		answer: "The program has no local port left for this destination: port exhaustion, which looks like a full table but is not.",
		means:  []string{"All ports of net.ipv4.ip_local_port_range are taken towards that address and port, many usually in TIME_WAIT."},
		not:    []string{"nf_conntrack_max has no part in it."},
		do:     []string{"ss -s and ss -tan state time-wait | wc -l; reuse connections, widen net.ipv4.ip_local_port_range."},
	},
	{
		id: "connection-timed-out", names: []string{"connection timed out", "etimedout"},
		answer: "Nothing answered in time; with a full connection tracking table on the way, the first packet of every new TCP connection is dropped, and this is all that the program sees.",
		not:    []string{"It does not tell who dropped: a full table, a rule, a dead server and a lost route look the same."},
		do:     []string{"ctwarden check on this machine and on the gateways on the way. Old connections that go on while new ones time out point to a full table."},
	},
	{
		id: "operation-not-supported", names: []string{"operation not supported", "eopnotsupp"},
		answer: "The kernel does not do this here: resizing the hash table from inside a namespace, or a ctnetlink request without an address family.",
		means: []string{
			"The module parameter hashsize can be written in the initial network namespace only.",
			"[5.8-] A message with a tuple must name IPv4 or IPv6: conntrack -U of conntrack-tools 1.4.7 needs -f ipv4.",
		},
		do: []string{"Write in the initial namespace: nsenter -t 1 -n, or sysctl net.netfilter.nf_conntrack_buckets on the host."},
	},
	{
		id: "read-only", names: []string{"read-only file system", "erofs", "permission denied on nf_conntrack_max"},
		answer: "The limits of connection tracking cannot be written from here: they belong to the host.",
		means: []string{
			"nf_conntrack_max, nf_conntrack_buckets and nf_conntrack_expect_max are one number each for the host and read-only outside the initial network namespace; containers often have /proc/sys read-only altogether.",
			"Timeouts are each namespace's own and can be written there with CAP_NET_ADMIN.",
		},
		not: []string{"It does not help to give the container more rights."},
		do:  []string{"Write on the host. In Kubernetes configure kube-proxy (--conntrack-max-per-core, --conntrack-min), which writes the value at its start."},
	},
	{
		id: "invalid-argument", names: []string{"invalid argument", "einval"},
		answer: "The value is outside what the kernel takes: 0 buckets, a timeout beyond INT_MAX/HZ seconds, or on new kernels (7.3) a max of 0.",
		means:  []string{"A timeout of 0 or below is accepted, and ends each connection at its next packet. A max of 0, where it is accepted, means no limit."},
		do:     []string{"Read back what you wrote: the number of buckets is rounded up to whole pages."},
	},
	{
		id: "device-busy", names: []string{"device or resource busy", "ebusy"},
		answer: "The status bits of an entry can be set but never cleared: SEEN_REPLY and ASSURED stay.",
		do:     []string{"Delete the entry instead, if losing it does no harm."},
	},
	{
		id: "unknown-key", names: []string{"is an unknown key", "no such file or directory", "enoent", "cannot stat /proc/sys"},
		answer: "This kernel has no such setting now: the module is not loaded, or the name is of another era.",
		means: []string{
			"The keys under net.netfilter appear only when the module nf_conntrack is loaded.",
			"[4.9-] The names ip_conntrack_* and net.ipv4.netfilter.* are gone since 4.9; today they are net.netfilter.nf_conntrack_*.",
			"net.nf_conntrack_max exists in the initial network namespace only.",
		},
		do: []string{
			"See what there is: sysctl --all --pattern conntrack, and grep nf_conntrack /proc/modules.",
			"ctwarden explain NAME translates a name.",
		},
	},
}
