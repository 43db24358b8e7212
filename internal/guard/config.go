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

	// EntriesPerMinute and EntriesPerIncident bound how many entries are put on
	// probation; SourcesPerIncident how many sources are limited.
	EntriesPerMinute, EntriesPerIncident, SourcesPerIncident int

	// Manage are prefixes from which the machine is administered, Protect
	// others that are never limited or cut.
	Manage, Protect []netip.Prefix
}

// DefaultConfig is what works without a file: it observes.
func DefaultConfig() Config {
	return Config{
		KeepIdle: 2 * time.Hour, MemoryShare: 0.05,
		WatchFill: 0.5, PressureFill: 0.75, EmergencyFill: 0.92,
		WatchFull: 30 * time.Second, PressureFull: 10 * time.Second, EmergencyFull: 2 * time.Second,
		Leave:    15 * time.Second,
		Headroom: true, Timeouts: true, Probation: true, FairShares: true, Admission: true, Buckets: true,
		EntriesPerMinute: 600_000, EntriesPerIncident: 10_000_000, SourcesPerIncident: 4096,
	}
}
