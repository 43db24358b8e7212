// Package scene puts a machine of the laboratory into one of the conditions
// that ctwarden has to tell apart, and keeps it there: traffic goes on until
// the test ends or asks for the generator's counts.
//
// Every scene but [Healthy] holds the global limits alone and lowers
// nf_conntrack_max, so that a few thousand entries fill a table. It returns
// once the kernel has refused packets.
package scene

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// Max is nf_conntrack_max in the scenes that fill a table.
const Max = 5000

// Scene is a machine in some condition.
type Scene struct {
	// Host is the machine to look at, by its namespace's name.
	Host *lab.Host
	// Limits is nil in scenes that leave the limits alone.
	Limits *lab.Limits
	// Culprit holds the addresses that cause the condition. It is invalid
	// where none does: sources are forged, or everybody grows.
	Culprit netip.Prefix
	// Target is what the traffic aims at: address and port, or the port alone.
	Target netip.AddrPort

	t     testing.TB
	stop  func() Tally
	tally *Tally
}

// Tally is what the generator counted, from the beginning of the scene.
type Tally struct {
	// Begun counts exchanges begun, each with a tuple of its own: SYNs,
	// handshakes, queries, connections.
	Begun int
	// Done counts those that the other side answered. Generators that do not
	// listen leave it at zero.
	Done int
}

// Stop ends the generator and returns its counts. Entries stay.
func (s *Scene) Stop() Tally {
	s.t.Helper()
	if s.tally == nil {
		tally := s.stop()
		s.tally = &tally
	}
	return *s.tally
}

// awaitRefusals waits until the kernel has refused packets in the namespace.
func (s *Scene) awaitRefusals() {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if s.Host.ConntrackStats()["drop"] > 0 {
			return
		}
	}
	s.t.Fatalf("scene: %s holds %d entries and has refused nothing", s.Host.Name, s.Host.Count())
}

// full prepares limits under which a table fills soon. Buckets stay far too
// many for such a max, as on a machine where only max was lowered: hardly ever
// do eight of them in a row hold an entry that early drop could evict.
func full(t testing.TB) *lab.Limits {
	t.Helper()
	lab.Require(t, "conntrack")
	l := lab.ExclusiveLimits(t)
	l.SetBuckets(262144)
	return l
}

// SYNFlood is (a): SYNs from forged addresses at a web server, with too many
// buckets for its max, so that early drop fails although nothing is assured.
func SYNFlood(t testing.TB) *Scene {
	t.Helper()
	limits := full(t)
	p := lab.Server(t)
	limits.SetMax(Max)
	s := &Scene{t: t, Host: p.Server, Limits: limits, Target: netip.AddrPortFrom(p.Server.Addr4, 80)}
	p.Server.Hold(80, 1024)
	send := func(ctx context.Context, load lab.Load) (lab.Sent, error) {
		return p.Client.SYNFlood(ctx, s.Target, p.Client.Spoof4, load)
	}
	s.stop = keepOn(t, send, 2*Max, 2000, func(c lab.Sent) Tally { return Tally{Begun: c.Packets} })
	s.awaitRefusals()
	return s
}

// IdleHandshakes is (b): some dozens of clients complete handshakes with a
// server and say nothing more.
func IdleHandshakes(t testing.TB) *Scene {
	t.Helper()
	limits := full(t)
	p := lab.Server(t)
	limits.SetMax(Max)
	s := &Scene{t: t, Host: p.Server, Limits: limits, Target: netip.AddrPortFrom(p.Server.Addr4, 443),
		Culprit: netip.PrefixFrom(p.Client.Spoof4.Addr(), 26)}
	p.Server.Hold(443, 2*Max)
	shake := func(ctx context.Context, load lab.Load) (lab.Shaken, error) {
		return p.Client.Handshakes(ctx, s.Target, s.Culprit, load)
	}
	s.stop = keepOn(t, shake, Max, 500, func(c lab.Shaken) Tally { return Tally{Begun: c.SYNs, Done: c.Completed} })
	s.awaitRefusals()
	return s
}

// LeftIdle is (b) days later: established connections of many clients that
// have been silent for at least the given time fill the table. They are made
// through ctnetlink, for nobody waits for days.
func LeftIdle(t testing.TB, idle time.Duration) *Scene {
	t.Helper()
	limits := full(t)
	p := lab.Server(t)
	limits.SetMax(Max)
	s := &Scene{t: t, Host: p.Server, Limits: limits, Target: netip.AddrPortFrom(p.Server.Addr4, 443)}
	timeouts := ct.DefaultTimeouts(ct.KernelVersion{Major: 6, Minor: 18})
	established, _ := timeouts.Get(ct.TimeoutTCPEstablished)
	p.Server.ServeTCP(443, lab.Echo)
	made := Max - 5
	p.Server.Fill(lab.Class{Count: made, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured,
		TimeoutSeconds: uint32(established) - uint32(idle/time.Second), Sources: p.Client.Spoof4})
	more := lab.Go(t, func(ctx context.Context) (lab.Churned, error) {
		return p.Client.TCPChurn(ctx, s.Target, p.Client.Sources4, lab.Load{Packets: 1 << 20, PerSecond: 100})
	})
	s.stop = func() Tally {
		m := more.Stop()
		return Tally{Begun: made + m.Asked, Done: made + m.Answered}
	}
	s.awaitRefusals()
	return s
}

// OutboundScan is (c): behind a gateway, one inside host asks tens of thousands
// of outside addresses for open ports, while others work quietly.
func OutboundScan(t testing.TB) *Scene {
	t.Helper()
	limits := full(t)
	r := lab.Gateway(t)
	limits.SetMax(Max)
	scanner := netip.MustParseAddr("10.0.3.7")
	s := &Scene{t: t, Host: r.Gateway, Limits: limits, Culprit: netip.PrefixFrom(scanner, 32)}
	work(t, r.Inside, r.Outside, netip.MustParsePrefix("10.0.1.0/27"), 32)
	ports := []uint16{22, 23, 80, 443, 3389}
	scan := func(ctx context.Context, load lab.Load) (lab.Sent, error) {
		return r.Inside.Scan(ctx, scanner, r.Outside.Spoof4, ports, load)
	}
	s.stop = keepOn(t, scan, 2*Max, 1000, func(c lab.Sent) Tally { return Tally{Begun: c.Packets} })
	s.awaitRefusals()
	return s
}

// DNSChurn is (d): many inside clients ask a resolver beyond the gateway, each
// question from a new port.
func DNSChurn(t testing.TB) *Scene {
	t.Helper()
	limits := full(t)
	r := lab.Gateway(t)
	limits.SetMax(Max)
	s := &Scene{t: t, Host: r.Gateway, Limits: limits, Target: netip.AddrPortFrom(r.Outside.Addr4, 53)}
	r.Outside.ServeDNS(53)
	ask := func(ctx context.Context, load lab.Load) (lab.Churned, error) {
		return r.Inside.DNSChurn(ctx, s.Target, netip.MustParsePrefix("10.0.1.0/24"), load)
	}
	s.stop = keepOn(t, ask, Max+Max/10, 500, func(c lab.Churned) Tally { return Tally{Begun: c.Asked, Done: c.Answered} })
	s.awaitRefusals()
	return s
}

// work keeps n connections with a byte to and fro every second, from addresses
// of a prefix.
func work(t testing.TB, client, server *lab.Host, sources netip.Prefix, n int) {
	t.Helper()
	const port = 8443
	server.ServeTCP(port, lab.Echo)
	conns, err := client.Connect(t.Context(), netip.AddrPortFrom(server.Addr4, port), sources, n)
	if err != nil {
		t.Fatalf("scene: %v", err)
	}
	lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Chat(ctx, conns, time.Second) })
}

// keepOn lets a generator make a burst at full speed, and then go on at a pace
// until the function that it returns is called.
func keepOn[T any](t testing.TB, generate func(context.Context, lab.Load) (T, error), burst, perSecond int, count func(T) Tally) func() Tally {
	t.Helper()
	first, err := generate(t.Context(), lab.Load{Packets: burst})
	if err != nil {
		t.Fatalf("scene: %v", err)
	}
	more := lab.Go(t, func(ctx context.Context) (T, error) {
		return generate(ctx, lab.Load{First: burst, Packets: 1 << 18, PerSecond: perSecond})
	})
	return func() Tally {
		a, b := count(first), count(more.Stop())
		return Tally{Begun: a.Begun + b.Begun, Done: a.Done + b.Done}
	}
}
