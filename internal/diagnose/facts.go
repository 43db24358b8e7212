package diagnose

import (
	"net/netip"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
)

// facts are the input with what several findings derive from it. Its snapshot
// and census are never nil; the flags say what they are worth.
type facts struct {
	in        Input
	s         *ct.Snapshot
	c         *ct.Census
	looked    bool // a machine was read, not logs alone
	composed  bool // enough entries were read to speak of shares
	blind     []ct.Blind
	fill      float64 // the highest of the readings, as a share of max
	fillKnown bool
	peak      int64 // the highest count of the readings

	watched  bool          // two readings
	interval time.Duration // between them
	refused  uint64        // packets refused within the interval, for lack of room as far as can be told
	evicted  uint64        // entries evicted by the packet path within the interval
	net      float64       // growth of the count, entries a second

	unassured float64 // share of entries that early drop may evict
	odds      float64 // of admission at the limit
	oddsKnown bool

	full, near, refusing, evicting bool

	// recent is set when the log shows refusals of this namespace within the
	// last day, or at a time it does not tell.
	recent bool
}

func newFacts(in Input) *facts {
	f := &facts{in: in, s: in.Snapshot, looked: in.Snapshot != nil}
	if f.s == nil {
		f.s = &ct.Snapshot{}
	}
	f.c = f.s.Census
	if f.c == nil {
		f.c = &ct.Census{}
	}
	if f.c.DistinctSources > f.c.Entries { // an estimate
		c := *f.c
		c.DistinctSources = c.Entries
		c.SingleUseSources = min(c.SingleUseSources, c.Entries)
		f.c = &c
	}
	f.composed = f.c.Entries >= minEntries
	f.blind = append(append(f.blind, f.s.Blind...), in.Blind...)
	f.rates()
	f.level()
	f.admission()
	f.full = f.fillKnown && (f.fill >= fullFill || f.fill >= gcFill && (f.refused > 0 || f.evicted > 0))
	f.near = f.fillKnown && !f.full && f.fill >= nearFill
	f.refusing = f.full && f.refused > 0
	f.evicting = f.evicted > 0
	f.recent = f.recentlyRefused()
	return f
}

func (f *facts) rates() {
	r := f.s.Rates
	if r == nil || r.Interval <= 0 {
		return
	}
	f.watched, f.interval = true, r.Interval
	f.refused = refusedOf(&r.Counters)
	f.evicted = uint64(r.Counters.EarlyDrop)
	if r.CountStart.Known && r.CountEnd.Known {
		f.net = float64(r.CountEnd.N-r.CountStart.N) / r.Interval.Seconds()
	}
}

// refusedOf takes lost clashes out of the drop counter: a clash that cannot be
// resolved raises drop and insert_failed, a chain that is too long raises
// insert_failed and chaintoolong only.
func refusedOf(c *ct.Counters) uint64 {
	clashes := uint64(0)
	if c.InsertFailed > c.ChainTooLong {
		clashes = uint64(c.InsertFailed - c.ChainTooLong)
	}
	if drop := uint64(c.Drop); drop > clashes {
		return drop - clashes
	}
	return 0
}

func (f *facts) level() {
	f.peak = f.s.Limits.Count.Or(0)
	if r := f.s.Rates; r != nil {
		f.peak = max(f.peak, r.CountStart.Or(0), r.CountEnd.Or(0))
	}
	m := f.s.Limits.Max
	if !f.s.Limits.Count.Known || !m.Known || m.N <= 0 {
		return
	}
	f.fill, f.fillKnown = float64(f.peak)/float64(m.N), true
}

func (f *facts) admission() {
	if !f.composed {
		return
	}
	f.unassured = 1 - f.c.Share(f.c.Sum(func(k ct.ClassKey) bool { return k.Assured }))
	if b := f.s.Limits.Buckets; b.Known && f.s.Limits.Max.Or(0) > 0 {
		f.odds, f.oddsKnown = ct.EarlyDropOdds(f.s.Version, f.unassured, f.s.Limits.Max.N, b.N), true
	}
}

// here reports whether an episode of the log is of the namespace that was
// read. A line without a number is the initial namespace's from 6.17 on, and
// may be any namespace's before.
func (f *facts) here(e *klog.Episode) bool {
	if !f.looked {
		return true
	}
	if f.foreign(e) {
		return false
	}
	if e.NetnsInode != 0 {
		return e.NetnsInode == f.s.Netns.Inode && !neverRefused(&f.s.Counters)
	}
	return f.s.Netns.Initial != ct.No || !f.s.Version.AtLeast(6, 17)
}

// neverRefused reports whether a namespace has refused nothing since it was
// made. A line of the log that bears its number is then of an earlier one: the
// kernel gives numbers out again.
func neverRefused(c *ct.Counters) bool { return c.Has&ct.CounterDrop != 0 && c.Drop == 0 }

// foreign reports whether an episode is of another machine: logs are collected
// in one place and named with --log.
func (f *facts) foreign(e *klog.Episode) bool {
	return f.looked && e.Host != "" && f.s.Host != "" && shortName(e.Host) != shortName(f.s.Host)
}

// shortName is a host's name without its domain, in lower case.
func shortName(host string) string {
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	return host
}

func (f *facts) recentlyRefused() bool {
	for i := range f.episodes() {
		e := &f.in.Log.Episodes[i]
		if e.Kind == klog.TableFull && f.here(e) && (!e.TimeKnown || f.in.Now.Sub(e.End) < recentEpisode) {
			return true
		}
	}
	return false
}

func (f *facts) episodes() []klog.Episode {
	if f.in.Log == nil {
		return nil
	}
	return f.in.Log.Episodes
}

// share is the part of the entries read for which keep is true.
func (f *facts) share(keep func(ct.ClassKey) bool) float64 { return f.c.Share(f.c.Sum(keep)) }

// estimate scales a share of the entries read to the table.
func (f *facts) estimate(share float64) int64 { return int64(share*float64(f.peak) + 0.5) }

// perSecond is a rate over the observation.
func (f *facts) perSecond(n uint64) float64 {
	if f.interval <= 0 {
		return 0
	}
	return float64(n) / f.interval.Seconds()
}

// isSelf reports whether an address is one of this namespace's own.
func (f *facts) isSelf(a netip.Addr) bool { return contains(f.s.SelfAddresses, a) }

func contains(list []netip.Addr, a netip.Addr) bool {
	for _, x := range list {
		if x.Unmap() == a.Unmap() {
			return true
		}
	}
	return false
}

var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// isInside reports whether an address can only be of this machine or of a
// network behind it: private, unique local, link local, shared (RFC 6598).
func (f *facts) isInside(a netip.Addr) bool {
	return f.isSelf(a) || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || sharedSpace.Contains(a)
}
