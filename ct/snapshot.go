package ct

import (
	"net/netip"
	"strconv"
	"time"
)

// Value is a number that may be unknown: a key that this kernel lacks or that
// could not be read. The zero Value is unknown and is left out of JSON.
type Value struct {
	N     int64
	Known bool
}

// Known makes a known value.
func Known(n int64) Value { return Value{n, true} }

// IsZero reports whether the value is unknown, so that omitzero leaves it out.
func (v Value) IsZero() bool { return !v.Known }

// Or returns the number, or d if it is unknown.
func (v Value) Or(d int64) int64 {
	if v.Known {
		return v.N
	}
	return d
}

// Tri is a yes, a no, or "could not be told".
type Tri int8

// Values of a Tri.
const (
	No      Tri = -1
	Unknown Tri = 0
	Yes     Tri = 1
)

// TriOf turns a bool into a known Tri.
func TriOf(b bool) Tri {
	if b {
		return Yes
	}
	return No
}

// Limits are the size of the table and what bounds it.
type Limits struct {
	Count       Value `json:"count,omitzero"`        // entries in this namespace, those in flight and expired ones included
	Max         Value `json:"max,omitzero"`          // one number for the host, applied to each namespace; 0 = no limit
	Buckets     Value `json:"buckets,omitzero"`      // one hash table for the host from 4.7
	ExpectMax   Value `json:"expect_max,omitzero"`   // expectations a namespace may hold
	ExpectCount Value `json:"expect_count,omitzero"` // expectations now
	MaxWritable Tri   `json:"max_writable,omitzero"` // whether max can be written from this namespace at all
}

// Knobs are the settings of a namespace that are neither limits nor timeouts.
type Knobs struct {
	Acct             Value `json:"acct,omitzero"`
	Timestamp        Value `json:"timestamp,omitzero"`
	Events           Value `json:"events,omitzero"`
	Checksum         Value `json:"checksum,omitzero"`
	LogInvalid       Value `json:"log_invalid,omitzero"`
	Helper           Value `json:"helper,omitzero"` // until 6.0
	TCPLoose         Value `json:"tcp_loose,omitzero"`
	TCPBeLiberal     Value `json:"tcp_be_liberal,omitzero"`
	TCPMaxRetrans    Value `json:"tcp_max_retrans,omitzero"`
	TCPIgnoreBadRST  Value `json:"tcp_ignore_invalid_rst,omitzero"` // 5.14 and later
	TCPKeepaliveTime Value `json:"tcp_keepalive_seconds,omitzero"`  // net.ipv4.tcp_keepalive_time
	MessageCost      Value `json:"message_cost_seconds,omitzero"`   // net.core.message_cost
	MessageBurst     Value `json:"message_burst,omitzero"`          // net.core.message_burst
}

// Memory is what the table may take and takes.
type Memory struct {
	TotalBytes     Value `json:"total_bytes,omitzero"`
	AvailableBytes Value `json:"available_bytes,omitzero"`
	// SlabObjects and SlabBytes are the nf_conntrack slab of the whole host;
	// objects of a CPU's own slabs count as in use even when free.
	SlabObjects     Value `json:"slab_objects,omitzero"`
	SlabBytes       Value `json:"slab_bytes,omitzero"`
	SlabObjectBytes Value `json:"slab_object_bytes,omitzero"`
}

// Netns says which network namespace a reading belongs to.
type Netns struct {
	Inode   uint64 `json:"inode"`            // as in net:[4026531840]
	Name    string `json:"name,omitempty"`   // as it was asked for
	Initial Tri    `json:"initial,omitzero"` // whether it is the host's
	Owner   string `json:"owner,omitempty"`  // container, pod or unit, where known
	Pid     int    `json:"pid,omitempty"`    // a process inside, where it was found by one
}

// Tracking says whether the kernel tracks packets in this namespace, and why.
type Tracking struct {
	// ModuleLoaded is Yes also where connection tracking is built in.
	ModuleLoaded Tri `json:"module_loaded"`
	BuiltIn      Tri `json:"built_in,omitzero"`
	Active       Tri `json:"active"`
	NAT          Tri `json:"nat"`
	// DropsUntracked is Yes where policies could refuse a mid-stream packet: a base
	// chain with policy drop, or a rule that drops ct state invalid or new.
	DropsUntracked Tri `json:"drops_midstream,omitzero"`
	// TimeoutPolicies is Yes where rules may attach timeouts of their own, so
	// that no entry's idle time can be told from its timeout.
	TimeoutPolicies Tri `json:"timeout_policies,omitzero"`
	// Users are what switched tracking on: rules in words, "nft inet filter
	// input: ct state".
	Users []string `json:"users,omitempty"`
	// NATRules are the rules that translate, in words.
	NATRules []string `json:"nat_rules,omitempty"`
	// Offload is Yes where a flow table exists.
	Offload Tri `json:"offload,omitzero"`
	// Rules are those that cost more than they must. Their addresses stay out
	// of reports.
	Rules []RuleAdvice `json:"-"`
}

// Blind is something that could not be seen.
type Blind struct {
	What string `json:"what"` // "the entries of the table"
	Why  string `json:"why"`  // the error, in words
	How  string `json:"how"`  // what the user can do to see it
}

// ClassKey is a class of entries in a [Census].
type ClassKey struct {
	Proto   Proto
	State   State
	Assured bool
	Replied bool
	NAT     bool
}

// Class counts the entries of one class. Idle times are lower bounds
// ([IdleMin]); entries for which nothing can be said are not in them.
type Class struct {
	ClassKey
	Entries   uint64
	IdleKnown uint64 // entries whose idle time has a lower bound
	// IdleOver counts entries idle for at least a minute, ten minutes, an hour
	// and a day: see [IdleSteps].
	IdleOver [4]uint64
}

// IdleSteps are the bounds of [Class.IdleOver].
var IdleSteps = [4]time.Duration{time.Minute, 10 * time.Minute, time.Hour, 24 * time.Hour}

// Heavy is one heavy hitter. Entries is never below the truth, and above it by
// at most Error.
type Heavy struct {
	Prefix  netip.Prefix // an address as /32 or /128; unset for ports
	Proto   Proto        // for ports
	Port    uint16       // for ports
	Entries uint64
	Error   uint64
	// How the entries of this one are made up: exact where as few entries were
	// read as are kept (a panel), otherwise told from a uniform sample of them
	// and scaled. Every entry counts as replied or unreplied; HalfOpen are
	// those of TCP whose handshake is not finished (SYN_SENT, SYN_RECV,
	// SYN_SENT2), replied or not.
	Replied, Assured, HalfOpen, Unreplied uint64
	// The destination, protocol and port, of most of its entries, and the share
	// of its entries that go there, 0 to 1; zero where nothing stands out.
	MainProto     Proto
	MainPort      uint16
	MainPortShare float64
	// DistinctPeers estimates how many different addresses stand on the other
	// side of its entries (for a port, how many sources), DistinctPorts how
	// many different destination ports they have.
	DistinctPeers, DistinctPorts uint64
}

// Census is the composition of the table, or of the part that was read.
type Census struct {
	Entries  uint64 `json:"entries"`  // entries read
	Complete bool   `json:"complete"` // the whole table; otherwise a panel of fixed buckets
	// Short is set when a complete reading came up short: the table was
	// resized, or changed faster than it could be read.
	Short       bool  `json:"short,omitempty"`
	CountBefore Value `json:"count_before,omitzero"`
	CountAfter  Value `json:"count_after,omitzero"`

	Classes   []Class `json:"classes,omitempty"` // largest first
	V4        uint64  `json:"ipv4"`
	V6        uint64  `json:"ipv6"`
	Offloaded uint64  `json:"offloaded,omitempty"`
	Expiring  uint64  `json:"expiring,omitempty"` // entries with at most 1 s left
	Zones     int     `json:"zones,omitempty"`    // different zones seen

	// Heavy hitters by original source, original destination, destination
	// port, and by prefix of the source (/24 and /64) and destination.
	Sources             []Heavy `json:"sources,omitempty"`
	Destinations        []Heavy `json:"destinations,omitempty"`
	Ports               []Heavy `json:"ports,omitempty"`
	SourcePrefixes      []Heavy `json:"source_prefixes,omitempty"`
	DestinationPrefixes []Heavy `json:"destination_prefixes,omitempty"`
	// DistinctSources and DistinctDestinations are estimates.
	DistinctSources      uint64 `json:"distinct_sources,omitempty"`
	DistinctDestinations uint64 `json:"distinct_destinations,omitempty"`
	// SingleUseSources estimates the sources that hold just one entry: a mass
	// of them is what forged addresses look like.
	SingleUseSources uint64 `json:"single_use_sources,omitempty"`
	// HeavyError is the sketch's error bound as a share of Entries, 0 to 1.
	HeavyError float64 `json:"heavy_error"`
	// SampleError is the 95 % half-width of a share of one half, 0 to 1, that
	// reading only a panel brings; 0 for a complete reading. It is systematic:
	// reading the panel again does not lessen it.
	SampleError float64 `json:"sample_error"`
}

// Share is n as a part of the entries read, 0 to 1.
func (c *Census) Share(n uint64) float64 {
	if c == nil || c.Entries == 0 {
		return 0
	}
	return float64(n) / float64(c.Entries)
}

// Sum adds up the entries of all classes for which keep is true.
func (c *Census) Sum(keep func(ClassKey) bool) uint64 {
	var n uint64
	if c != nil {
		for _, cl := range c.Classes {
			if keep(cl.ClassKey) {
				n += cl.Entries
			}
		}
	}
	return n
}

// Rates compare two readings.
type Rates struct {
	Interval time.Duration
	// Counters is the growth of the per-CPU counters over the interval.
	Counters Counters
	// CountStart and CountEnd are the entries in the table at both readings.
	CountStart, CountEnd Value
	// Births and Deaths are entries a second, from the panel scaled to the
	// table; valid when Panel is true. Short-lived entries that come and go
	// between the readings are not in them.
	BirthsPerSecond, DeathsPerSecond float64
	// MeanLifetime by Little's law, count / births; 0 if there were no births.
	MeanLifetime time.Duration
	// Rearmed is the share of surviving entries whose timeout was renewed, 0 to 1.
	Rearmed float64
	// BirthsByClass are births a second of each class that had any.
	BirthsByClass []ClassRate
	Panel         bool
}

// ClassRate is a rate of births or deaths of one class.
type ClassRate struct {
	ClassKey
	PerSecond float64
}

// Snapshot is all that was read of one machine in one namespace at one time.
type Snapshot struct {
	Time          time.Time     `json:"time"`
	Host          string        `json:"host"`
	Release       string        `json:"release"` // uname -r
	Version       KernelVersion `json:"version"`
	CPUs          int           `json:"cpus,omitempty"`
	UptimeSeconds Value         `json:"uptime_seconds,omitzero"`
	Netns         Netns         `json:"netns"`
	Container     string        `json:"container,omitempty"` // the container runtime this process runs in, ""

	Limits   Limits   `json:"limits"`
	Timeouts Timeouts `json:"timeouts_seconds"`
	Knobs    Knobs    `json:"knobs"`
	Memory   Memory   `json:"memory"`
	Tracking Tracking `json:"tracking"`
	// ModuleParams are the files of /sys/module/nf_conntrack/parameters.
	ModuleParams map[string]string `json:"module_params,omitempty"`
	// Sysctls are all connection-tracking keys found, by their full live name
	// ("net.netfilter.nf_conntrack_max"), as text.
	Sysctls map[string]string `json:"sysctls,omitempty"`

	Counters Counters   `json:"counters"`
	PerCPU   []Counters `json:"per_cpu,omitempty"`

	Census *Census `json:"census,omitempty"` // nil if the table could not be read or was not asked for
	Rates  *Rates  `json:"rates,omitempty"`  // nil for a single reading

	// Lookalikes is the last reading of what can be mistaken for a full table,
	// LookalikesBefore the one before the observation; nil if not read.
	Lookalikes       *Lookalikes `json:"lookalikes,omitempty"`
	LookalikesBefore *Lookalikes `json:"lookalikes_before,omitempty"`
	// Namespaces are the host's network namespaces, where they were asked for.
	Namespaces []Namespace `json:"namespaces,omitempty"`
	// Dying are entries that have left the table and are still counted,
	// because a reliable listener has not taken their last event.
	Dying Value `json:"dying,omitzero"`

	Blind []Blind `json:"blind,omitempty"`
	// SelfAddresses are this namespace's own addresses, Gateways and
	// Nameservers what it routes through and asks.
	SelfAddresses []netip.Addr `json:"self_addresses,omitempty"`
	Gateways      []netip.Addr `json:"gateways,omitempty"`
	Nameservers   []netip.Addr `json:"nameservers,omitempty"`
}

// Fill is count / max, 0 to 1 and a little above; ok is false if either is
// unknown or there is no limit.
func (s *Snapshot) Fill() (fill float64, ok bool) {
	c, m := s.Limits.Count, s.Limits.Max
	if !c.Known || !m.Known || m.N <= 0 {
		return 0, false
	}
	return float64(c.N) / float64(m.N), true
}

// Namespace is one network namespace of a host, as seen from outside.
type Namespace struct {
	Inode     uint64   `json:"inode"`
	Names     []string `json:"names,omitempty"` // as ip-netns(8) or a runtime keeps it
	Path      string   `json:"path,omitempty"`  // a file that stands for it, where it has a name
	Owner     string   `json:"owner,omitempty"` // container, pod or unit of a process inside
	Pid       int      `json:"pid,omitempty"`   // a process inside
	Comm      string   `json:"comm,omitempty"`  // and its name
	Processes int      `json:"processes"`
	Count     Value    `json:"count,omitzero"`
	Counters  Counters `json:"counters"`
	Problem   string   `json:"problem,omitempty"` // why it could not be read
}

// Label names the namespace for a person: its owner, its name, a process.
func (n *Namespace) Label() string {
	switch {
	case n.Owner != "":
		return n.Owner
	case len(n.Names) > 0:
		return "namespace " + n.Names[0]
	case n.Comm != "":
		return n.Comm + " (pid " + strconv.Itoa(n.Pid) + ")"
	}
	return "net:[" + strconv.FormatUint(n.Inode, 10) + "]"
}
