package simdiff

import (
	"context"
	"fmt"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// Batch is a set of sequences that run side by side.
type Batch struct {
	Sequences []*simtest.Sequence
	// Waits pass before each step, for all sequences alike, on top of the
	// steps' own (of which the longest counts).
	Waits    []time.Duration
	Timeouts ct.Timeouts
	Knobs    sim.Knobs
	Era      sim.Era
	// KeepGoing plays sequences to their end though they differ.
	KeepGoing bool
	// Model, if set, sees the table before the first packet.
	Model func(*sim.Table)
}

// Outcome is what became of one step of one sequence.
type Outcome struct {
	sim.Result
	Flows []ct.Flow // the sequence's entries after the step
}

// Difference is a step at which kernel and model disagree.
type Difference struct {
	Sequence, Step int
	Kernel, Model  Outcome
}

// String prints both sides.
func (d *Difference) String() string {
	return fmt.Sprintf("step %d\n  kernel %s\n  model  %s", d.Step+1, d.Kernel.String(), d.Model.String())
}

// String prints the verdict and the entries.
func (o *Outcome) String() string { return joined(o.lines()) }

// statusCompared leaves out what the model does not have.
const statusCompared = ct.StatusSeenReply | ct.StatusAssured | ct.StatusConfirmed | ct.StatusNAT |
	ct.StatusSrcNATDone | ct.StatusDstNATDone | ct.StatusDying | ct.StatusFixedTimeout | ct.StatusNATClash

// same reports whether two entries agree, timeouts within slack seconds.
func same(a, b *ct.Flow, slack uint32) bool {
	return a.Orig == b.Orig && a.Reply == b.Reply && a.State == b.State &&
		a.Zone == b.Zone && a.ZoneOrig == b.ZoneOrig && a.ZoneReply == b.ZoneReply &&
		a.OrigCounters.Packets == b.OrigCounters.Packets && a.ReplyCounters.Packets == b.ReplyCounters.Packets &&
		(a.Status^b.Status)&statusCompared == 0 && a.TCP == b.TCP &&
		a.TimeoutSeconds <= b.TimeoutSeconds+slack && b.TimeoutSeconds <= a.TimeoutSeconds+slack
}

func sameOutcome(k, m *Outcome, slack uint32) bool {
	kd, md := k.Verdict == sim.Refused || k.Verdict == sim.Lost, m.Verdict == sim.Refused || m.Verdict == sim.Lost
	if kd != md || !kd && k.Verdict != m.Verdict || len(k.Flows) != len(m.Flows) {
		return false
	}
	if k.Verdict == sim.Accepted && (k.Info != m.Info || k.Reply != m.Reply) {
		return false
	}
	for i := range k.Flows {
		if !sameAmong(&k.Flows[i], m.Flows, slack) {
			return false
		}
	}
	return true
}

func sameAmong(f *ct.Flow, list []ct.Flow, slack uint32) bool {
	for i := range list {
		if same(f, &list[i], slack) {
			return true
		}
	}
	return false
}

// run is a batch under way.
type run struct {
	*Rig
	batch  *Batch
	table  *sim.Table
	kernel []Outcome
	model  []Outcome
	failed []bool
	diffs  []Difference
	// crossed marks the sequences of which an entry ran out.
	crossed []bool
	slack   uint32 // in seconds, for the timeouts of the step
	lost    bool   // a packet that the model lets pass did not arrive
	// each, if set, is called with both outcomes of every step that a sequence
	// has, whether they agree or not.
	each func(seq, step int, kernel, model *Outcome)
	// under way
	slots   [chunkFrames]int // sequence of each mark of the chunk
	seen    [chunkFrames]bool
	packets [chunkFrames]sim.Packet
}

// Run sends a batch through kernel and model and returns the first difference
// of each sequence that has one.
func (r *Rig) Run(b *Batch) []Difference {
	r.t.Helper()
	return r.execute(b, nil).diffs
}

func (r *Rig) execute(b *Batch, each func(seq, step int, kernel, model *Outcome)) *run {
	r.t.Helper()
	r.empty()
	before := r.counters()
	r.setTimeouts(b.Timeouts)
	r.setKnobs(b.Knobs)
	n := len(b.Sequences)
	x := &run{Rig: r, batch: b, each: each, kernel: make([]Outcome, n),
		model: make([]Outcome, n), failed: make([]bool, n), crossed: make([]bool, n)}
	c := sim.Config{Era: b.Era, Max: 0, Buckets: 1 << 15, Timeouts: b.Timeouts, Knobs: b.Knobs, Seed: 1, Events: x.expired}
	if r.nat {
		c.NAT = simtest.Masquerade()
	}
	table, err := sim.New(c)
	if err != nil {
		r.t.Fatal(err)
	}
	x.table = table
	if b.Model != nil {
		b.Model(table)
	}
	for step := 0; x.step(step); step++ {
	}
	if len(x.diffs) == 0 && !x.lost {
		x.compareCounters(r.counters().Sub(before), table.Counters())
	}
	return x
}

// compareCounters compares all counters that both have, once all entries
// agree. Restarted searches are the kernel's own affair.
func (x *run) compareCounters(kernel, model ct.Counters) {
	kernel.Has &= model.Has &^ ct.CounterSearchRestart
	model.Has = kernel.Has
	kernel.SearchRestart, model.SearchRestart = 0, 0
	var k, m []string
	for name, v := range kernel.All {
		k = append(k, fmt.Sprint(name, "=", v))
	}
	for name, v := range model.All {
		m = append(m, fmt.Sprint(name, "=", v))
	}
	for i := range k {
		if k[i] != m[i] {
			x.t.Errorf("simdiff: counter %s in the kernel, %s in the model", k[i], m[i])
		}
	}
}

// step sends the packets of one step; false means that no sequence has it.
func (x *run) step(step int) bool {
	var todo []int
	pause := time.Duration(0)
	if step < len(x.batch.Waits) {
		pause = x.batch.Waits[step]
	}
	for i, s := range x.batch.Sequences {
		if step < len(s.Steps) && !x.failed[i] {
			todo = append(todo, i)
			pause = max(pause, s.Steps[step].Wait)
		}
	}
	if len(todo) == 0 {
		return false
	}
	time.Sleep(pause)
	for i := range x.kernel {
		x.kernel[i].Flows, x.model[i].Flows = x.kernel[i].Flows[:0], x.model[i].Flows[:0]
	}
	for rest := todo; len(rest) > 0; {
		k := min(len(rest), chunkFrames)
		x.chunk(step, rest[:k])
		rest = rest[k:]
	}
	x.dump()
	for _, i := range todo {
		if x.each != nil {
			x.each(i, step, &x.kernel[i], &x.model[i])
		}
		if !sameOutcome(&x.kernel[i], &x.model[i], x.slack) {
			x.failed[i] = !x.batch.KeepGoing
			d := Difference{Sequence: i, Step: step, Kernel: x.kernel[i], Model: x.model[i]}
			d.Kernel.Flows = append([]ct.Flow(nil), d.Kernel.Flows...)
			d.Model.Flows = append([]ct.Flow(nil), d.Model.Flows...)
			x.diffs = append(x.diffs, d)
		}
	}
	return true
}

// expired notes the sequence of an entry that has run out.
func (x *run) expired(e sim.Event) {
	var f ct.Flow
	if e.Kind != sim.EventDestroy || e.Cause != sim.CauseExpired || !x.table.Flow(e.Entry, &f) {
		return
	}
	if i, ok := simtest.ConversationOf(&f.Orig); ok && i >= 0 && i < len(x.crossed) {
		x.crossed[i] = true
	}
}

// chunk sends one packet of each of some sequences and waits for them behind
// the tracker. The model gets them with the time at which they left.
func (x *run) chunk(step int, seqs []int) {
	x.round++
	base := simtest.Mark(x.round * chunkFrames & 0xffff)
	for slot, i := range seqs {
		s := x.batch.Sequences[i]
		st := &s.Steps[step]
		peers := simtest.PeersOf(i, s.V6, x.nat)
		p := st.Place(&peers)
		w := x.wires[b2i(st.Reply)]
		w.frames[w.n] = simtest.AppendFrame(w.frames[w.n][:0], w.eth, &p, st.Options, st.Defect, base+simtest.Mark(slot))
		w.n++
		x.slots[slot], x.seen[slot], x.packets[slot] = i, false, p
		x.kernel[i].Verdict = sim.Lost
	}
	at := x.now()
	for _, w := range x.wires {
		if err := w.flush(); err != nil {
			x.t.Fatal(err)
		}
	}
	expected := 0
	for slot, i := range seqs {
		if x.predict(at, i, &x.batch.Sequences[i].Steps[step], &x.packets[slot]) {
			expected++
		}
	}
	x.collect(base, len(seqs), expected)
}

// predict lets the model track a packet and reports whether it should arrive.
func (x *run) predict(at sim.Time, seq int, st *simtest.Step, p *sim.Packet) bool {
	if x.nat && st.Reply {
		p.Flags |= sim.FlagDropped
	}
	res := x.table.Packet(at, p)
	if x.nat && st.Reply && (res.Verdict != sim.Accepted || res.Info == sim.InfoNew) {
		res = sim.Result{Verdict: sim.Lost} // it ends in the gateway
	}
	x.model[seq].Result = res
	return res.Verdict != sim.Refused && res.Verdict != sim.Lost
}

// collect waits for the packets of a chunk.
func (x *run) collect(base simtest.Mark, sent, expected int) {
	arrived := 0
	deadline := time.Now().Add(300 * time.Millisecond)
	for {
		for _, w := range x.wires {
			err := w.receive(func(m simtest.Mark, class uint8) {
				slot := int((m - base) & 0xffff)
				if slot >= sent || x.seen[slot] {
					return
				}
				x.seen[slot] = true
				arrived++
				x.classify(&x.kernel[x.slots[slot]], class)
			})
			if err != nil {
				x.t.Fatal(err)
			}
		}
		if arrived >= expected || time.Now().After(deadline) {
			x.lost = x.lost || arrived != expected
			return
		}
		wait(20, x.wires[0], x.wires[1])
	}
}

func (x *run) classify(o *Outcome, class uint8) {
	o.Verdict, o.Reply = sim.Accepted, class&8 != 0
	switch class &^ 8 {
	case 1:
		o.Verdict = sim.Invalid
	case 2:
		o.Verdict = sim.Untracked
	case 3:
		o.Info = sim.InfoNew
	case 4:
		o.Info = sim.InfoEstablished
	case 5:
		o.Info = sim.InfoRelated
	default:
		x.t.Errorf("a packet of class %d", class)
	}
}

// dump reads both tables.
func (x *run) dump() {
	add := func(list []Outcome, f *ct.Flow) {
		if i, ok := simtest.ConversationOf(&f.Orig); ok && i >= 0 && i < len(list) {
			list[i].Flows = append(list[i].Flows, *f)
		}
	}
	at := x.now()
	_, err := x.conn.Dump(context.Background(), ctnl.Query{}, func(f *ct.Flow) error {
		add(x.kernel, f)
		return nil
	})
	if err != nil {
		x.t.Fatal(err)
	}
	// Timeouts agree within a second and the time that reading took.
	at += (x.now() - at) / 2
	x.slack = 1 + uint32((x.now()-at)/1e9)
	x.table.Advance(at)
	for _, f := range x.table.Dump() {
		add(x.model, f)
	}
}

// shortTimeouts are a few seconds where a batch waits, so that entries run out.
func shortTimeouts(e sim.Era) ct.Timeouts {
	to := e.Timeouts()
	for _, k := range []ct.TimeoutKey{ct.TimeoutTCPSynRecv, ct.TimeoutTCPCloseWait, ct.TimeoutTCPUnacknowledged,
		ct.TimeoutTCPClose, ct.TimeoutICMP, ct.TimeoutUDP, ct.TimeoutTCPTimeWait, ct.TimeoutGRE} {
		to.Set(k, 2)
	}
	return to
}
