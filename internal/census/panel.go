package census

import (
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// Panel compares two readings of the same buckets. A dump that is closed early
// reads the same buckets each time, in the same order, so what stands in the
// first reading and not in the second has died, and the reverse was born.
//
// It holds the entries of the first reading only. The second reading has no
// mark where the buckets of the first end; what follows the last entry that is
// in both is beyond the panel, or cannot be told from it, and is left out.
type Panel struct {
	hash    hasher
	members []member // its capacity bounds the panel
	index   []int32  // open addressing over members, -1 is empty
	partial bool     // the table has more than the panel holds

	survivors, rearmed, comparable uint64

	pending, born map[ct.ClassKey]uint64
	pendingN      uint64
	bornN         uint64
	readN         uint64 // entries of the second reading
}

type member struct {
	id      uint64
	left    uint32
	state   ct.State
	status  ct.Status
	hasLeft bool
	seen    bool // in the second reading
}

// NewPanel makes a panel of at most size entries.
func NewPanel(size int, seed uint64) *Panel {
	slots := 1
	for slots < 2*size {
		slots *= 2
	}
	p := &Panel{
		hash: newHasher(seed), members: make([]member, 0, size), index: make([]int32, slots),
		pending: make(map[ct.ClassKey]uint64), born: make(map[ct.ClassKey]uint64),
	}
	for i := range p.index {
		p.index[i] = -1
	}
	return p
}

// Len is the number of entries of the first reading.
func (p *Panel) Len() int { return len(p.members) }

// Full reports whether First has no room left.
func (p *Panel) Full() bool { return len(p.members) == cap(p.members) }

// First takes an entry of the first reading, in the order of the dump. It
// reports false once the panel is full; the table then is larger than the
// panel.
func (p *Panel) First(f *ct.Flow) bool {
	if p.Full() {
		p.partial = true
		return false
	}
	id := p.identity(f)
	slot, m := p.find(id)
	if m != nil {
		return true // shown twice
	}
	p.index[slot] = int32(len(p.members))
	p.members = append(p.members, member{id: id, left: f.TimeoutSeconds, state: f.State,
		status: f.Status, hasLeft: f.Has(ct.HasTimeout)})
	return true
}

// Second takes an entry of the second reading, which came at least elapsed after
// the first, in the order of the dump.
func (p *Panel) Second(f *ct.Flow, elapsed time.Duration) {
	p.readN++
	_, m := p.find(p.identity(f))
	if m == nil {
		p.pending[ClassOf(f)]++
		p.pendingN++
		return
	}
	if m.seen {
		return
	}
	m.seen = true
	p.survivors++
	p.commit()
	p.compare(m, f, elapsed)
}

// commit counts the newcomers met so far as born inside the panel.
func (p *Panel) commit() {
	if p.pendingN == 0 {
		return
	}
	for k, n := range p.pending {
		p.born[k] += n
	}
	p.bornN += p.pendingN
	clear(p.pending)
	p.pendingN = 0
}

// compare tells whether a packet renewed the entry's timeout. The kernel
// truncates to seconds, so an untouched entry may seem to have lost a second
// less than has passed.
func (p *Panel) compare(m *member, f *ct.Flow, elapsed time.Duration) {
	if !m.hasLeft || !f.Has(ct.HasTimeout) {
		return
	}
	p.comparable++
	fell := int64(m.left) - int64(f.TimeoutSeconds)
	if m.state != f.State || m.status != f.Status || fell < int64(elapsed/time.Second) {
		p.rearmed++
	}
}

// identity stands for an entry: a hash of its tuple, zone and id.
func (p *Panel) identity(f *ct.Flow) uint64 {
	o := &f.Orig
	a := p.hash.sum(addrKey(o.Src))
	b := p.hash.sum(key{a, uint64(o.SrcPort)<<48 | uint64(o.DstPort)<<32 | uint64(o.ICMPID)<<16 |
		uint64(o.ICMPType)<<8 | uint64(o.ICMPCode)})
	dst := addrKey(o.Dst)
	b = p.hash.sum(key{b ^ dst.hi, dst.lo ^ a})
	return p.hash.sum(key{b, uint64(f.ID)<<32 | uint64(f.Zone)<<16 | uint64(f.ZoneOrig)<<8 ^ uint64(o.Proto)})
}

// find returns the member of that identity, or nil and the slot for it.
func (p *Panel) find(id uint64) (slot int, m *member) {
	mask := len(p.index) - 1
	for i := int(id & uint64(mask)); ; i = (i + 1) & mask {
		at := p.index[i]
		if at < 0 {
			return i, nil
		}
		if m := &p.members[at]; m.id == id {
			return i, m
		}
	}
}

// Enough reports whether the second reading may end: it has met every member,
// or it has gone far beyond where the panel's buckets can end if the table
// grew by the factor growth.
func (p *Panel) Enough(growth float64) bool {
	if !p.partial {
		return false // the whole table: read to its end
	}
	if p.survivors == uint64(len(p.members)) {
		return true
	}
	return float64(p.readN) > float64(len(p.members))*max(growth, 1)*1.1+500
}

// Rates fills in what the two readings tell, scaled to the table. Interval,
// CountStart and CountEnd of r are set by the caller; interval is the time
// between the two readings of the panel.
func (p *Panel) Rates(r *ct.Rates, interval time.Duration) {
	n := uint64(len(p.members))
	if interval <= 0 || p.partial && n == 0 {
		return
	}
	scale := p.scale(r) / interval.Seconds()
	births := scale
	if !p.partial || p.survivors == 0 {
		p.commit() // there is nothing beyond the panel, or no way to tell
	}
	if expected := float64(n) * growth(r); p.partial && p.survivors == 0 && float64(p.bornN) > expected {
		births *= expected / float64(p.bornN)
	}
	r.Panel = true
	r.BirthsPerSecond = float64(p.bornN) * births
	r.DeathsPerSecond = float64(n-p.survivors) * scale
	if p.comparable > 0 {
		r.Rearmed = float64(p.rearmed) / float64(p.comparable)
	}
	if r.BirthsPerSecond > 0 && r.CountEnd.Known {
		mean := float64(r.CountEnd.N) / r.BirthsPerSecond
		r.MeanLifetime = time.Duration(min(mean, 1e9) * float64(time.Second))
	}
	for k, b := range p.born {
		r.BirthsByClass = append(r.BirthsByClass, ct.ClassRate{ClassKey: k, PerSecond: float64(b) * births})
	}
	sortRates(r.BirthsByClass)
}

// growth is the factor by which the table grew between the readings.
func growth(r *ct.Rates) float64 {
	if !r.CountStart.Known || !r.CountEnd.Known || r.CountStart.N <= 0 {
		return 1
	}
	return float64(r.CountEnd.N) / float64(r.CountStart.N)
}

// scale is how many entries of the table one of the panel stands for.
func (p *Panel) scale(r *ct.Rates) float64 {
	if !p.partial || !r.CountStart.Known || r.CountStart.N <= int64(len(p.members)) {
		return 1
	}
	return float64(r.CountStart.N) / float64(len(p.members))
}
