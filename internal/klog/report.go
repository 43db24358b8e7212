package klog

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report groups what was read into episodes and neighbours. More may be fed
// afterwards.
func (c *Collector) Report() *Report {
	m := c.merge()
	r := &Report{Episodes: []Episode{}, Neighbours: []Neighbour{}, Sources: slices.Clone(c.sources), Skipped: c.skipped}
	r.Skipped.Duplicate = m.duplicate
	spans := m.episodes()
	taken := m.attribute(spans)
	for _, s := range spans {
		r.Episodes = append(r.Episodes, c.episode(m, s))
	}
	for k, slots := range m.slots {
		switch k.kind {
		case TableFull, ExpectTableFull:
			continue
		case Suppressed:
			slots = slices.DeleteFunc(slices.Clone(slots), func(s *slot) bool { return taken[s] })
		}
		if len(slots) > 0 {
			r.Neighbours = append(r.Neighbours, c.neighbour(m, k, slots))
		}
	}
	slices.SortFunc(r.Episodes, func(a, b Episode) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.UptimeStart, b.UptimeStart),
			cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Host, b.Host), cmp.Compare(a.NetnsInode, b.NetnsInode))
	})
	slices.SortFunc(r.Neighbours, func(a, b Neighbour) int {
		return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.Kind, b.Kind),
			strings.Compare(a.Host, b.Host), strings.Compare(a.Detail, b.Detail))
	})
	return r
}

// merged is what all families hold, every line once.
type merged struct {
	gap       int64
	slots     map[key][]*slot
	about     map[key]*about
	duplicate uint64
}

func (c *Collector) merge() *merged {
	m := &merged{gap: int64(c.opts.Gap), slots: map[key][]*slot{}, about: map[key]*about{}}
	hosts := c.hostNames()
	byKey := map[key][][]*slot{}
	for _, f := range c.families {
		same := map[key][]*slot{} // keys that are one once hosts and axes are known
		for k, slots := range f.tally.series() {
			a := f.tally.keys[k]
			k.host = hosts(k.host)
			if k.axis == axisMono {
				if boot, ok := c.bootOf(f); ok {
					k.axis, slots = axisUnix, moved(slots, boot)
				}
			}
			same[k] = append(same[k], slots...)
			if old := m.about[k]; old == nil || a.era > old.era {
				m.about[k] = a
			}
		}
		for k, slots := range same {
			sortSlots(slots)
			byKey[k] = append(byKey[k], slots)
		}
	}
	for k, perFamily := range byKey {
		m.unite(k, perFamily)
	}
	return m
}

// bootOf is what to add to a family's kernel clock. That clock drifts from the
// wall's by seconds a day, so where another source has lines with both, the
// last of them is a better guide than the time of the boot.
func (c *Collector) bootOf(f *family) (offset int64, ok bool) {
	if f.boot.IsZero() {
		return 0, false
	}
	boot := f.boot.UnixNano()
	for _, o := range c.families {
		if d := o.realOffset - boot; o.hasOffset && max(d, -d) < int64(time.Minute)+maxDrift(o.offsetAt) {
			return o.realOffset, true
		}
	}
	return boot, true
}

func moved(slots []*slot, by int64) []*slot {
	out := make([]*slot, len(slots))
	for i, s := range slots {
		t := *s
		t.first, t.last = t.first+by, t.last+by
		out[i] = &t
	}
	return out
}

// hostNames returns a function that maps the names a machine goes by onto one:
// with and without domain, none, and what it is called early in the boot. A
// line without a host belongs to the only host there is.
func (c *Collector) hostNames() func(string) string {
	long := map[string]string{} // short name to the longest seen
	for _, f := range c.families {
		for k := range f.tally.keys {
			short := shortHost(k.host)
			if len(k.host) > len(long[short]) || len(k.host) == len(long[short]) && k.host > long[short] {
				long[short] = k.host
			}
		}
	}
	delete(long, "")
	only := ""
	if len(long) == 1 {
		for _, h := range long {
			only = h
		}
	}
	return func(h string) string { return cmp.Or(long[shortHost(h)], only) }
}

func shortHost(h string) string {
	if strings.Trim(h, "0123456789.") == "" || strings.Contains(h, ":") {
		return h // an address
	}
	h, _, _ = strings.Cut(h, ".")
	if h == "localhost" || h == "(none)" {
		return ""
	}
	return h
}

// slack is how far apart two sources may date the same line.
const slack = int64(time.Minute)

// unite takes the slots of the family that has most, and of the others what
// lies where it has none.
func (m *merged) unite(k key, perFamily [][]*slot) {
	slices.SortStableFunc(perFamily, func(a, b []*slot) int { return cmp.Compare(total(b), total(a)) })
	var have []*slot
	for i, slots := range perFamily {
		var extra []*slot
		for _, s := range slots {
			near := nearest(have, s)
			if i > 0 && k.axis == axisOrder && len(have) > 0 {
				near = have[0]
			}
			if near == nil {
				t := *s
				extra = append(extra, &t)
				continue
			}
			near.sources = union(near.sources, s.sources)
			m.duplicate += s.lines
		}
		have = append(have, extra...)
		sortSlots(have)
	}
	m.slots[k] = have
}

// nearest returns a slot of have that s overlaps, give or take the slack.
func nearest(have []*slot, s *slot) *slot {
	i, _ := slices.BinarySearchFunc(have, s.first-slack, func(h *slot, t int64) int { return cmp.Compare(h.last, t) })
	if i < len(have) && have[i].first <= s.last+slack {
		return have[i]
	}
	return nil
}

func total(slots []*slot) (n uint64) {
	for _, s := range slots {
		n = addSaturating(n, addSaturating(s.lines, s.suppressed))
	}
	return n
}

func union(a, b []int32) []int32 {
	u := slices.Concat(a, b)
	slices.Sort(u)
	return slices.Compact(u)
}

func sortSlots(s []*slot) {
	slices.SortFunc(s, func(a, b *slot) int { return cmp.Compare(a.first, b.first) })
}

// span is an episode in the making.
type span struct {
	key
	slot            // of all its lines
	suppressedSlots []*slot
	shared          bool
	again           uint64
}

// episodes cuts the lines of refusals where the pause is too long. Lines
// without a time, or in the order of the text only, are one episode.
func (m *merged) episodes() []*span {
	var spans []*span
	for _, k := range slices.SortedFunc(maps.Keys(m.slots), compareKeys) {
		if k.kind != TableFull && k.kind != ExpectTableFull {
			continue
		}
		var cur *span
		for _, s := range m.slots[k] {
			if cur == nil || k.axis != axisOrder && s.first-cur.last > m.gap {
				cur = &span{key: k, slot: slot{first: s.first, last: s.last}}
				spans = append(spans, cur)
			}
			cur.merge(s)
		}
	}
	return spans
}

func compareKeys(a, b key) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.axis, b.axis), strings.Compare(a.host, b.host),
		cmp.Compare(a.netns, b.netns), strings.Compare(a.detail, b.detail))
}

// attribute gives the counts of the shared limiter to the episodes they can
// belong to: those running when the count was printed, and those that ended
// before it if no other count came between, for the limiter prints what it
// holds at the first call after the pause, whoever makes it and however late.
func (m *merged) attribute(spans []*span) (taken map[*slot]bool) {
	taken = map[*slot]bool{}
	type claim struct {
		slot *slot
		kind Kind
	}
	claimed := map[claim]bool{}
	for k, slots := range m.slots {
		if k.kind != Suppressed {
			continue
		}
		for _, s := range spans {
			if s.host != k.host || s.axis != k.axis {
				continue
			}
			for _, q := range m.countsOf(s, slots) {
				s.suppressedSlots = append(s.suppressedSlots, q)
				s.slot.suppressed = addSaturating(s.slot.suppressed, q.suppressed)
				s.sources = union(s.sources, q.sources)
				if claimed[claim{q, s.kind}] {
					s.again = addSaturating(s.again, q.suppressed)
				}
				s.shared = s.shared || taken[q]
				taken[q], claimed[claim{q, s.kind}] = true, true
			}
		}
	}
	m.markShared(spans)
	return taken
}

// countsOf returns the slots of the limiter's counts that can hold refusals of
// an episode.
func (m *merged) countsOf(s *span, counts []*slot) (of []*slot) {
	const before = int64(10 * time.Second) // the limiter prints its count before the line
	tail := false
	for _, q := range counts {
		switch {
		case s.axis == axisOrder, q.last >= s.first-before && q.first <= s.last+m.gap:
			of = append(of, q)
			tail = tail || q.last > s.last
		case q.first > s.last && !tail:
			return append(of, q)
		}
	}
	return of
}

// markShared marks the episodes during which something else used the limiter.
func (m *merged) markShared(spans []*span) {
	for _, s := range spans {
		for k, slots := range m.slots {
			if k == s.key || k.host != s.host || k.axis != s.axis || !k.kind.limited() {
				continue
			}
			for _, o := range slots {
				s.shared = s.shared || o.first <= s.last && o.last >= s.first
			}
		}
	}
}

// limited reports whether lines of this kind go through the shared limiter.
func (k Kind) limited() bool {
	switch k {
	case TableFull, ExpectTableFull, SynFlood, NeighbourOverflow, SocketMemory, OrphanedSockets:
		return true
	}
	return false
}

func (c *Collector) episode(m *merged, s *span) Episode {
	a := m.about[s.key]
	e := Episode{
		Kind: s.kind, Host: s.host, NetnsInode: s.netns, Era: a.era, Sample: a.sample,
		Lines: s.lines, Suppressed: s.slot.suppressed, Shared: s.shared, SuppressedAgain: s.again,
		RefusedMin: s.lines, RefusedMax: addSaturating(s.lines, s.slot.suppressed),
		TailUnreported: true, Sources: c.names(s.sources),
	}
	for _, q := range s.suppressedSlots {
		e.TailUnreported = e.TailUnreported && q.last <= s.last
	}
	e.Uncounted = !c.opts.Version.AtLeast(6, 17) && a.era != EraNetns
	e.OpenEnded = e.TailUnreported || e.Uncounted
	switch s.axis {
	case axisUnix:
		e.Start, e.End, e.TimeKnown = c.time(s.first), c.time(s.last), true
	case axisMono:
		e.UptimeStart, e.UptimeEnd = time.Duration(s.first), time.Duration(s.last)
	}
	return e
}

func (c *Collector) neighbour(m *merged, k key, slots []*slot) Neighbour {
	a := m.about[k]
	sum := slot{first: slots[0].first, last: slots[0].last}
	for _, s := range slots {
		sum.merge(s)
	}
	n := Neighbour{
		Kind: k.kind, Host: k.host, Detail: k.detail, Lines: sum.lines, Suppressed: sum.suppressed,
		Buckets: a.event.buckets, Max: a.event.max, Sources: c.names(sum.sources), Sample: a.sample,
	}
	if k.axis == axisUnix {
		n.First, n.Last, n.TimeKnown = c.time(sum.first), c.time(sum.last), true
	}
	return n
}

func (c *Collector) time(unixNanos int64) time.Time {
	return time.Unix(0, unixNanos).In(c.opts.Location)
}

func (c *Collector) names(sources []int32) []string {
	names := make([]string, len(sources))
	for i, s := range sources {
		names[i] = c.sources[s].Name
	}
	return names
}
