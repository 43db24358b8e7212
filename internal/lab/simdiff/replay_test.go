package simdiff

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/capture"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// stage is where a program runs: a client, a server, and the host that tracks,
// which is the server itself or a gateway that masquerades.
type stage struct {
	*testing.T
	client, server, tracker *lab.Host
	gateway                 bool
}

func newStage(t *testing.T, gateway bool) *stage {
	if gateway {
		g := lab.Gateway(t)
		return &stage{T: t, client: g.Inside, server: g.Outside, tracker: g.Gateway, gateway: true}
	}
	p := lab.Server(t)
	return &stage{T: t, client: p.Client, server: p.Server, tracker: p.Server}
}

// The addresses of [lab.Gateway] towards the outside.
var (
	gatewayOut4 = netip.MustParseAddr("203.0.113.2")
	gatewayOut6 = netip.MustParseAddr("2001:db8:1::2")
)

func (s *stage) replay(e sim.Era) *replay {
	c := sim.DefaultConfig(e)
	c.Max, c.Buckets, c.Knobs.Acct = 0, 1<<16, true
	r := &replay{config: c, own: []netip.Addr{s.tracker.Addr4, s.tracker.Addr6}}
	if s.gateway {
		r.forwards = true
		r.own = append(r.own, gatewayOut4, gatewayOut6)
		for _, src := range []netip.Prefix{s.client.Sources4, netip.PrefixFrom(s.client.Addr4, 24).Masked()} {
			r.config.NAT = append(r.config.NAT, sim.NATRule{Kind: sim.Masquerade, Src: src, To: gatewayOut4})
		}
		for _, src := range []netip.Prefix{s.client.Sources6, netip.PrefixFrom(s.client.Addr6, 64).Masked()} {
			r.config.NAT = append(r.config.NAT, sim.NATRule{Kind: sim.Masquerade, Src: src, To: gatewayOut6})
		}
	}
	return r
}

// listen notes how the kernel translates new flows, until it is stopped.
func (s *stage) listen() (stop func() map[ct.Tuple][]ct.Tuple) {
	s.Helper()
	l, err := ctnl.Listen(ctnl.ListenOptions{Options: ctnl.Options{Netns: s.tracker.Name}, Groups: ctnl.GroupNew})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { l.Close() })
	chosen := map[ct.Tuple][]ct.Tuple{}
	job := lab.Go(s.T, func(ctx context.Context) (struct{}, error) {
		_ = l.Run(ctx, ctnl.Handler{Flow: func(_ ctnl.EventKind, f *ct.Flow) error {
			chosen[f.Orig] = append(chosen[f.Orig], f.Reply)
			return nil
		}})
		return struct{}{}, nil
	})
	return func() map[ct.Tuple][]ct.Tuple {
		time.Sleep(50 * time.Millisecond)
		job.Stop()
		if l.Lost() > 0 {
			s.Fatalf("%d events lost", l.Lost())
		}
		return chosen
	}
}

// compare runs a program and compares what it left in the kernel's table with
// what the capture leaves in the model's.
func (s *stage) compare(run func(*stage), drops func(*sim.Packet) bool) {
	s.Helper()
	s.tracker.SetSysctl("net.netfilter.nf_conntrack_acct", "1")
	dev := s.tracker.Dev
	if s.gateway {
		dev = "any"
	}
	conn, err := ctnl.Dial(ctnl.Options{Netns: s.tracker.Name})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	tap := startTap(s.T, s.tracker, dev, s.gateway)
	var stop func() map[ct.Tuple][]ct.Tuple
	if s.gateway {
		stop = s.listen()
	}
	before := countersOf(s.T, conn)
	run(s)
	time.Sleep(100 * time.Millisecond)

	r := s.replay(runningEra(s.T))
	r.drops = drops
	kernel := map[ct.Tuple]ct.Flow{}
	at := time.Now()
	if _, err := conn.Dump(s.Context(), ctnl.Query{}, func(f *ct.Flow) error {
		kernel[f.Orig] = *f
		return nil
	}); err != nil {
		s.Fatal(err)
	}
	read := time.Now()
	counters := countersOf(s.T, conn).Sub(before)
	if s.gateway {
		r.chosen = stop()
	}
	file, lost := tap.stop()
	if lost > 0 {
		s.Fatalf("the capture misses %d packets", lost)
	}
	r.check(s.T, file, at, read, kernel, counters)
}

func countersOf(t *testing.T, c *ctnl.Conn) (sum ct.Counters) {
	t.Helper()
	cpus, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for i := range cpus {
		sum.Add(cpus[i].Counters)
	}
	return sum
}

// check plays a capture and reports what differs, with the packets of the first
// entry that does.
func (r *replay) check(t *testing.T, file *os.File, at, read time.Time, kernel map[ct.Tuple]ct.Flow, counters ct.Counters) {
	t.Helper()
	r.run(t, file, at, read)
	lines, tuples := r.difference(kernel)
	// What is wrong in more than one flow of a hundred is no matter of chance.
	if len(lines) > 0 && len(lines) <= max(5, len(kernel)/100) {
		lines, tuples = r.cross(t, file, at, read, kernel, tuples)
	}
	t.Logf("%d packets, %d entries, %d differ; counters %+v", r.packets, len(kernel), len(lines), counters)
	for i, l := range lines {
		if i < 5 {
			t.Error(l)
		}
	}
	if d := r.counterDifference(counters); d != "" {
		t.Error(d)
	}
	if len(tuples) > 0 {
		t.Log(r.tell(t, file, at, tuples[0]))
	}
	if len(kernel) == 0 {
		t.Error("the program left no entry")
	}
}

func (r *replay) run(t *testing.T, file *os.File, at, read time.Time) {
	t.Helper()
	if _, err := file.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	c, err := capture.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	r.packets = 0
	if err := r.play(c, at, read); err != nil {
		t.Fatal(err)
	}
	r.fragments = c.Stats().Skipped[capture.LaterPart] > 0
}

// cross plays the capture again with packets of the given flows in the other
// order where the kernel may have seen them so, and returns what differs then.
//
// What the host sends is tracked before it is captured, what it receives
// after: when it sends while it receives, and the capture has the received
// packet first, the tracking may have come in the other order. A gateway may
// receive from both sides on two processors, and the order is anybody's.
func (r *replay) cross(t *testing.T, file *os.File, at, read time.Time, kernel map[ct.Tuple]ct.Flow, flows []ct.Tuple) (lines []string, tuples []ct.Tuple) {
	t.Helper()
	r.late = map[int]int{}
	found := r.crossings(t, file, at, flows)
	for _, orig := range flows {
		for _, c := range found[orig] {
			r.late[c.first] = c.second
			r.run(t, file, at, read)
			if _, differ := r.difference(kernel); !slices.Contains(differ, orig) {
				t.Logf("%s: as in the kernel if packet %d came before packet %d", orig, c.second, c.first)
				break
			}
			delete(r.late, c.first)
		}
	}
	r.run(t, file, at, read)
	return r.difference(kernel)
}

// crossing is a packet with the one of the other direction right after it.
type crossing struct{ first, second int }

// crossings returns those of each flow given, of which the order is not certain.
func (r *replay) crossings(t *testing.T, file *os.File, until time.Time, flows []ct.Tuple) map[ct.Tuple][]crossing {
	const apart = sim.Time(time.Millisecond)
	type seen struct {
		number          int
		at              sim.Time
		received, reply bool
		tcp             sim.Segment
	}
	last, found := map[ct.Tuple]seen{}, map[ct.Tuple][]crossing{}
	for _, orig := range flows {
		last[orig] = seen{}
	}
	r.history = func(at sim.Time, p *sim.Packet, res sim.Result) {
		var f ct.Flow
		if !r.table.Flow(res.Entry, &f) {
			return
		}
		before, asked := last[f.Orig]
		if !asked {
			return
		}
		own := slices.Contains(r.own, p.Tuple.Src)
		if before.received && (own || r.forwards) && before.reply != res.Reply &&
			at-before.at < apart && !answers(&p.TCP, &before.tcp) {
			found[f.Orig] = append(found[f.Orig], crossing{first: before.number, second: r.packets})
		}
		last[f.Orig] = seen{number: r.packets, at: at, received: !own, reply: res.Reply, tcp: p.TCP}
	}
	r.run(t, file, until, until)
	r.history = nil
	return found
}

// answers reports whether a segment acknowledges all of another one, so that it
// cannot have been sent before that arrived.
func answers(s, other *sim.Segment) bool {
	return other.End() != other.Seq && s.Flags&sim.TCPAck != 0 && int32(s.Ack-other.End()) >= 0
}

// tell plays the capture again and prints the last packets of one flow.
func (r *replay) tell(t *testing.T, file *os.File, until time.Time, orig ct.Tuple) string {
	var told []string
	var reply ct.Tuple
	r.history = func(at sim.Time, p *sim.Packet, res sim.Result) {
		var f ct.Flow
		if r.table.Flow(res.Entry, &f) && f.Orig == orig {
			reply = f.Reply
		}
		inner, _ := p.Inner.Invert()
		if p.Tuple != orig && p.Tuple != reply && inner != orig && inner != reply && p.Inner != orig {
			return
		}
		line := fmt.Sprintf("%10.6f %s flags %#x seq %d+%d ack %d win %d %+v: %s", until.Sub(time.Unix(0, int64(at))).Seconds(),
			p.Tuple, p.TCP.Flags, p.TCP.Seq, p.TCP.PayloadLen, p.TCP.Ack, p.TCP.Window, p.TCP.Options, simtest.VerdictLine(res))
		if len(told) >= 40 {
			told = append(told[:10], told[11:]...)
		}
		told = append(told, line)
	}
	r.run(t, file, until, until)
	r.history = nil
	return strings.Join(told, "\n")
}
