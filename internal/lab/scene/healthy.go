package scene

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// Ports of the flows in [Healthy]. Each kind has one, on Scene.Host.
const (
	PortDownload   = 80   // bulk data from the server, as fast as a slow line carries it
	PortUpload     = 81   // bulk data to the server
	PortZeroWindow = 82   // the client has stopped reading: its window is closed
	PortLossy      = 83   // bulk data over a line that loses packets
	PortTalk       = 84   // a byte to and fro every second
	PortShort      = 8080 // a few short connections a second
	PortDNS        = 53   // a few questions a second
	PortStream     = 4433 // UDP both ways every second, for as long as it lasts
)

// Live counts the long connections of each kind in [Healthy], by port.
var Live = map[uint16]int{PortDownload: 3, PortUpload: 2, PortZeroWindow: 3, PortLossy: 2, PortTalk: 40}

// LiveStreams counts the UDP streams in [Healthy].
const LiveStreams = 10

// Healthy is (f): a busy server at the stock limits, nothing wrong with it. Its
// flows include those whose remaining timeout misleads: data waiting for its
// acknowledgement, closed windows, losses. None of them is idle.
func Healthy(t testing.TB) *Scene {
	t.Helper()
	lab.Require(t, "conntrack")
	lab.SharedLimits(t)
	p := lab.Server(t)
	s := &Scene{t: t, Host: p.Server, Target: netip.AddrPortFrom(p.Server.Addr4, PortDownload)}
	p.Server.Throttle(100)
	p.Client.Lose(3, PortLossy)
	serve := map[uint16]func(net.Conn){PortDownload: lab.Flow, PortUpload: lab.Discard, PortZeroWindow: lab.Flow,
		PortLossy: lab.Flow, PortTalk: lab.Echo, PortShort: lab.Echo}
	for port, handle := range serve {
		p.Server.ServeTCP(port, handle)
	}
	p.Server.ServeDNS(PortDNS)
	p.Server.ServeUDP(PortStream)
	conns := make(map[uint16][]net.Conn)
	for port, n := range Live {
		c, err := p.Client.Connect(t.Context(), netip.AddrPortFrom(p.Server.Addr4, port), p.Client.Sources4, n)
		if err != nil {
			t.Fatalf("scene: %v", err)
		}
		conns[port] = c
	}
	streams, err := p.Client.ConnectUDP(netip.AddrPortFrom(p.Server.Addr4, PortStream), p.Client.Sources4, LiveStreams)
	if err != nil {
		t.Fatalf("scene: %v", err)
	}
	conns[PortStream] = streams
	s.stop = busy(t, p, conns)
	return s
}

// busy sets the connections to work and returns what stops them.
func busy(t testing.TB, p *lab.Pair, conns map[uint16][]net.Conn) func() Tally {
	moving := []*lab.Job[lab.Moved]{
		lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Drain(ctx, conns[PortDownload]) }),
		lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Upload(ctx, conns[PortUpload]) }),
		lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Drain(ctx, conns[PortLossy]) }),
		lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Chat(ctx, conns[PortTalk], time.Second) }),
		lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Chat(ctx, conns[PortStream], time.Second) }),
	}
	load := lab.Load{Packets: 1 << 16, PerSecond: 20}
	short := []*lab.Job[lab.Churned]{
		lab.Go(t, func(ctx context.Context) (lab.Churned, error) {
			return p.Client.TCPChurn(ctx, netip.AddrPortFrom(p.Server.Addr4, PortShort), p.Client.Sources4, load)
		}),
		lab.Go(t, func(ctx context.Context) (lab.Churned, error) {
			return p.Client.DNSChurn(ctx, netip.AddrPortFrom(p.Server.Addr4, PortDNS), p.Client.Sources4, load)
		}),
	}
	return func() Tally {
		sum := Tally{Begun: LiveStreams, Done: LiveStreams}
		for _, n := range Live {
			sum.Begun += n
			sum.Done += n
		}
		for _, j := range moving {
			if m := j.Stop(); m.Broken > 0 {
				t.Errorf("scene: %d long connections broke", m.Broken)
			}
		}
		for _, j := range short {
			c := j.Stop()
			sum.Begun += c.Asked
			sum.Done += c.Answered
		}
		return sum
	}
}
