package guard

import (
	"net/netip"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/notrack"
)

// Reading is what is seen of the machine at one moment. The count, the limits
// and the counters are cheap and come with every reading; the rest only where
// the last [Decision] asked for it.
type Reading struct {
	// At is on a monotonic clock, from any start.
	At time.Duration
	// Wall is for records only.
	Wall time.Time

	Count   int64 // entries of the guarded namespace
	Max     int64 // 0 is no limit
	Buckets int64

	Counters ct.Counters // of the guarded namespace, summed over the CPUs
	Resets   uint64      // TCP resets sent and received, a running total
	Events   int         // ENOBUFS, netlink errors and the like since the last reading

	// Memory and what shares the limit; valid where HasMemory is set.
	HasMemory      bool
	AvailableBytes int64
	TotalBytes     int64
	HighestCount   int64 // of the fullest namespace of the host; at least Count
	BusyNamespaces int   // namespaces that hold entries; 0 counts as 1

	// Table is a reading of the table's composition, nil where not asked for.
	Table *Table
}

// Table is the composition of the table, from a panel or from all of it.
type Table struct {
	Census *ct.Census
	// Count is the number of entries when the reading began; 0 is not known.
	Count int64
	// HalfOpen counts, by port, what was read of unfinished IPv4 handshakes to
	// this machine; the census holds the rest of their class, too.
	HalfOpen map[uint16]uint64
	// Took is how long the reading took; the policy asks less often where it is
	// dear.
	Took time.Duration
}

// Surroundings are what the policy knows of the machine besides readings. They
// are read at the start and again every minute or when something has changed.
type Surroundings struct {
	Version ct.KernelVersion
	// MaxOurs says whether the limit can be written at all: not in a container.
	MaxOurs bool
	// MaxBefore is the limit from before any guard raised it: other than the
	// first reading's where one that was killed has left it raised. 0 is not
	// known.
	MaxBefore int64
	// Policies says whether timeouts for new flows can be given by a table of
	// our own that vanishes with us (5.12 and later), Admission whether packets
	// can be refused there.
	Policies, Admission bool
	// Fragile says whether losing an entry may break its connection: the
	// machine translates addresses, its rules might refuse a packet from the
	// middle of a connection, tcp_loose is off, or none of this could be told.
	Fragile bool
	// Gateway says that it forwards for others.
	Gateway  bool
	Timeouts ct.Timeouts // in force, as the administrator has set them
	// EntryBytes is the price of an entry: slab object and extensions.
	EntryBytes int64
	// Protected are addresses that are never limited or cut: the machine's own,
	// gateways, nameservers, SSH peers and what the configuration names.
	Protected []netip.Prefix
	// SynProxy is what is known of the machine for SYNPROXY, without port and
	// attack; nil is nothing.
	SynProxy *SynProxyFacts
	// Manage judges, for each SSH port, whether flows from the configuration's
	// manage: can do without tracking. Untrack says whether our own table could
	// see to it.
	Manage  []notrack.Judgement
	Untrack bool
}
