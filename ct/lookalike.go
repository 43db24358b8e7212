package ct

// Lookalikes are the neighbours of connection tracking whose exhaustion looks
// like a full table from outside: the neighbour table, listen queues, socket
// memory, local ports, a cloud provider's own limit. Counters grow from the
// boot on; two readings show whether something happens now.
type Lookalikes struct {
	// Neighbours of both families: entries, the hard limit gc_thresh3, and how
	// often an entry was refused (column table_fulls of /proc/net/stat).
	ARPEntries    Value `json:"arp_entries,omitzero"`
	ARPLimit      Value `json:"arp_limit,omitzero"`
	ARPTableFulls Value `json:"arp_table_fulls,omitzero"`
	NDPEntries    Value `json:"ndp_entries,omitzero"`
	NDPLimit      Value `json:"ndp_limit,omitzero"`
	NDPTableFulls Value `json:"ndp_table_fulls,omitzero"`

	// Listening sockets, from the TcpExt lines of /proc/net/netstat.
	ListenOverflows Value `json:"listen_overflows,omitzero"` // accept queue full
	ListenDrops     Value `json:"listen_drops,omitzero"`     // SYNs dropped for any reason, overflows included
	ReqQFullCookies Value `json:"request_queue_full_cookies,omitzero"`
	ReqQFullDrops   Value `json:"request_queue_full_drops,omitzero"`
	SyncookiesSent  Value `json:"syncookies_sent,omitzero"`
	Syncookies      Value `json:"tcp_syncookies,omitzero"` // the setting
	SomaxConn       Value `json:"somaxconn,omitzero"`
	MaxSynBacklog   Value `json:"tcp_max_syn_backlog,omitzero"`

	// Memory of TCP sockets in pages, against the third value of tcp_mem.
	TCPMemPages      Value `json:"tcp_mem_pages,omitzero"`
	TCPMemLimitPages Value `json:"tcp_mem_limit_pages,omitzero"`
	TCPOrphans       Value `json:"tcp_orphans,omitzero"`
	TCPMaxOrphans    Value `json:"tcp_max_orphans,omitzero"`
	AbortOnMemory    Value `json:"tcp_abort_on_memory,omitzero"`
	MemoryPressures  Value `json:"tcp_memory_pressures,omitzero"`

	// Local ports for outgoing connections: the range, what is reserved in it
	// and the connections in TIME_WAIT.
	PortFirst Value `json:"port_first,omitzero"`
	PortLast  Value `json:"port_last,omitzero"`
	TimeWait  Value `json:"time_wait,omitzero"`
	TCPInUse  Value `json:"tcp_in_use,omitzero"`
	TWReuse   Value `json:"tcp_tw_reuse,omitzero"` // the setting

	// Listeners are netlink sockets that listen to connection-tracking events.
	Listeners []EventListener `json:"listeners,omitempty"`

	// Allowances are a cloud provider's limits, by interface.
	Allowances []Allowance `json:"allowances,omitempty"`
}

// EventListener is a row of /proc/net/netlink for protocol NETLINK_NETFILTER
// that has joined a connection-tracking group.
type EventListener struct {
	Pid        int    `json:"pid"`            // the port id, which is the process's id for most
	Comm       string `json:"comm,omitempty"` // the name of the process, where it could be told
	Groups     uint32 `json:"groups"`
	QueueBytes uint64 `json:"queue_bytes"` // waiting to be read
	Drops      uint64 `json:"drops"`       // messages lost because the queue was full
}

// Allowance is what the ENA driver (2.3 and later) says of the instance's own
// connection tracking.
type Allowance struct {
	Interface string `json:"interface"`
	Exceeded  uint64 `json:"conntrack_allowance_exceeded"` // packets dropped since boot
	Available Value  `json:"conntrack_allowance_available,omitzero"`
}
