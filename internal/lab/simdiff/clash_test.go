package simdiff

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// TestClash holds two packets of one flow between the hooks, so that each has
// an unconfirmed entry, lets them go on one after the other, and compares what
// becomes of them.
func TestClash(t *testing.T) {
	lab.Require(t, "conntrack", "iptables-legacy")
	lab.SharedLimits(t)
	compareClashes(t, runningEra(t), func(r *Rig) {
		r.tracker.Exec("iptables-legacy", "-t", "mangle", "-A", "FORWARD", "-j", "NFQUEUE", "--queue-num", "0")
	})
}

// TestGuestClash runs inside a guest, whose kernel has the statement queue.
func TestGuestClash(t *testing.T) {
	lab.SharedLimits(t)
	compareClashes(t, runningEra(t), func(r *Rig) {
		r.tracker.NFT("table ip simdiffqueue {\n chain f { type filter hook forward priority -150; queue num 0; }\n}\n")
	})
}

// clashCase is two packets that are under way at once.
type clashCase struct {
	name    string
	proto   ct.Proto
	reverse bool // the second comes from the other side
	dnat    bool // each is sent to a port of its own
	swapped bool // the second goes on first
}

func compareClashes(t *testing.T, e sim.Era, hold func(*Rig)) {
	cases := []clashCase{}
	for _, p := range []ct.Proto{ct.UDP, ct.TCP, ct.ICMP, ct.GRE, ct.SCTP, 200} {
		cases = append(cases, clashCase{name: p.String(), proto: p}, clashCase{name: p.String() + ", the second first", proto: p, swapped: true})
		if p != ct.ICMP && p != ct.TCP {
			cases = append(cases, clashCase{name: p.String() + " from both sides", proto: p, reverse: true})
		}
	}
	for _, p := range []ct.Proto{ct.UDP, ct.TCP} {
		cases = append(cases, clashCase{name: p.String() + " translated", proto: p, dnat: true})
	}
	rig := layCables(t)
	rig.tracker.NFT(rules + `table ip simdiffnat {
	chain prerouting { type nat hook prerouting priority dstnat; ip daddr ` + vip4.String() + ` meta l4proto { tcp, udp } dnat to ` +
		natAddrs{}.target(0).String() + `:8000-8999 fully-random; }
}
`)
	hold(rig)
	q, err := lab.OpenQueue(rig.tracker)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	for n, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			rig.t = t
			rig.clash(q, e, n, c)
		})
	}
	rig.t = t
}

func (c *clashCase) packets(n int) (list [2]sim.Packet) {
	st := natStep{proto: c.proto, flags: sim.TCPSyn, sport: 0}
	nc := natCase{toVIP: c.dnat}
	orig := nc.orig(n, &st)
	back, _ := orig.Invert()
	list[0] = st.packet(orig, back)
	st.back = c.reverse
	list[1] = st.packet(orig, back)
	return list
}

func (r *Rig) clash(q *lab.Queue, e sim.Era, n int, c clashCase) {
	t := r.t
	r.empty()
	before := r.counters()
	r.setTimeouts(e.Timeouts())
	table, err := sim.New(sim.Config{Era: e, Buckets: 1024, Timeouts: e.Timeouts(), Knobs: sim.DefaultKnobs(), Seed: uint64(n),
		NAT: []sim.NATRule{
			{Kind: sim.DNAT, Proto: ct.TCP, Dst: netip.PrefixFrom(vip4, 32), To: natAddrs{}.target(0), Ports: sim.PortRange{Min: 8000, Max: 8999}, Random: true},
			{Kind: sim.DNAT, Proto: ct.UDP, Dst: netip.PrefixFrom(vip4, 32), To: natAddrs{}.target(0), Ports: sim.PortRange{Min: 8000, Max: 8999}, Random: true}}})
	if err != nil {
		t.Fatal(err)
	}
	list := c.packets(n)
	at := r.now()
	var ids []uint32
	for i := range list {
		w := r.wires[b2i(i == 1 && c.reverse)]
		w.frames[0] = simtest.AppendFrame(w.frames[0][:0], w.eth, &list[i], nil, simtest.NoDefect, simtest.Mark(i+1))
		w.n = 1
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		got, err := q.Wait(1)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, got...)
	}
	if k := r.tracker.Count(); k != 2 {
		t.Errorf("count %d in the kernel with two packets under way", k)
	}
	order := []int{0, 1}
	if c.swapped {
		order = []int{1, 0}
	}
	ports, arrived := [2]uint16{}, [2]bool{}
	for _, i := range order {
		if err := q.Accept(ids[i]); err != nil {
			t.Fatal(err)
		}
		r.arrivals(func(m simtest.Mark, frame []byte) {
			if m != 1 && m != 2 {
				return
			}
			arrived[m-1] = true
			ports[m-1] = binary.BigEndian.Uint16(frame[14+22:])
		})
	}
	kernel := map[ct.Tuple]ct.Flow{}
	count := r.tracker.Count()
	if _, err := r.conn.Dump(context.Background(), ctnl.Query{}, func(f *ct.Flow) error {
		kernel[f.Orig] = *f
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	flights := [2]sim.Flight{}
	for i := range list {
		simtest.Choose(table, func(ct.Tuple, bool) (uint16, bool) { return ports[i], ports[i] != 0 })
		flights[i] = table.In(at, &list[i])
	}
	if m := table.Count(); m != 2 {
		t.Errorf("count %d in the model with two packets under way", m)
	}
	passed := [2]bool{}
	for n, i := range order {
		if n == 1 && queueJoins(e) {
			table.Abandon(flights[i])
			passed[i] = true
			continue
		}
		passed[i] = table.Confirm(at, flights[i]).Verdict == sim.Accepted
	}
	if passed != arrived {
		t.Errorf("the kernel lets %v pass, the model %v", arrived, passed)
	}
	if table.Count() != count {
		t.Errorf("count %d in the kernel, %d in the model", count, table.Count())
	}
	table.Advance(r.now())
	seen := 0
	for _, f := range table.Dump() {
		seen++
		if k, ok := kernel[f.Orig]; !ok || !same(&k, f, 1) {
			t.Errorf("kernel %s\nmodel  %s", simtest.FlowLine(&k), simtest.FlowLine(f))
		}
	}
	if seen != len(kernel) {
		t.Errorf("%d entries in the kernel, %d in the model", len(kernel), seen)
	}
	k, m := r.counters().Sub(before), table.Counters()
	if k.Drop != m.Drop || k.InsertFailed != m.InsertFailed || k.Has&m.Has&ct.CounterClashResolve != 0 && k.ClashResolve != m.ClashResolve {
		t.Errorf("counters %+v in the kernel, %+v in the model", k, m)
	}
	t.Logf("passed %v, count %d, clash_resolve %d, drop %d, insert_failed %d", arrived, count, k.ClashResolve, k.Drop, k.InsertFailed)
}

// queueJoins reports whether a packet that comes back from a queue is looked up
// again and joins an entry that was made meanwhile, before it can clash with it
// (nf_conntrack_update). Older kernels do that; the model knows no queues.
func queueJoins(e sim.Era) bool { return !e.From.AtLeast(6, 12) }

// arrivals reads what comes out of the tracker within a moment.
func (r *Rig) arrivals(f func(m simtest.Mark, frame []byte)) {
	r.t.Helper()
	for deadline := time.Now().Add(150 * time.Millisecond); time.Now().Before(deadline); {
		for _, w := range r.wires {
			if err := w.receive(func(m simtest.Mark, class uint8) {
				if class != 0 {
					f(m, w.buf[:])
				}
			}); err != nil {
				r.t.Fatal(err)
			}
		}
		wait(20, r.wires[0], r.wires[1])
	}
}
