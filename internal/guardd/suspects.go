package guardd

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/evict"
	"github.com/ctwarden/ctwarden/internal/guard"
)

// breaks reports whether losing an entry may break its connection: it carries
// something that nothing could bring back. A question that nobody answered is
// asked again, and a connection that has ended has nothing to lose.
func breaks(f *ct.Flow, fragile bool) bool {
	if !f.Replied() || f.Orig.Proto == ct.TCP &&
		(f.State == ct.TCPSynRecv || f.State == ct.TCPSynSent2 || f.State == ct.TCPTimeWait || f.State == ct.TCPClose) {
		return false
	}
	return fragile || f.NAT()
}

// suspects chooses the entries of one [guard.Thin] in one reading of the whole
// table.
type suspects struct {
	thin    *guard.Thin
	spare   *evict.Guard
	keep    []netip.Prefix
	fragile bool
	// timeouts are every set that an entry may have been given.
	timeouts []ct.Timeouts
	now      time.Duration // of the reading, on the clock of Thin.Since
	room     int

	sel    evict.Selection
	idle   []int32 // seconds, of each selected entry
	source []int32 // its source, as numbered by sources; -1 without
	total  []int   // all entries of each source
	spared int
	of     sources
}

// mostSuspects bounds the memory of one selection: some 80 bytes an entry.
const mostSuspects = 1 << 20

func newSuspects(t *guard.Thin, a *around, spare *evict.Guard, sets []ct.Timeouts, now time.Duration) *suspects {
	s := &suspects{thin: t, spare: spare, keep: a.keep, fragile: a.Fragile, timeouts: sets, now: now, of: newSources(t.Sources)}
	// The second reading acquits some: more are taken than may be changed.
	s.room = min(max(2*t.Limit, 0), mostSuspects)
	s.total = make([]int, len(t.Sources))
	return s
}

// idleMin is ct.IdleMin over every set of timeouts that may apply.
func (s *suspects) idleMin(f *ct.Flow) (least time.Duration, ok bool) {
	for i := range s.timeouts {
		if d, known := ct.IdleMin(f, &s.timeouts[i]); known && (!ok || d < least) {
			least, ok = d, true
		}
	}
	return least, ok
}

// take looks at one entry of the first reading.
func (s *suspects) take(f *ct.Flow, nowNanos int64) error {
	source := int32(-1)
	if len(s.thin.Sources) > 0 {
		if source = s.of.find(f.Orig.Src); source < 0 {
			return nil
		}
		s.total[source]++
	}
	if s.sel.Len() >= s.room || !s.matches(f) {
		return nil
	}
	idle, ok := s.idleMin(f)
	if !ok || !s.thin.Matches(f, idle, s.now) {
		return nil
	}
	if _, spared := s.spare.Spares(f); spared || s.kept(f) {
		s.spared++
		return nil
	}
	s.idle = append(s.idle, int32(min(idle/time.Second, 1<<31-1)))
	s.source = append(s.source, source)
	return s.sel.Add(f, nowNanos)
}

// kept reports whether an entry has an end in a prefix that the configuration
// spares.
func (s *suspects) kept(f *ct.Flow) bool {
	for _, p := range s.keep {
		for _, a := range [...]netip.Addr{f.Orig.Src, f.Orig.Dst, f.Reply.Src, f.Reply.Dst} {
			if p.Contains(a) {
				return true
			}
		}
	}
	return false
}

func (s *suspects) matches(f *ct.Flow) bool {
	return guard.ClassOf(f)&s.thin.Classes != 0 && f.Has(ct.HasTimeout) && f.TimeoutSeconds > max(s.thin.Seconds, floorOf(f)) &&
		!f.Status.Any(ct.StatusDying) && (s.thin.Fragile || !breaks(f, s.fragile))
}

// settleFirst ends the first reading. Where sources are named, the longest idle
// come first and each source keeps what it is to keep.
func (s *suspects) settleFirst() {
	if len(s.thin.Sources) == 0 {
		return
	}
	order := make([]int, s.sel.Len())
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(s.idle[b], s.idle[a]) })
	taken := make([]int, len(s.total))
	order = slices.DeleteFunc(order, func(i int) bool {
		of := s.source[i]
		if taken[of] >= s.total[of]-s.thin.Keep {
			return true
		}
		taken[of]++
		return false
	})
	s.sel.Choose(order)
	s.idle, s.source = nil, nil
}

// sources finds the prefix, of a list, that holds an address.
type sources struct {
	bits []uint8 // lengths that occur; those of IPv6 are 128 more
	at   map[netip.Prefix]int32
}

func newSources(list []netip.Prefix) sources {
	s := sources{at: make(map[netip.Prefix]int32, len(list))}
	for i, p := range list {
		p = p.Masked()
		if !p.IsValid() {
			continue
		}
		if b := lengthOf(p); !slices.Contains(s.bits, b) {
			s.bits = append(s.bits, b)
		}
		s.at[p] = int32(i)
	}
	slices.SortFunc(s.bits, func(a, b uint8) int { return cmp.Compare(b, a) }) // the narrowest first
	return s
}

// lengthOf tells lengths of both families apart: /0 to /32, and 128 to 255 with
// /128 at 255.
func lengthOf(p netip.Prefix) uint8 {
	if p.Addr().Is4() {
		return uint8(p.Bits())
	}
	return uint8(127 + p.Bits())
}

func (s *sources) find(a netip.Addr) int32 {
	for _, b := range s.bits {
		bits := int(b)
		if a.Is4() == (b >= 127) {
			continue
		}
		if !a.Is4() {
			bits -= 127
		}
		p, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		if i, ok := s.at[p]; ok {
			return i
		}
	}
	return -1
}
