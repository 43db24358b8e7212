package sim

import (
	"errors"

	"github.com/ctwarden/ctwarden/ct"
)

// Errors of [Table.Insert].
var (
	ErrFull   = errors.New("table is full")
	ErrExists = errors.New("a flow has one of the tuples already")
	ErrTuple  = errors.New("tuples are no flow")
)

// Insert puts an entry into the table as ctnetlink does: with the tuples,
// status, state and timeout of f, and no memory of windows, which the next
// packets of either side teach. It is how a table begins with what is live. The
// entry counts against the maximum; where that is reached it evicts like a
// packet (which counts no refusal), and [ErrFull] says that nothing could be
// evicted. Call [Table.Advance] with the time of the traffic before: the clock of
// a new table stands at 0, and what is inserted then has run out by any date.
func (t *Table) Insert(f *ct.Flow, tag uint8) (ID, error) {
	if !f.Orig.IsValid() || !f.Reply.IsValid() || f.Orig.Proto != f.Reply.Proto {
		return 0, ErrTuple
	}
	if t.started < 0 {
		t.start(t.now)
	}
	zo, zr := f.Zone, f.Zone
	if f.ZoneOrig != 0 || f.ZoneReply != 0 {
		zo, zr = f.ZoneOrig, f.ZoneReply
	}
	var o, r key
	t.pack(&o, &f.Orig, zo)
	t.pack(&r, &f.Reply, zr)
	oh, rh := t.hash(&o), t.hash(&r)
	i := t.alloc(oh)
	if i == 0 {
		return 0, ErrFull
	}
	ob, rb := t.bucket(oh), t.bucket(rh)
	if winner, long := t.scan(&o, &r, ob, rb); winner != 0 || long {
		t.counters.ChainTooLong += uint32(b2i(long))
		t.release(i)
		return 0, ErrExists
	}
	t.setKeys(i, &o, &r)
	e := &t.entries[i]
	e.tag = tag
	e.state = uint8(f.State)
	e.set(f.Status&statusKept | ct.StatusConfirmed)
	t.setDeadline(e, f.TimeoutSeconds*uint32(t.knobs.HZ))
	t.inherit(&t.tracks[i], f)
	t.push(ob, i<<1)
	t.push(rb, i<<1|reply)
	t.nat.remember(t, i)
	t.counters.Insert++
	t.emit(i, EventNew, CauseNone)
	return ID(i), nil
}

// statusKept are the status bits that the model knows.
const statusKept = ct.StatusSeenReply | ct.StatusAssured | ct.StatusNAT | ct.StatusSrcNATDone |
	ct.StatusDstNATDone | ct.StatusFixedTimeout

// inherit fills in what a tracker remembers besides state and status.
func (t *Table) inherit(k *track, f *ct.Flow) {
	switch f.Orig.Proto {
	case ct.TCP:
		k.lastKind = kindNone
		k.lastWin = 1 // not known, so not zero
		k.seen[orig].scale, k.seen[reply].scale = f.TCP.WScaleOrig, f.TCP.WScaleReply
		// Acknowledgements and edges are not known.
		const unknown = tcpUnacked | tcpMaxAckSet
		k.seen[orig].flags = f.TCP.FlagsOrig &^ unknown
		k.seen[reply].flags = f.TCP.FlagsReply &^ unknown
	case ct.UDP:
		k.setStreamFrom(t.jiffies)
	case ct.GRE:
		k.setGRETimeouts(t.timeouts[ct.TimeoutGRE], t.timeouts[ct.TimeoutGREStream])
	}
}
