package explain

// counters are the columns of /proc/net/stat/nf_conntrack and the names of
// conntrack -S. They are per CPU and namespace, 32 bits wide, and wrap.
var counters = []entry{
	{
		id: "counter-entries", names: []string{"entries"},
		answer: "The number of entries in the namespace's table, repeated on every CPU's line.",
		not:    []string{"It must not be summed over the CPUs."},
	},
	{
		id: "counter-drop", names: []string{"drop"},
		answer: "Packets refused: the table was full, memory for the entry could not be had, or two packets raced for the same entry.",
		means: []string{
			"It is exact, where the log is limited. Read it twice: only the growth says something about now.",
			"Growth with count = max is refusal by a full table; growth with count below max is memory or a lost race (see insert_failed).",
		},
		not: []string{
			"It does not count what rules drop.",
			"It does not count entries that the kernel evicted to make room (early_drop), nor packets dropped for too long a chain (chaintoolong).",
		},
		do: []string{"ctwarden check reads it twice and ties it to the cause."},
	},
	{
		id: "counter-early-drop", names: []string{"early_drop"},
		answer: "Entries that the packet path evicted from a full table to make room for a new one.",
		means: []string{
			"Only entries that are not ASSURED are taken: half-open handshakes, one-way UDP, pings. While it grows and drop does not, users are still served, but genuine handshakes may be among the victims.",
			"[4.9-] What the garbage collector evicts is in no counter.",
		},
		not: []string{"It is not the number of packets refused; that is drop."},
	},
	{
		id: "counter-insert-failed", names: []string{"insert_failed"},
		answer: "Entries that could not be added at the end of a packet's way: another packet of the flow was faster, the chain was too long, or the entry was dying.",
		means: []string{
			"[5.15-] It includes chaintoolong.",
			"Two DNS questions (A and AAAA) sent at once from one socket race in this way.",
		},
		not: []string{"It does not mean that the table is full."},
		do:  []string{"Look at chaintoolong; if that grows, more buckets. If not, it is the race."},
	},
	{
		id: "counter-insert", names: []string{"insert"},
		answer: "[-4.8] Entries confirmed: new connections.|[4.9-] Entries made through ctnetlink only.",
		not:    []string{"[4.9-] It does not count new connections; since 4.9 no counter does."},
	},
	{
		id: "counter-found", names: []string{"found"},
		answer: "[-4.8] Successful look-ups.|[4.9-] Tuples that address translation found taken when it looked for a free port.",
		not:    []string{"[4.9-] It is not the number of look-ups that succeeded."},
	},
	{
		id: "counter-invalid", names: []string{"invalid"},
		answer: "Packets that could not be tied to a connection: malformed, outside the window, or of no known flow.",
		not: []string{
			"They are not dropped by connection tracking; rules decide (ct state invalid).",
			"They need not have left an entry.",
		},
	},
	{
		id: "counter-error", names: []string{"error", "icmp_error"},
		answer: "ICMP errors that could not be used: about no known flow, or malformed.",
		not:    []string{"It is no error of the machine."},
	},
	{
		id: "counter-search-restart", names: []string{"search_restart"},
		answer: "Look-ups that had to start again because the chain changed under them: entries reused, or the table resized.",
		not:    []string{"It is no loss. Small numbers are normal."},
	},
	{
		id: "counter-clash-resolve", names: []string{"clash_resolve", "clashres"},
		answer: "[5.10-] Races between two packets of a new flow that the kernel settled without loss.|[-5.9] This kernel has no such counter.",
		means:  []string{"[5.10-] In /proc it stands in the column that was called searched before."},
		not:    []string{"[5.10-] It counts rescued packets, not lost ones."},
	},
	{
		id: "counter-chaintoolong", names: []string{"chaintoolong", "chainlength"},
		answer: "[5.15-] Packets dropped because the bucket of their entry already held too many.|[-5.14] This kernel has no limit on the length of a chain, and no such counter.",
		means: []string{
			"[5.15-6.0] The limit is a random number from 8 to 31 at every insertion: trouble begins near four entries a bucket.",
			"[6.1-] The limit is a random number from 50 to 79: trouble begins near 25 entries a bucket.",
			"[5.15-] These packets are in insert_failed and not in drop.",
		},
		not: []string{"[5.15-] It does not mean that max is reached: a table with too few buckets is full before."},
		do:  []string{"[5.15-] More buckets: sysctl -w net.netfilter.nf_conntrack_buckets=N in the initial namespace, in a quiet hour; ctwarden plan chooses N."},
	},
	{
		id: "counter-searched", names: []string{"searched"},
		answer: "[-4.8] Look-ups made.|[4.9-] Nothing: it is 0 for ever since 4.9, and its column in /proc holds clash_resolve from 5.10 on.",
		not:    []string{"[4.9-] Its standing at 0 does not mean that nothing happens."},
	},
	{
		id: "counter-new", names: []string{"new"},
		answer: "[-4.8] Entries made for new connections.|[4.9-] Nothing: it is 0 for ever since 4.9.",
		not:    []string{"[4.9-] Its standing at 0 does not mean that there are no new connections."},
	},
	{
		id: "counter-ignore", names: []string{"ignore"},
		answer: "[-5.9] Packets that were untracked or already had their entry.|[5.10-] Nothing: it is 0 since 5.10.",
		not:    []string{"It never was a number of packets dropped."},
	},
	{
		id: "counter-delete", names: []string{"delete", "delete_list"},
		answer: "[-4.8] Entries removed.|[4.9-] Nothing: it is 0 since 4.9; from 5.15 the column of delete_list in /proc holds chaintoolong.",
	},
	{
		id: "counter-expect", names: []string{"expect_new", "expect_create", "expect_delete"},
		answer: "Expectations of helpers made and removed.",
		not:    []string{"They are not connections, and have a limit of their own, nf_conntrack_expect_max."},
	},
}
