package guard

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// history is how many entries each source has held in peace.
type history struct {
	most map[netip.Prefix]int64
	// pending is what was seen last: it counts once another quiet reading has
	// followed, so that the beginning of an attack is not taken for peace.
	pending map[netip.Prefix]int64
}

func newHistory() history { return history{most: map[netip.Prefix]int64{}} }

// of is the most that a source has held in peace, the last quiet reading
// included.
func (h *history) of(s netip.Prefix) int64 { return max(h.most[s], h.pending[s]) }

func (h *history) empty() bool { return len(h.most) == 0 }

const (
	maxHistory = 8192
	// leastHeavy is the number of entries below which no source is heavy.
	leastHeavy = 4
	// leastSeen is of how many entries in a panel a source's share is told.
	leastSeen = 4
	// farOver is how many fair shares make a source an offender, whose new
	// connections may be refused.
	farOver = 4
	// handful of sources that carry most of the traffic are the users: a
	// proxy, a load balancer, a cluster's resolver.
	handful = 5
)

// learn keeps the shares of peace. What is not seen for long fades.
func (h *history) learn(c *ct.Census, count int64) {
	for k, n := range h.most {
		if n -= (n + 99) / 100; n <= 0 {
			delete(h.most, k)
		} else {
			h.most[k] = n
		}
	}
	for k, n := range h.pending {
		if _, known := h.most[k]; known || len(h.most) < maxHistory {
			h.most[k] = max(h.most[k], n)
		}
	}
	h.pending = make(map[netip.Prefix]int64, len(c.Sources))
	for i := range c.Sources {
		h.pending[sourceOf(&c.Sources[i])] += scaleUp(c, c.Sources[i].Entries, count)
	}
}

// sourceOf is what a source is counted by: an address, for IPv6 its /64.
func sourceOf(h *ct.Heavy) netip.Prefix {
	if h.Prefix.Addr().Is6() && h.Prefix.Bits() > 64 {
		p, _ := h.Prefix.Addr().Prefix(64)
		return p
	}
	return h.Prefix
}

func scaleUp(c *ct.Census, n uint64, count int64) int64 {
	if c.Entries == 0 {
		return 0
	}
	return int64(float64(n) * max(float64(count)/float64(c.Entries), 1))
}

// demand is what one proven source holds.
type demand struct {
	source netip.Prefix
	n      int64  // assured entries: nobody forges those
	seen   uint64 // of them, read in the panel
}

// demands lists the proven sources. Only entries that are assured prove one: a
// forged address completes no handshake, and answers nothing. One whose
// entries are mostly half-open is left out all the same: whoever forges it
// must not have it punished for the little that is its own.
func (p *Policy) demands(r *Reading) (list []demand, all int64) {
	c := p.census
	sum := map[netip.Prefix]*demand{}
	for i := range c.Sources {
		h := &c.Sources[i]
		k := sourceOf(h)
		if h.Assured == 0 || p.protected(k) || h.Assured < h.Entries/2 {
			continue
		}
		d := sum[k]
		if d == nil {
			d = &demand{source: k}
			sum[k] = d
		}
		d.n += scaleUp(c, h.Assured, r.Count)
		d.seen += h.Assured
	}
	for _, d := range sum {
		list = append(list, *d)
		all += d.n
	}
	slices.SortFunc(list, func(a, b demand) int {
		return cmp.Or(cmp.Compare(b.n, a.n), a.source.Addr().Compare(b.source.Addr()))
	})
	return list, all
}

// above are the sources above a fair share of the capacity, and the share. What
// stands for the users has its share before all others.
//
// project is the factor by which all of them are taken to grow until the table
// is full; 1 for what they hold now.
func (p *Policy) above(r *Reading, capacity int64, project float64) (list []demand, share int64) {
	if p.census == nil {
		return nil, 0
	}
	all, total := p.demands(r)
	if len(all) == 0 {
		return nil, 0
	}
	if p.history.empty() && carriedByFew(all, total) {
		return nil, 0
	}
	least := capacity / 5
	var n []int64
	for _, d := range all {
		if p.isUsers(d.source) {
			capacity -= d.n
		} else {
			n = append(n, int64(float64(d.n)*project))
		}
	}
	share = max(maxMin(n, max(capacity, least)), leastHeavy)
	for _, d := range all {
		// A few entries of a sample tell nothing of one source.
		if d.seen >= leastSeen && d.n >= leastHeavy && int64(float64(d.n)*project) > share &&
			d.n > 2*p.history.of(d.source) && !p.isUsers(d.source) {
			list = append(list, d)
		}
	}
	return list, share
}

func carriedByFew(sorted []demand, total int64) bool {
	var few int64
	for i := range min(handful, len(sorted)) {
		few += sorted[i].n
	}
	return few*2 > total
}

// isUsers reports whether a source held so much of the table in peace that it
// stands for the users: a proxy, a carrier's NAT, a resolver.
func (p *Policy) isUsers(s netip.Prefix) bool {
	var all int64
	for _, n := range p.history.most {
		all += n
	}
	n := p.history.most[s]
	return n >= leastHeavy && n*20 > all
}

// shareState is who is limited.
type shareState struct {
	active  []netip.Prefix
	per     int
	renewAt time.Duration
	limitAt time.Duration // the next change of the rules, at the earliest
	pause
	noCap bool // the kernel cannot cap sources one by one
	// banned: the sources were refused altogether while the kernel refused
	// everybody; a cap in its place would give each a slot more.
	banned bool
}

// limitFor is how long the kernel refuses a source unless it is named again.
const limitFor = 60 * time.Second

// desperate: slots run out, and max cannot be raised.
func (p *Policy) desperate(r *Reading, o *outlook) bool {
	return p.level == Emergency && p.threatened(o) && p.exhausted(r)
}

// atOnce is the silence that is asked of an offender's entries where slots run
// out: less cannot be told.
const atOnce = 2 * time.Second

// cut puts the entries of the heaviest proven sources above their fair share on
// probation, the longest silent first.
func (p *Policy) cut(r *Reading, o *outlook) *Action {
	if !p.cfg.FairShares || !p.free(KindThin, r.At) || !p.shares.due(r.At) {
		return nil
	}
	capacity, idle, seconds := r.Max/2, atOnce, uint32(2)
	why := ""
	switch {
	case p.desperate(r, o):
		why = p.trouble(o)
	case p.limit.ours != 0 && r.Count > p.limit.before*5/6 && (p.level < Emergency || !p.threatened(o)):
		capacity, idle, seconds = p.limit.before/2, 30*time.Second, 30
		why = fmt.Sprintf("%d entries are more than the usual limit of %d allows", r.Count, p.limit.before)
	default:
		return nil
	}
	budget := p.thins.budget(p, r.At)
	list, share := p.above(r, capacity, 1)
	if budget < leastProbation || len(list) == 0 {
		return nil
	}
	if p.quietAt != 0 && r.At-p.quietAt < idle+time.Second {
		return nil // nothing that came since can have been silent for so long
	}
	if idle > atOnce { // no need: only who is far over
		list = slices.DeleteFunc(list, func(d demand) bool { return d.n < farOver*share })
		if len(list) == 0 {
			return nil
		}
	}
	sources := sourcesOf(list, p.cfg.SourcesPerIncident)
	if len(sources) == 0 {
		return nil // none may be touched; a probation that names none is everybody's
	}
	p.shares.next = r.At + 3*time.Second
	since := time.Duration(0)
	if p.quietAt != 0 {
		since, _ = p.began(r) // what the source had before the attack stays
	}
	return &Action{Kind: KindThin,
		Why: fmt.Sprintf("%s, and %s more than a fair share of %d entries", why, plural(len(sources), "proven source holds", "proven sources hold"), share),
		Thin: &Thin{Classes: Unreplied | Closing | Silent, MinIdle: idle, Sources: sources,
			Since: since, Keep: int(share), Fragile: true, Seconds: seconds, Limit: budget}}
}

// restrict refuses new connections of proven sources far over their share, and
// frees them when the table has room.
func (p *Policy) restrict(r *Reading, o *outlook) *Action {
	s := &p.shares
	if !p.free(KindLimit, r.At) {
		return nil
	}
	if len(s.active) > 0 && p.level < Pressure {
		return &Action{Kind: KindLimit, Undo: true, Limit: &Limit{}, Why: "there is room again"}
	}
	if !p.cfg.Admission || !p.around.Admission {
		return nil
	}
	if !p.desperate(r, o) {
		// While it helps it stays: the table has room because of it.
		if len(s.active) > 0 && r.At >= s.renewAt && p.level == Emergency {
			return p.renew(r)
		}
		return nil
	}
	// A cap takes effect before its source has reached it.
	list, share := p.above(r, r.Max/2, max(float64(r.Max)/float64(max(r.Count, 1)), 1))
	far := slices.DeleteFunc(slices.Clone(list), func(d demand) bool { return d.n < farOver*share })
	per := 0
	switch {
	case (o.refusing || s.banned && len(s.active) > 0) && len(list) > 0 && s.per == 0 && !slices.ContainsFunc(list, func(d demand) bool { return d.n < share }):
		s.banned = true
		far = list // each has its share already, and what a cap leaves to each would take the room that is made
	case (len(far) == 0 || s.per > 0) && !s.noCap:
		far, per = list, capFor(list, share) // a cap stays one: a ban of few would free the others
	}
	if len(far) == 0 {
		far = slices.DeleteFunc(list, func(d demand) bool { return d.n < share })
	}
	sources := sourcesOf(far, p.cfg.SourcesPerIncident)
	if per > 0 && s.per > 0 && 2*per > s.per {
		per = s.per // another cap would begin to count anew
	}
	if per == s.per {
		sources = merge(s.active, sources, p.cfg.SourcesPerIncident)
	}
	if len(sources) == 0 || len(sources) == len(s.active) && per == s.per && r.At < s.renewAt || r.At < s.limitAt {
		return nil
	}
	s.limitAt = r.At + 300*time.Millisecond
	return &Action{Kind: KindLimit, Limit: &Limit{Sources: sources, Seconds: uint32(limitFor / time.Second), PerSource: per},
		Why: fmt.Sprintf("%s, and %s heading for far more than a fair share of %d entries", p.trouble(o), plural(len(sources), "proven source is", "proven sources are"), share)}
}

// capFor is how many more entries each may have: the kernel counts those that
// are begun from now on.
func capFor(list []demand, share int64) int {
	least := share
	for _, d := range list {
		least = min(least, d.n)
	}
	return int(max(share-least, 1))
}

func (p *Policy) renew(r *Reading) *Action {
	s := &p.shares
	return &Action{Kind: KindLimit, Limit: &Limit{Sources: s.active, Seconds: uint32(limitFor / time.Second), PerSource: s.per},
		Why: "the attack goes on"}
}

func (s *shareState) done(p *Policy, res *Result) {
	l := res.Action.Limit
	if res.Err != nil {
		if l.PerSource > 0 {
			s.noCap, s.limitAt = true, 0
			p.off[KindLimit] = res.At
		}
		return
	}
	s.active, s.per = l.Sources, l.PerSource
	s.banned = s.banned && len(s.active) > 0
	s.renewAt = res.At + limitFor/2
}

func sourcesOf(list []demand, most int) []netip.Prefix {
	var out []netip.Prefix
	for i := range min(len(list), most) {
		out = append(out, list[i].source)
	}
	slices.SortFunc(out, comparePrefix)
	return out
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func merge(a, b []netip.Prefix, most int) []netip.Prefix {
	out := slices.Clone(a)
	for _, p := range b {
		if len(out) < most && !slices.Contains(a, p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, comparePrefix)
	return out
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
