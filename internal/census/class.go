package census

import (
	"math/bits"

	"github.com/ctwarden/ctwarden/ct"
)

// statesPerProto is above the number of states of any protocol; larger ones
// of kernels to come are counted together as the last.
const statesPerProto = 16

const classesPerProto = statesPerProto * 8

// class counts one class. Its place says which.
type class struct {
	entries, idleKnown uint64
	idleOver           [4]uint64
	idle               idleBounds
}

// idleBounds are the timeouts, in seconds, that can apply to entries of one
// class: what [ct.IdleMin] weighs, gathered once for the class.
type idleBounds struct {
	seconds []int64
	ready   bool
}

// min returns the least idle time in seconds of an entry that has left seconds
// to live, or -1.
func (b *idleBounds) min(left uint32) int64 {
	best := int64(-1)
	// A second is added because the kernel truncates, see ct.IdleMin.
	l := int64(left) + 1
	for _, s := range b.seconds {
		d := s - l
		if d == -1 {
			d = 0
		}
		if d >= 0 && (best < 0 || d < best) {
			best = d
		}
	}
	return best
}

// place is the number of a flow's class among those of its protocol.
func place(f *ct.Flow) uint {
	p := uint(min(f.State, statesPerProto-1)) << 3
	if !f.Orig.Proto.HasState() {
		p = 0
	}
	if f.Assured() {
		p |= 4
	}
	if f.Replied() {
		p |= 2
	}
	if translated(f) {
		p |= 1
	}
	return p
}

// translated is ct.Flow.NAT, quick for the many flows that it is false for.
func translated(f *ct.Flow) bool {
	if f.Status.Any(ct.StatusNAT) {
		return true
	}
	o, r := &f.Orig, &f.Reply
	if o.Src == r.Dst && o.Dst == r.Src && o.SrcPort == r.DstPort && o.DstPort == r.SrcPort && !o.Proto.IsICMP() {
		return false
	}
	return f.NAT()
}

func keyOf(p ct.Proto, place uint) ct.ClassKey {
	return ct.ClassKey{Proto: p, State: ct.State(place >> 3),
		Assured: place&4 != 0, Replied: place&2 != 0, NAT: place&1 != 0}
}

// ClassOf returns the class of a flow.
func ClassOf(f *ct.Flow) ct.ClassKey { return keyOf(f.Orig.Proto, place(f)) }

// count counts a flow in its class, and what else does not concern who it
// belongs to.
func (c *Census) count(f *ct.Flow) {
	of := c.classes[f.Orig.Proto]
	if of == nil {
		of = new([classesPerProto]class)
		c.classes[f.Orig.Proto] = of
	}
	cl := &of[place(f)]
	cl.entries++
	c.zones[f.Zone/64] |= 1 << (f.Zone % 64)
	if f.ZoneOrig|f.ZoneReply != 0 {
		c.zones[f.ZoneOrig/64] |= 1 << (f.ZoneOrig % 64)
		c.zones[f.ZoneReply/64] |= 1 << (f.ZoneReply % 64)
	}
	if f.Offloaded() {
		c.offloaded++
	}
	if !f.Has(ct.HasTimeout) {
		return
	}
	if f.TimeoutSeconds <= 1 {
		c.expiring++
	}
	c.countIdle(cl, f)
}

func (c *Census) countIdle(cl *class, f *ct.Flow) {
	if c.opts.Timeouts == nil || f.Offloaded() || f.Status.Any(ct.StatusFixedTimeout|ct.StatusDying) ||
		f.Orig.Proto.HasState() && !f.Has(ct.HasProtoInfo) {
		return
	}
	if !cl.idle.ready {
		cl.idle.seconds = ct.IdleTimeouts(cl.idle.seconds[:0], f, c.opts.Timeouts)
		for i := range c.opts.Former {
			cl.idle.seconds = ct.IdleTimeouts(cl.idle.seconds, f, &c.opts.Former[i])
		}
		cl.idle.ready = true
	}
	idle := cl.idle.min(f.TimeoutSeconds)
	if idle < 0 {
		return
	}
	cl.idleKnown++
	for i := range cl.idleOver {
		if idle < idleSteps[i] {
			return
		}
		cl.idleOver[i]++
	}
}

// idleSteps are ct.IdleSteps in seconds.
var idleSteps = func() (s [4]int64) {
	for i, d := range ct.IdleSteps {
		s[i] = int64(d.Seconds())
	}
	return s
}()

func (c *Census) classList() []ct.Class {
	var list []ct.Class
	for p, of := range c.classes {
		if of == nil {
			continue
		}
		for i := range of {
			if cl := &of[i]; cl.entries > 0 {
				list = append(list, ct.Class{ClassKey: keyOf(ct.Proto(p), uint(i)), Entries: cl.entries,
					IdleKnown: cl.idleKnown, IdleOver: cl.idleOver})
			}
		}
	}
	sortClasses(list)
	return list
}

func (c *Census) zoneCount() int {
	n := 0
	for _, w := range c.zones {
		n += bits.OnesCount64(w)
	}
	return n
}
