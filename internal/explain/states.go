package explain

// states are what entries show: states of protocols, status bits, and the words
// of ct state in rules.
var states = []entry{
	{
		id: "unreplied", names: []string{"unreplied"},
		answer: "Only the side that opened the flow has sent so far.",
		means: []string{
			"It is the absence of SEEN_REPLY. A mass of such entries is a flood with forged sources, a scan, a dead server or a resolver that does not answer.",
			"It can be evicted when the table is full, for it is not ASSURED.",
		},
		not: []string{"It does not name an offender: a source that never completed a handshake may be forged."},
	},
	{
		id: "assured", names: []string{"assured"},
		answer: "The flow has proved to go both ways; the kernel never evicts it to make room.",
		means: []string{
			"TCP gets it when the handshake is complete.",
			"[5.16-] UDP gets it with a packet that comes two seconds or more after the first, once a reply was seen.",
			"[-5.15] UDP gets it as soon as packets went both ways, so every DNS answer makes an entry that cannot be evicted.",
			"[4.12-] The garbage collector does remove ASSURED TCP entries that are closing, when the table is above 95 %.",
		},
		not: []string{"It does not mean that the connection is alive: an idle one stays for nf_conntrack_tcp_timeout_established, five days by default."},
	},
	{
		id: "seen-reply", names: []string{"seen_reply"},
		answer: "The other side has answered.",
		not:    []string{"It does not protect against eviction; ASSURED does."},
	},
	{
		id: "confirmed", names: []string{"confirmed"},
		answer: "The entry stands in the hash table; the packet that made it has left the machine or reached a program.",
	},
	{id: "expected", names: []string{"expected"}, answer: "A helper had announced this connection."},
	{
		id: "nat-bits", names: []string{"src_nat", "dst_nat", "src_nat_done", "dst_nat_done"},
		answer: "The source (SRC_NAT) or destination (DST_NAT) of this flow is translated; the _DONE bits say only that this was decided.",
		not:    []string{"Losing such an entry is not free: the rest of the connection no longer finds its way."},
	},
	{id: "seq-adjust", names: []string{"seq_adjust"}, answer: "A helper changed the length of data, so sequence numbers are corrected; losing the entry breaks the connection."},
	{
		id: "dying", names: []string{"dying"},
		answer: "The entry is dead and no longer found by packets.",
		means:  []string{"It still counts while an event about its end waits for a slow listener in reliable mode (conntrackd)."},
	},
	{id: "fixed-timeout", names: []string{"fixed_timeout"}, answer: "Packets do not renew the timeout of this entry."},
	{id: "template", names: []string{"template"}, answer: "Not a connection, but the pattern that a CT rule gives to new ones."},
	{id: "nat-clash", names: []string{"nat_clash"}, answer: "A short-lived helper entry of one second, made when two packets of a new flow raced; it is hidden from dumps."},
	{id: "has-helper", names: []string{"helper"}, answer: "A helper watches this connection."},
	{
		id: "offload", names: []string{"offload", "hw_offload"},
		answer: "A flow table, in software (OFFLOAD) or hardware (HW_OFFLOAD), handles the packets; the entry shows neither state nor timeout.",
		not:    []string{"Nothing can be said of how idle it is, so it is never to be chosen for removal."},
	},
	{
		id: "tcp-syn-sent", names: []string{"syn_sent", "syn_sent2"},
		answer: "A SYN was seen and nothing answered yet (SYN_SENT2: both sides sent one).",
		means: []string{
			"A mass of them is a flood, a scan or a dead server.",
			"[5.14-] Sending the SYN again does not renew the timeout of 120 s.",
		},
	},
	{id: "tcp-syn-recv", names: []string{"syn_recv"}, answer: "The SYN was answered; the third packet of the handshake is missing.", means: []string{"A mass of them is a flood that a server answers. They can be evicted."}},
	{
		id: "tcp-established", names: []string{"established"},
		answer: "As a TCP state: the handshake is complete. In a rule (ct state established): packets of a flow that has been answered, whatever the protocol.",
		means: []string{
			"The timeout is five days by default, but 300 s while data waits for its acknowledgement or the window is zero.",
			"Picked up in the middle (tcp_loose=1) and not yet answered it has 300 s and is not ASSURED.",
		},
		not: []string{"A small remaining time does not mean that the connection is idle: the busiest transfer shows less than 300 s."},
	},
	{id: "tcp-fin-wait", names: []string{"fin_wait"}, answer: "One side has closed; 120 s by default."},
	{id: "tcp-close-wait", names: []string{"close_wait"}, answer: "The first FIN was acknowledged and the other side has not closed; 60 s by default.", means: []string{"A mass of them points to programs that do not close their sockets."}},
	{id: "tcp-last-ack", names: []string{"last_ack"}, answer: "Both sides have closed, the last acknowledgement is missing; 30 s by default."},
	{
		id: "tcp-time-wait", names: []string{"time_wait"},
		answer: "Both sides have closed; the entry stays 120 s by default to catch stragglers.",
		means:  []string{"A mass of them is many short connections.", "It is usually ASSURED, so it is not evicted by the packet path. A new SYN on the same ports opens it anew."},
		not:    []string{"It is not the TIME_WAIT of a socket: net.ipv4.tcp_tw_reuse and the like do not touch it."},
	},
	{id: "tcp-close", names: []string{"close"}, answer: "A reset was seen; 10 s by default."},
	{
		id: "ct-new", names: []string{"new", "ct state new"},
		answer: "In a rule (ct state new): the packet opens a flow, or its flow has not been answered yet.",
		means: []string{
			"A TCP packet from the middle of a connection without an entry is NEW too while tcp_loose is 1.",
		},
		not: []string{"It does not mean SYN."},
	},
	{id: "ct-related", names: []string{"related", "ct state related"}, answer: "A packet that belongs to another flow: an ICMP error about it, or a connection that a helper announced."},
	{
		id: "ct-invalid", names: []string{"invalid", "ct state invalid"},
		answer: "A packet that fits no connection: malformed, outside the window, an answer to nothing.",
		means:  []string{"With the table full even such packets are dropped before they can be called INVALID, for they need an entry first."},
		not:    []string{"Connection tracking lets it pass; a rule must drop it."},
	},
	{
		id: "ct-untracked", names: []string{"untracked", "ct state untracked", "notrack"},
		answer: "A packet that a rule exempted from tracking before it began (notrack in a chain before priority −200): it costs no entry and passes a full table.",
		means:  []string{"Both directions must be exempted, in prerouting and output."},
		not:    []string{"It gets no address translation and matches no ct state established rule: on a gateway that translates, it breaks the connection."},
	},
	{id: "sctp-states", names: []string{"cookie_wait", "cookie_echoed", "shutdown_sent", "shutdown_recd", "shutdown_ack_sent", "heartbeat_sent", "heartbeat_acked", "closed"},
		answer: "A state of an SCTP association; it becomes ASSURED in ESTABLISHED.",
		means:  []string{"[4.4-6.0] HEARTBEAT_ACKED is a state of its own.", "[6.1-] HEARTBEAT_ACKED is gone: a heartbeat that is answered makes the association ESTABLISHED."}},
}
