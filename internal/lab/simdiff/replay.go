package simdiff

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/capture"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// replay plays a capture of a tracking host into the model.
type replay struct {
	config sim.Config
	// own are the host's addresses: what it sends enters connection tracking
	// at its output, and what runs out of hops for anybody else ends in it.
	own []netip.Addr
	// forwards: the host is a gateway, captured on all its devices.
	forwards bool
	// drops, if set, tells the packets that the host's rules drop.
	drops func(*sim.Packet) bool
	// chosen is how the kernel translated, by original tuple: the tuples of the
	// answers in the order in which it made entries. The model takes their
	// ports where it would draw one.
	chosen map[ct.Tuple][]ct.Tuple
	// fragments: the capture holds fragments.
	fragments bool

	// late holds back packets, by their number: each is played right after the
	// packet of the number given.
	late map[int]int

	table   *sim.Table
	made    map[ct.Tuple]int  // entries of each original tuple so far
	busy    map[ct.Tuple]bool // had packets while the kernel's table was read
	packets int
	// history, if set, gets every packet with what the model made of it.
	history func(at sim.Time, p *sim.Packet, r sim.Result)
}

func (r *replay) start() error {
	r.made = map[ct.Tuple]int{}
	c := r.config
	c.Events = func(e sim.Event) {
		var f ct.Flow
		if e.Kind == sim.EventNew && r.table.Flow(e.Entry, &f) {
			r.made[f.Orig]++
		}
	}
	t, err := sim.New(c)
	if err != nil {
		return err
	}
	r.table = t
	if r.chosen != nil {
		simtest.Choose(t, r.choose)
	}
	return nil
}

// choose returns the port, or identifier, that the kernel gave to the entry
// that the model is about to make.
func (r *replay) choose(orig ct.Tuple, source bool) (port uint16, ok bool) {
	list, n := r.chosen[orig], r.made[orig]
	if n >= len(list) {
		return 0, false
	}
	return chosenPort(list[n], source), true
}

// chosenPort is the part of an answer's tuple that translation chose.
func chosenPort(reply ct.Tuple, source bool) uint16 {
	switch {
	case reply.Proto.IsICMP():
		return reply.ICMPID
	case source:
		return reply.DstPort
	}
	return reply.SrcPort
}

// play plays what was captured until an instant, and notes which flows had
// packets between it and a second instant.
func (r *replay) play(c *capture.Reader, until, noted time.Time) error {
	r.busy = map[ct.Tuple]bool{}
	end, last := sim.Time(until.UnixNano()), sim.Time(noted.UnixNano())
	var p sim.Packet
	held := map[int]sim.Packet{}
	for {
		at, err := c.Next(&p)
		switch {
		case errors.Is(err, io.EOF) || err == nil && at > last:
			r.table.Advance(end)
			return nil
		case err != nil:
			return err
		case at > end:
			r.busy[p.Tuple] = true
			continue
		}
		r.place(&p, c.Hops())
		if after, ok := r.late[r.packets]; ok {
			held[after] = p
		} else {
			r.playOne(at, &p)
		}
		if p, ok := held[r.packets]; ok {
			r.playOne(at, &p)
		}
		r.packets++
	}
}

func (r *replay) playOne(at sim.Time, p *sim.Packet) {
	res := r.table.Packet(at, p)
	if r.history != nil {
		r.history(at, p, res)
	}
}

// place adds what a capture does not tell of a packet.
func (r *replay) place(p *sim.Packet, hops uint8) {
	if slices.Contains(r.own, p.Tuple.Src) {
		p.Hook = sim.HookOutput
	}
	if hops <= 1 && p.Hook == sim.HookPrerouting && !slices.Contains(r.own, p.Tuple.Dst) ||
		r.drops != nil && r.drops(p) {
		p.Flags |= sim.FlagDropped
	}
}

// difference compares the kernel's entries with the model's, and prints what
// differs. An entry within a second of its end may be missing on one side.
func (r *replay) difference(kernel map[ct.Tuple]ct.Flow) (lines []string, tuples []ct.Tuple) {
	model := map[ct.Tuple]ct.Flow{}
	for _, f := range r.table.Dump() {
		model[f.Orig] = *f
	}
	add := func(orig ct.Tuple, k, m string) {
		lines = append(lines, fmt.Sprintf("kernel %s\nmodel  %s", k, m))
		tuples = append(tuples, orig)
	}
	for orig, k := range kernel {
		m, ok := model[orig]
		delete(model, orig)
		switch {
		case r.busy[k.Orig] || r.busy[k.Reply]:
		case !ok && k.TimeoutSeconds > 1:
			add(orig, simtest.FlowLine(&k), "nothing")
		case ok && !(same(&k, &m, 1) && r.sameBytes(&k, &m)):
			add(orig, simtest.FlowLine(&k), simtest.FlowLine(&m))
		}
	}
	for orig, m := range model {
		if m.TimeoutSeconds > 1 && !r.busy[m.Orig] && !r.busy[m.Reply] {
			add(orig, "nothing", simtest.FlowLine(&m))
		}
	}
	return lines, tuples
}

// sameBytes compares the bytes of two entries. Those of a packet in fragments
// are not known from its first one.
func (r *replay) sameBytes(k, m *ct.Flow) bool {
	return r.fragments || k.OrigCounters == m.OrigCounters && k.ReplyCounters == m.ReplyCounters
}

// counterDifference compares the counters that do not depend on chance.
func (r *replay) counterDifference(kernel ct.Counters) string {
	model := r.table.Counters()
	var out []string
	check := func(name string, k, m uint32) {
		if k != m {
			out = append(out, fmt.Sprintf("%s: %d in the kernel, %d in the model", name, k, m))
		}
	}
	check("invalid", kernel.Invalid, model.Invalid)
	check("insert_failed", kernel.InsertFailed, model.InsertFailed)
	check("drop", kernel.Drop, model.Drop)
	check("early_drop", kernel.EarlyDrop, model.EarlyDrop)
	check("icmp_error", kernel.Error, model.Error)
	check("clash_resolve", kernel.ClashResolve, model.ClashResolve)
	return strings.Join(out, "; ")
}
