package simdiff

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// natStep is a packet of a conversation that is translated.
type natStep struct {
	client, sport, server, dport uint8 // which of the conversation's
	proto                        ct.Proto
	back                         bool // from the other side, if the flow has an entry
	err                          bool // and an ICMP error
	flags                        uint8
}

type natSequence []natStep

// natClientPorts are around the bounds within which the kernel keeps a port;
// those from 1024 on are the conversation's own.
var natClientPorts = [...]uint16{0, 1, 0, 1, 0, 2, 300, 700}

func (c *natCase) sequence(r *rand.Rand, n int) natSequence {
	protos := c.protos
	if len(protos) == 0 {
		protos = []ct.Proto{ct.TCP, ct.TCP, ct.UDP, ct.UDP, ct.ICMP, ct.SCTP, ct.GRE, 200}
	}
	main := protos[r.IntN(len(protos))]
	var s natSequence
	for range 2 + r.IntN(n-1) {
		st := natStep{client: uint8(r.IntN(2)), sport: uint8(r.IntN(len(natClientPorts))), server: uint8(r.IntN(2)),
			dport: uint8(r.IntN(3)), proto: main, flags: sim.TCPSyn}
		if r.IntN(10) == 0 {
			st.proto = protos[r.IntN(len(protos))]
		}
		if len(s) > 0 && r.IntN(100) < 60 { // of a flow that was there
			old := s[r.IntN(len(s))]
			st.client, st.sport, st.server, st.dport, st.proto = old.client, old.sport, old.server, old.dport, old.proto
			st.back = r.IntN(2) == 0
			st.err = st.back && r.IntN(8) == 0
			st.flags = []uint8{sim.TCPAck, sim.TCPSyn | sim.TCPAck, sim.TCPFin | sim.TCPAck, sim.TCPRst, sim.TCPSyn}[r.IntN(5)]
		}
		s = append(s, st)
	}
	return s
}

// orig is the tuple that a step's flow begins with in the nth conversation.
func (c *natCase) orig(n int, st *natStep) ct.Tuple {
	peers := simtest.PeersOf(n, c.v6, false)
	t := ct.Tuple{Src: peers.Client, Dst: peers.Server, Proto: st.proto}
	if st.client == 1 {
		t.Src = t.Src.Next()
	}
	if st.server == 1 {
		t.Dst = t.Dst.Next()
	}
	if c.toVIP {
		t.Dst = vip4
		if c.v6 {
			t.Dst = vip6
		}
	}
	port := natClientPorts[st.sport]
	if port < 10 || c.toVIP {
		port = 1024 + uint16(8*(n%8000)) + port%8
	}
	switch st.proto {
	case ct.ICMP:
		t.ICMPType, t.ICMPID = 8, port
		if c.v6 {
			t.Proto, t.ICMPType = ct.ICMPv6, 128
		}
	case ct.TCP, ct.UDP, ct.SCTP:
		t.SrcPort, t.DstPort = port, [...]uint16{80, 8001, 8080}[st.dport]
	}
	return t
}

// packet is a step of a flow; answer is the tuple of the flow's answers.
func (st *natStep) packet(orig, answer ct.Tuple) sim.Packet {
	p := sim.Packet{Tuple: orig}
	if st.back {
		p.Tuple = answer
	}
	switch {
	case st.err:
		p.Tuple = ct.Tuple{Src: answer.Src, Dst: answer.Dst, Proto: ct.ICMP, ICMPType: 3, ICMPCode: 1}
		if !answer.Src.Is4() {
			p.Tuple.Proto, p.Tuple.ICMPType, p.Tuple.ICMPCode = ct.ICMPv6, 1, 0
		}
		p.Inner, _ = answer.Invert()
	case st.proto == ct.TCP:
		p.TCP = sim.Segment{Flags: st.flags, Seq: 1, Ack: 1, Window: 1000}
	case st.proto == ct.SCTP:
		p.SCTP = sim.SCTPPacket{Chunks: []sim.SCTPChunk{{Type: 1, Length: 20, InitTag: 7}}}
	}
	return p
}

func (s natSequence) String() string {
	var b strings.Builder
	for _, st := range s {
		dir := ">"
		if st.back {
			dir = "<"
		}
		fmt.Fprintf(&b, "%s %s client %d port %d server %d port %d flags %#x err %v\n", dir, st.proto, st.client,
			natClientPorts[st.sport], st.server, st.dport, st.flags, st.err)
	}
	return b.String()
}

// natRun plays sequences side by side across one translation.
type natRun struct {
	*Rig
	c         *natCase
	sequences []natSequence
	table     *sim.Table
	known     map[ct.Tuple]ct.Flow // the kernel's entries after the last step
	class     map[simtest.Mark]uint8
	diffs     map[int]string // the first difference of a sequence
	packets   int
	moved     int // entries of which the port was chosen anew
	entries   int
}

// sentinels tell that all packets before them are through.
var (
	sentinelClient = netip.MustParseAddr("10.127.255.254")
	sentinelServer = netip.MustParseAddr("172.23.255.254")
)

const sentinelMark simtest.Mark = 0xffff

// runNAT plays sequences; wait passes before the step with that number. It
// returns what differs, by sequence.
func (r *Rig) runNAT(c *natCase, e sim.Era, list []natSequence, wait int) *natRun {
	r.t.Helper()
	r.empty()
	before := r.counters()
	b := shortTimeouts(e)
	r.setTimeouts(b)
	table, err := sim.New(sim.Config{Era: e, Buckets: 1 << 15, Timeouts: b, Knobs: sim.DefaultKnobs(), NAT: c.model, Seed: 1})
	if err != nil {
		r.t.Fatal(err)
	}
	x := &natRun{Rig: r, c: c, sequences: list, table: table, diffs: map[int]string{}, known: map[ct.Tuple]ct.Flow{}}
	simtest.Choose(table, func(orig ct.Tuple, source bool) (uint16, bool) {
		f, ok := x.known[orig]
		return chosenPort(f.Reply, source), ok
	})
	defer pinned()()
	for step, more := 0, true; more; step++ {
		if step == wait {
			time.Sleep(3200 * time.Millisecond)
		}
		more = x.step(step)
	}
	if len(x.diffs) == 0 {
		x.compareCounters(r.counters().Sub(before))
	}
	return x
}

// pinned keeps the caller on one processor, so that packets are tracked in the
// order in which they are sent.
func pinned() (undo func()) {
	runtime.LockOSThread()
	var was, one unix.CPUSet
	if unix.SchedGetaffinity(0, &was) != nil {
		return runtime.UnlockOSThread
	}
	var cpu uint32
	_, _, _ = unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0)
	one.Set(int(cpu))
	_ = unix.SchedSetaffinity(0, &one)
	return func() {
		_ = unix.SchedSetaffinity(0, &was)
		runtime.UnlockOSThread()
	}
}

// sent is a packet of a step.
type sent struct {
	seq  int
	kept bool // for the gateway itself, unless it is translated back
	mark simtest.Mark
	p    sim.Packet
	at   sim.Time
}

// step sends the packets of a step, those of the clients first.
func (x *natRun) step(step int) bool {
	var out [2][]sent
	mark := simtest.Mark(0)
	for n, s := range x.sequences {
		if step >= len(s) || x.diffs[n] != "" {
			continue
		}
		st := &s[step]
		orig := x.c.orig(n, st)
		f, ok := x.known[orig]
		if st.back && !ok {
			mark++
			continue
		}
		p := sent{seq: n, mark: mark, p: st.packet(orig, f.Reply)}
		side := b2i(st.back && !strings.Contains(x.c.name, "hairpin"))
		x.c.place(&p.p)
		p.kept = st.back && !isClient(p.p.Tuple.Dst)
		if side == 1 && p.kept {
			p.p.Flags |= sim.FlagDropped // by the rule for the servers' side
		}
		if st.back && strings.Contains(x.c.name, "redirect") {
			continue // the gateway itself would answer
		}
		out[side] = append(out[side], p)
		mark++
	}
	alive := mark > 0
	x.class = map[simtest.Mark]uint8{}
	for side := range out {
		x.send(side, out[side])
	}
	if !alive {
		return false
	}
	x.known = map[ct.Tuple]ct.Flow{}
	at := x.now()
	if _, err := x.conn.Dump(context.Background(), ctnl.Query{}, func(f *ct.Flow) error {
		x.known[f.Orig] = *f
		return nil
	}); err != nil {
		x.t.Fatal(err)
	}
	results := map[int]sim.Result{}
	for side := range out {
		for i := range out[side] {
			s := &out[side][i]
			results[s.seq] = x.table.Packet(s.at, &s.p)
			x.packets++
		}
	}
	x.table.Advance(at)
	x.compare(step, out, results)
	return true
}

// send sends packets and waits until they are through.
func (x *natRun) send(side int, list []sent) {
	w := x.wires[side]
	for len(list) > 0 {
		chunk := list[:min(len(list), chunkFrames-1)]
		list = list[len(chunk):]
		at := x.now()
		for i := range chunk {
			s := &chunk[i]
			s.at = at
			w.frames[w.n] = simtest.AppendFrame(w.frames[w.n][:0], w.eth, &s.p, nil, simtest.NoDefect, s.mark)
			w.n++
		}
		last := sim.Packet{Tuple: ct.Tuple{Src: sentinelClient, Dst: sentinelServer, Proto: ct.UDP, SrcPort: 9, DstPort: 9}}
		if side == 1 {
			last.Tuple, _ = last.Tuple.Invert()
		}
		w.frames[w.n] = simtest.AppendFrame(w.frames[w.n][:0], w.eth, &last, nil, simtest.NoDefect, sentinelMark)
		w.n++
		if err := w.flush(); err != nil {
			x.t.Fatal(err)
		}
		x.await()
	}
}

// await reads what arrives until the sentinel does.
func (x *natRun) await() {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		through := false
		for _, w := range x.wires {
			if err := w.receive(func(m simtest.Mark, class uint8) {
				if m == sentinelMark && class == 2 {
					through = true
				} else if class != 0 {
					x.class[m] = class
				}
			}); err != nil {
				x.t.Fatal(err)
			}
		}
		if through {
			return
		}
		wait(20, x.wires[0], x.wires[1])
	}
	x.t.Fatal("simdiff: the last packet of a chunk did not arrive")
}

// compare compares all entries, and what became of each packet.
func (x *natRun) compare(step int, out [2][]sent, results map[int]sim.Result) {
	byConversation := func(f *ct.Flow) int {
		client := f.Orig.Src
		if !isClient(client) {
			client = f.Orig.Dst
		}
		n, ok := simtest.ConversationOf(&ct.Tuple{Src: client, Dst: client})
		if !ok || !isClient(client) || n >= len(x.sequences) {
			return -1
		}
		return n
	}
	kernel, model := map[int][]ct.Flow{}, map[int][]ct.Flow{}
	x.entries += len(x.known)
	for _, f := range x.known {
		n := byConversation(&f)
		kernel[n] = append(kernel[n], f)
		if moved(&f) {
			x.moved++
		}
	}
	for _, f := range x.table.Dump() {
		n := byConversation(f)
		model[n] = append(model[n], *f)
	}
	for n := range x.sequences {
		if x.diffs[n] == "" && !sameFlows(kernel[n], model[n]) {
			x.diffs[n] = fmt.Sprintf("step %d\n  kernel %s\n  model  %s", step+1, flowText(kernel[n]), flowText(model[n]))
		}
	}
	for side := range out {
		for i := range out[side] {
			s := &out[side][i]
			got, arrived := x.class[s.mark]
			if want := x.classOf(results[s.seq], s.kept); got != want && x.diffs[s.seq] == "" &&
				!(strings.Contains(x.c.name, "redirect") && !arrived) {
				x.diffs[s.seq] = fmt.Sprintf("step %d: the kernel's class is %d, the model's %d (%+v)", step+1, got, want, results[s.seq])
			}
		}
	}
}

func isClient(a netip.Addr) bool { return simtest.Clients4.Contains(a) || simtest.Clients6.Contains(a) }

// classOf is the mark that a packet with this result bears; 0 if it is dropped,
// or stays in the gateway, as what is sent to it and no answer does.
func (x *natRun) classOf(r sim.Result, kept bool) uint8 {
	class := uint8(0)
	switch {
	case r.Verdict == sim.Refused || r.Verdict == sim.Lost,
		kept && (r.Verdict != sim.Accepted || r.Info == sim.InfoNew):
		return 0
	case r.Verdict == sim.Invalid:
		return 1
	case r.Info == sim.InfoNew:
		class = 3
	case r.Info == sim.InfoEstablished:
		class = 4
	default:
		class = 5
	}
	if r.Reply {
		class |= 8
	}
	return class
}

// moved reports whether translation changed a port or identifier of the flow.
func moved(f *ct.Flow) bool {
	back, _ := f.Orig.Invert()
	return f.Reply.SrcPort != back.SrcPort || f.Reply.DstPort != back.DstPort || f.Reply.ICMPID != back.ICMPID
}

func sameFlows(k, m []ct.Flow) bool {
	return len(k) == len(m) && !slices.ContainsFunc(k, func(f ct.Flow) bool { return !sameAmong(&f, m, 1) })
}

func flowText(list []ct.Flow) string {
	var lines []string
	for i := range list {
		lines = append(lines, simtest.FlowLine(&list[i]))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n         ")
}

// compareCounters compares the counters that do not depend on draws.
func (x *natRun) compareCounters(k ct.Counters) {
	m := x.table.Counters()
	for _, c := range []struct {
		name string
		k, m uint32
	}{{"invalid", k.Invalid, m.Invalid}, {"drop", k.Drop, m.Drop}, {"insert_failed", k.InsertFailed, m.InsertFailed},
		{"icmp_error", k.Error, m.Error}, {"clash_resolve", k.ClashResolve, m.ClashResolve}} {
		if c.k != c.m {
			x.t.Errorf("%s: counter %s %d in the kernel, %d in the model", x.c.name, c.name, c.k, c.m)
		}
	}
}
