package diagnose

import (
	"net/netip"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
)

var now = time.Date(2026, 3, 14, 3, 12, 0, 0, time.UTC)

// edit changes an input; fixtures are made of a healthy machine and edits.
type edit func(*Input)

// fixture is a quiet server with 24 GiB on 6.18, edited.
func fixture(edits ...edit) Input {
	v := ct.KernelVersion{Major: 6, Minor: 18, Patch: 44}
	s := &ct.Snapshot{
		Time: now, Host: "gw1", Release: "6.18.44-amd64", Version: v, CPUs: 2,
		Netns:    ct.Netns{Inode: 4026531840, Initial: ct.Yes},
		Limits:   ct.Limits{Count: ct.Known(1204), Max: ct.Known(262144), Buckets: ct.Known(262144), MaxWritable: ct.Yes},
		Timeouts: ct.DefaultTimeouts(v),
		Memory:   ct.Memory{TotalBytes: ct.Known(24 * gib), AvailableBytes: ct.Known(20 * gib), SlabObjectBytes: ct.Known(256)},
		Tracking: ct.Tracking{ModuleLoaded: ct.Yes, BuiltIn: ct.No, Active: ct.Yes, NAT: ct.No},
		SelfAddresses: []netip.Addr{
			netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("198.51.100.1")},
		Nameservers: []netip.Addr{netip.MustParseAddr("10.0.0.53")},
		Rates:       &ct.Rates{Interval: 2 * time.Second, Panel: true, Rearmed: 0.4, BirthsPerSecond: 20, DeathsPerSecond: 20},
	}
	s.Counters.SetByName("drop", 0)
	s.Rates.Counters.SetByName("drop", 0)
	s.Census = &ct.Census{Complete: true, V4: 1204, DistinctSources: 300}
	in := Input{Now: now, Snapshot: s}
	classes(
		class(ct.TCP, ct.TCPEstablished, true, true, 800, 300, 20),
		class(ct.TCP, ct.TCPTimeWait, true, true, 200),
		class(ct.UDP, 0, false, true, 204),
	)(&in)
	for _, e := range edits {
		e(&in)
	}
	c := s.Census
	if c != nil {
		c.V4 = c.Entries
	}
	return in
}

// class makes a class; idle are the entries idle over a minute, ten minutes,
// an hour and a day.
func class(p ct.Proto, st ct.State, assured, replied bool, n uint64, idle ...uint64) ct.Class {
	c := ct.Class{ClassKey: ct.ClassKey{Proto: p, State: st, Assured: assured, Replied: replied}, Entries: n, IdleKnown: n}
	copy(c.IdleOver[:], idle)
	return c
}

func classes(cl ...ct.Class) edit {
	return func(in *Input) {
		c := in.Snapshot.Census
		c.Classes, c.Entries = cl, 0
		for _, k := range cl {
			c.Entries += k.Entries
		}
		in.Snapshot.Limits.Count = ct.Known(int64(c.Entries))
	}
}

// limits sets count, max and buckets.
func limits(count, maxEntries, buckets int64) edit {
	return func(in *Input) {
		l := &in.Snapshot.Limits
		l.Count, l.Max, l.Buckets = ct.Known(count), ct.Known(maxEntries), ct.Known(buckets)
	}
}

// grew sets what the counters grew by within the two seconds.
func grew(drop, earlyDrop uint32) edit {
	return func(in *Input) {
		c := &in.Snapshot.Rates.Counters
		c.SetByName("drop", drop)
		c.SetByName("early_drop", earlyDrop)
	}
}

func counts(start, end int64) edit {
	return func(in *Input) {
		in.Snapshot.Rates.CountStart, in.Snapshot.Rates.CountEnd = ct.Known(start), ct.Known(end)
	}
}

// spreadOver sets the number of different sources, and those seen once.
func spreadOver(distinct, single uint64) edit {
	return func(in *Input) {
		in.Snapshot.Census.DistinctSources, in.Snapshot.Census.SingleUseSources = distinct, single
	}
}

func sources(h ...ct.Heavy) edit {
	return func(in *Input) { in.Snapshot.Census.Sources = h }
}

func destinations(h ...ct.Heavy) edit {
	return func(in *Input) { in.Snapshot.Census.Destinations = h }
}

func ports(h ...ct.Heavy) edit {
	return func(in *Input) { in.Snapshot.Census.Ports = h }
}

// heavy makes a heavy hitter of an address.
func heavy(addr string, n uint64, edits ...func(*ct.Heavy)) ct.Heavy {
	a := netip.MustParseAddr(addr)
	h := ct.Heavy{Prefix: netip.PrefixFrom(a, a.BitLen()), Entries: n, DistinctPeers: 1, DistinctPorts: 1}
	for _, e := range edits {
		e(&h)
	}
	return h
}

func to(p ct.Proto, port uint16, share float64) func(*ct.Heavy) {
	return func(h *ct.Heavy) { h.MainProto, h.MainPort, h.MainPortShare = p, port, share }
}

func made(replied, assured, halfOpen, unreplied uint64) func(*ct.Heavy) {
	return func(h *ct.Heavy) {
		h.Replied, h.Assured, h.HalfOpen, h.Unreplied = replied, assured, halfOpen, unreplied
	}
}

func peers(addrs, ports uint64) func(*ct.Heavy) {
	return func(h *ct.Heavy) { h.DistinctPeers, h.DistinctPorts = addrs, ports }
}

func rearmed(share float64) edit {
	return func(in *Input) { in.Snapshot.Rates.Rearmed = share }
}

func births(perSecond float64, life time.Duration) edit {
	return func(in *Input) {
		r := in.Snapshot.Rates
		r.BirthsPerSecond, r.DeathsPerSecond, r.MeanLifetime = perSecond, perSecond, life
	}
}

func nat(in *Input) { in.Snapshot.Tracking.NAT = ct.Yes }

// logged adds an episode; a zero inode is a line that names no namespace.
func logged(ago, lasted time.Duration, inode, lines, suppressed uint64) edit {
	return func(in *Input) {
		if in.Log == nil {
			in.Log = &klog.Report{}
		}
		in.Log.Episodes = append(in.Log.Episodes, klog.Episode{
			Kind: klog.TableFull, Start: now.Add(-ago), End: now.Add(-ago + lasted), TimeKnown: true,
			NetnsInode: inode, Era: klog.EraDoubled, Lines: lines, Suppressed: suppressed,
			RefusedMin: lines, RefusedMax: lines + suppressed,
			Sources: []string{"/var/log/kern.log"}, Sample: "nf_conntrack: nf_conntrack: table full, dropping packet",
		})
	}
}

// originLog is a log of two lines only: one refusal, and a count cut short.
func originLog() Input {
	return Input{Now: now, Log: &klog.Report{Episodes: []klog.Episode{{
		Kind: klog.TableFull, Era: klog.EraPeriod, Lines: 1, Suppressed: 15812, RefusedMin: 1, RefusedMax: 15813,
		OpenEnded: true, Sources: []string{"-"}, Sample: "nf_conntrack: table full, dropping packet.",
	}}}}
}
