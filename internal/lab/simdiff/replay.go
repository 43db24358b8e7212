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
	// drops, if set, tells the packets that the host's rules drop.
	drops func(*sim.Packet) bool
	// chosen is how the kernel translated, by the tuple of the answers: the
	// original tuples, of which one lives at a time.
	chosen map[ct.Tuple][]ct.Tuple

	table   *sim.Table
	live    map[ct.Tuple]ct.Tuple // of the model's entries: original to reply
	packets int
	// history, if set, gets every packet with what the model made of it.
	history func(at sim.Time, p *sim.Packet, r sim.Result)
}

func (r *replay) start() error {
	r.live = map[ct.Tuple]ct.Tuple{}
	c := r.config
	c.Events = func(e sim.Event) {
		var f ct.Flow
		if !r.table.Flow(e.Entry, &f) {
			return
		}
		if e.Kind == sim.EventNew {
			r.live[f.Orig] = f.Reply
		} else {
			delete(r.live, f.Orig)
		}
	}
	t, err := sim.New(c)
	r.table = t
	return err
}

// play plays what was captured until an instant.
func (r *replay) play(c *capture.Reader, until time.Time) error {
	end := sim.Time(until.UnixNano())
	var p sim.Packet
	for {
		at, err := c.Next(&p)
		if errors.Is(err, io.EOF) || err == nil && at > end {
			r.table.Advance(end)
			return nil
		}
		if err != nil {
			return err
		}
		r.packets++
		r.place(&p, c.Hops())
		res := r.table.Packet(at, &p)
		if r.history != nil {
			r.history(at, &p, res)
		}
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
	if len(r.chosen) == 0 {
		return
	}
	if back, ok := r.translated(p.Tuple); ok {
		p.Tuple = back
	}
	if inner, ok := p.Inner.Invert(); ok && p.Inner.IsValid() {
		if back, ok := r.translated(inner); ok {
			p.Inner, _ = back.Invert()
		}
	}
}

// translated finds the answer that the model expects where the kernel expects
// another, because each chose a port of its own.
func (r *replay) translated(answer ct.Tuple) (ct.Tuple, bool) {
	for _, orig := range r.chosen[answer] {
		if reply, ok := r.live[orig]; ok {
			return reply, true
		}
	}
	return ct.Tuple{}, false
}

// moved reports whether translation changed the port or identifier.
func moved(f *ct.Flow) bool {
	if f.Orig.Proto.IsICMP() {
		return f.Orig.ICMPID != f.Reply.ICMPID
	}
	return f.Orig.SrcPort != f.Reply.DstPort
}

// alike reports whether two entries of one original tuple agree, timeouts
// within a second. Ports that were chosen anew need not be the same.
func alike(k, m *ct.Flow) bool {
	a, b := *k, *m
	if moved(k) && moved(m) && k.Status&ct.StatusSrcNAT != 0 {
		a.Reply.DstPort, a.Reply.ICMPID = b.Reply.DstPort, b.Reply.ICMPID
	}
	return same(&a, &b, 1)
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
		case !ok && k.TimeoutSeconds > 1:
			add(orig, simtest.FlowLine(&k), "nothing")
		case ok && !alike(&k, &m):
			add(orig, simtest.FlowLine(&k), simtest.FlowLine(&m))
		}
	}
	for orig, m := range model {
		if m.TimeoutSeconds > 1 {
			add(orig, "nothing", simtest.FlowLine(&m))
		}
	}
	return lines, tuples
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
