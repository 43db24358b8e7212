// Package klog reads kernel log text and groups what it says about connection
// tracking into episodes.
//
// It is pure: readers go in, values come out. Where the readers come from, and
// what time it is, the caller says.
package klog

import (
	"fmt"
	"slices"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// Kind says what a line of the log reports.
type Kind uint8

// Kinds of lines. TableFull and ExpectTableFull make episodes, Suppressed is
// counted into them, all others are neighbours.
const (
	Unknown           Kind = iota
	TableFull              // "table full, dropping packet": __nf_conntrack_alloc
	ExpectTableFull        // "expectation table full": __nf_ct_expect_check
	Suppressed             // "net_ratelimit: N callbacks suppressed" of the shared limiter
	SuppressedPrivate      // the same of one function's own limiter: unrelated
	SynFlood               // "Possible SYN flooding on port": once for each listening socket
	NeighbourOverflow      // "neighbor table overflow!"
	SocketMemory           // "out of memory -- consider tuning tcp_mem", "Out of socket memory"
	OrphanedSockets        // "too many orphaned sockets"
	BucketsFellBack        // "falling back to vmalloc": up to 3.10
	Loaded                 // "nf_conntrack version … (N buckets, M max)": up to 4.15
	HelperAssignment       // automatic helper assignment is deprecated, or off
	HelperDrop             // "nf_ct_NAME: dropping packet: …"
	InvalidPacket          // "nf_ct_proto_N: …": nf_conntrack_log_invalid is on
	SettingNotApplied      // systemd-sysctl or sysctl could not write a conntrack key
	numKinds
)

var kindNames = [numKinds]string{"unknown", "table-full", "expectation-table-full",
	"suppressed", "suppressed-private", "syn-flood", "neighbour-overflow",
	"socket-memory", "orphaned-sockets", "buckets-fell-back", "loaded",
	"helper-assignment", "helper-drop", "invalid-packet", "setting-not-applied"}

// String returns the kind in kebab-case.
func (k Kind) String() string {
	if k < numKinds {
		return kindNames[k]
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// MarshalText writes the kind as [Kind.String] does.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText wrote; a kind of a later version is
// Unknown.
func (k *Kind) UnmarshalText(b []byte) error {
	*k = Kind(max(slices.Index(kindNames[:], string(b)), 0))
	return nil
}

// Episode is a time during which one namespace refused packets, as the log
// shows it: lines of one kind with no long pause between them.
//
// The kernel's net_ratelimit is one limiter for all users and all namespaces:
// it prints net.core.message_burst lines an interval and counts the rest, and
// the count is printed only by the first call after the interval, whoever
// makes it. So Lines were surely refusals of this namespace; the Suppressed
// may have been; and what came after the last count is in no log.
type Episode struct {
	Kind Kind `json:"kind"`
	// Host is the machine's name as the log has it, "" where it has none.
	Host string `json:"host,omitempty"`
	// Start and End are the first and the last line. Without TimeKnown the
	// lines carry no usable time and both are zero.
	Start     time.Time `json:"start,omitzero"`
	End       time.Time `json:"end,omitzero"`
	TimeKnown bool      `json:"time_known"`
	// UptimeStart and UptimeEnd are the kernel's clock at the first and last
	// line, where the lines have no other.
	UptimeStart time.Duration `json:"uptime_start_nanoseconds,omitempty"`
	UptimeEnd   time.Duration `json:"uptime_end_nanoseconds,omitempty"`
	// NetnsInode is the namespace that the line names (6.17 and later, all but
	// the initial one); 0 where it names none: the initial namespace, or any
	// on older kernels. The kernel gives the number to a new namespace once
	// the old one is gone.
	NetnsInode uint64 `json:"netns_inode,omitempty"`
	// Era is what the wording tells of the kernel that wrote it.
	Era Era `json:"era,omitempty"`

	// Lines were printed. Suppressed were counted by the shared limiter
	// during the episode, for whomever.
	Lines      uint64 `json:"lines"`
	Suppressed uint64 `json:"suppressed"`
	// Shared is set when another namespace or another message was limited at
	// the same time, so that part of Suppressed is known to be theirs.
	Shared bool `json:"shared,omitempty"`
	// SuppressedAgain is the part of Suppressed that an earlier episode of
	// the same kind carries too.
	SuppressedAgain uint64 `json:"suppressed_again,omitempty"`

	// RefusedMin is a sure lower bound of the allocations refused, nearly all
	// of them packets (an insertion through ctnetlink prints the same line).
	// RefusedMax is an upper bound of what the log accounts for; with
	// OpenEnded more may have been refused than that.
	RefusedMin uint64 `json:"refused_min"`
	RefusedMax uint64 `json:"refused_max"`
	OpenEnded  bool   `json:"open_ended"`
	// TailUnreported: no count follows the last line, so what was suppressed
	// after it is unknown. Uncounted: this kernel (before 6.17, or unknown)
	// does not count callers that found the limiter's lock busy. Either makes
	// the episode OpenEnded.
	TailUnreported bool `json:"tail_unreported,omitempty"`
	Uncounted      bool `json:"uncounted,omitempty"`

	Sources []string `json:"sources"`
	// Sample is the first line's text without its prefix, at most 256 bytes.
	Sample string `json:"sample"`
}

// Duration is the time from the first line to the last, 0 if unknown.
func (e *Episode) Duration() time.Duration {
	if !e.TimeKnown {
		return e.UptimeEnd - e.UptimeStart
	}
	return e.End.Sub(e.Start)
}

// Neighbour sums up the lines of another kind that look alike or explain
// something: one value for each host, kind and detail.
type Neighbour struct {
	Kind      Kind      `json:"kind"`
	Host      string    `json:"host,omitempty"`
	First     time.Time `json:"first,omitzero"`
	Last      time.Time `json:"last,omitzero"`
	TimeKnown bool      `json:"time_known"`
	Lines     uint64    `json:"lines"`
	// Suppressed is the sum of the counts, for Suppressed (those that no
	// episode took) and SuppressedPrivate.
	Suppressed uint64 `json:"suppressed,omitempty"`
	// Detail is what the line is about: the port or address of SynFlood, the
	// cache of NeighbourOverflow, the function of SuppressedPrivate, the
	// helper, the protocol number, the key.
	Detail string `json:"detail,omitempty"`
	// Buckets and Max are what a Loaded line states.
	Buckets ct.Value `json:"buckets,omitzero"`
	Max     ct.Value `json:"max,omitzero"`
	Sources []string `json:"sources"`
	Sample  string   `json:"sample"`
}

// Source says what was read of one source.
type Source struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	// From and To are the times of its first and last line, zero where they
	// have none: what the log can know about.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// Matched counts the lines recognised in it, of any kind.
	Matched uint64 `json:"matched"`
	// Error is what ended the reading early, in words.
	Error string `json:"error,omitempty"`
}

// Skipped counts what was seen and not used.
type Skipped struct {
	// NotKernel are lines that hold the words but are not the kernel's
	// message: quotations, questions, other programs.
	NotKernel uint64 `json:"not_kernel"`
	// TooLong are mentions in lines of more than 16 KiB, which are no log lines.
	TooLong uint64 `json:"too_long"`
	// Overflow are lines beyond the bound on different hosts, namespaces and
	// details; they count for none.
	Overflow uint64 `json:"overflow"`
	// Duplicate are lines already counted from another source.
	Duplicate uint64 `json:"duplicate"`
}

// Report is what the logs say. Episodes and neighbours are ordered by time,
// those without one first.
type Report struct {
	Episodes   []Episode   `json:"episodes"`
	Neighbours []Neighbour `json:"neighbours"`
	Sources    []Source    `json:"sources"`
	Skipped    Skipped     `json:"skipped"`
}

// Read reports whether at least one source could be read: an empty log says
// something, one that refused every byte does not.
func (r *Report) Read() bool {
	return slices.ContainsFunc(r.Sources, func(s Source) bool { return s.Bytes > 0 || s.Error == "" })
}

// Refused sums the bounds over the episodes of a kind. What the limiter
// suppressed is shared by episodes that overlap and counts once.
func (r *Report) Refused(k Kind) (least, most uint64, openEnded bool) {
	for i := range r.Episodes {
		if e := &r.Episodes[i]; e.Kind == k {
			least = addSaturating(least, e.RefusedMin)
			most = addSaturating(most, e.RefusedMax-e.SuppressedAgain)
			openEnded = openEnded || e.OpenEnded
		}
	}
	return least, most, openEnded
}

// Era is a span of kernel versions told by the wording of a message.
type Era uint8

// Eras of the table-full message. Vendors backport, so an era is a hint.
const (
	EraUnknown Era = iota
	EraIP          // ip_conntrack: up to 2.6.20
	EraPeriod      // nf_conntrack with a trailing period: 2.6.18 to 3.3
	EraPlain       // without the period: 3.6 to 4.6
	EraDoubled     // doubled prefix: 4.8 and later
	EraNetns       // names the namespace: 6.17 and later
)

var eraText = [...]string{"", "up to 2.6.20", "2.6.18 to 3.3", "3.6 to 4.6", "4.8 or later", "6.17 or later"}

// String returns the versions in words, "4.8 or later".
func (e Era) String() string {
	if int(e) < len(eraText) {
		return eraText[e]
	}
	return ""
}

// MarshalText writes the versions in words.
func (e Era) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads what MarshalText wrote; other words are EraUnknown.
func (e *Era) UnmarshalText(b []byte) error {
	*e = Era(max(slices.Index(eraText[:], string(b)), 0))
	return nil
}

// Options are what the text itself does not tell.
type Options struct {
	// Location is the zone of timestamps that have none; nil is UTC.
	Location *time.Location
	// Now is the present: no line is later, bar a skewed clock. It gives the
	// year to timestamps that have none where no better hint exists.
	Now time.Time
	// Version is the kernel that wrote the logs; zero is unknown.
	Version ct.KernelVersion
	// Gap is the longest pause inside an episode; 0 is DefaultGap.
	Gap time.Duration
}

// DefaultGap is the longest pause between two lines of one episode.
const DefaultGap = 5 * time.Minute

// Hints are what is known of one source besides its text.
type Hints struct {
	// Family names sources that continue one another, as rotated files do:
	// what one of them holds is not in the others. Sources of different
	// families may hold the same events, which then count once. "" is the
	// source's own name.
	Family string
	// ModTime is when the last line was written, as a file's time says; zero
	// is unknown.
	ModTime time.Time
	// Boot is the time of [    0.000000]; zero is unknown.
	Boot time.Time
}
