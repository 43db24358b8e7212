package guard

import (
	"net/netip"
	"time"
)

// Config is what an administrator may choose. Start from [DefaultConfig]; a
// configuration file changes single values.
type Config struct {
	// Enforce acts; otherwise the policy only says what it would do.
	Enforce bool

	// KeepIdle is how long a connection may be silent and still is one: entries
	// that lived before an incident are not thinned until then.
	KeepIdle time.Duration
	// MemoryShare is the share of the memory available at the start, 0 to 1,
	// that the table may come to take; MaxCeiling bounds the limit besides, 0
	// is no other bound.
	MemoryShare float64
	MaxCeiling  int64

	// Levels: shares of max, 0 to 1, and how soon the table would be full.
	WatchFill, PressureFill, EmergencyFill float64
	WatchFull, PressureFull, EmergencyFull time.Duration
	// Leave is how long a level must not be called for before it is left.
	Leave time.Duration

	// Means that may be used.
	Headroom, Timeouts, Probation, FairShares, Admission, Buckets bool
	// SynProxy and NoTrack are not for every machine, and are proposed. SYNPROXY
	// is never more than that.
	SynProxy, NoTrack Permission

	// EntriesPerMinute and EntriesPerIncident bound how many entries are put on
	// probation; SourcesPerIncident how many sources are limited.
	EntriesPerMinute, EntriesPerIncident, SourcesPerIncident int

	// Manage are prefixes from which the machine is administered, Protect
	// others that are never limited or cut.
	Manage, Protect []netip.Prefix
}

// Permission says how far a means may go that is not for every machine.
type Permission uint8

// Permissions, from the least.
const (
	Never   Permission = iota // not even spoken of
	Propose                   // said, with its proof and its price
	Allow                     // used where it is proven
)

// Remarks say what a configuration does not do that might be expected of it.
func (c *Config) Remarks() (list []string) {
	if c.SynProxy == Propose {
		list = append(list, "means.synproxy: against a flood of SYNs it is weighed and at most proposed; the guard does not put it in place.")
	}
	switch {
	case c.NoTrack == Allow && len(c.Manage) == 0:
		list = append(list, "means.notrack: allow has nothing to do: manage: is empty.")
	case c.NoTrack == Allow && !c.Enforce:
		list = append(list, "means.notrack: allow only proposes while mode is observe.")
	case c.NoTrack == Propose && len(c.Manage) > 0:
		list = append(list, "means.notrack: the path before tracking for manage: is proposed; allow puts it in place where it is proven.")
	}
	return list
}

// DefaultConfig is what works without a file: it observes.
func DefaultConfig() Config {
	return Config{
		KeepIdle: 2 * time.Hour, MemoryShare: 0.05,
		WatchFill: 0.5, PressureFill: 0.75, EmergencyFill: 0.92,
		WatchFull: 30 * time.Second, PressureFull: 10 * time.Second, EmergencyFull: 2 * time.Second,
		Leave:    15 * time.Second,
		Headroom: true, Timeouts: true, Probation: true, FairShares: true, Admission: true, Buckets: true,
		SynProxy: Propose, NoTrack: Propose,
		EntriesPerMinute: 600_000, EntriesPerIncident: 10_000_000, SourcesPerIncident: 4096,
	}
}
