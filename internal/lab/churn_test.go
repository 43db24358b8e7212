package lab

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

func TestChurnLeavesOneEntryAnExchange(t *testing.T) {
	Require(t, "conntrack")
	SharedLimits(t)
	type churn func(*Host, context.Context, netip.AddrPort, netip.Prefix, Load) (Churned, error)
	for _, c := range []struct {
		name  string
		churn churn
		v6    bool
		list  []string // arguments of conntrack -L that show the entries
	}{
		{"dns4", (*Host).DNSChurn, false, []string{"-p", "udp", "--dport", "53"}},
		{"dns6", (*Host).DNSChurn, true, []string{"-f", "ipv6", "-p", "udp", "--dport", "53"}},
		{"tcp4", (*Host).TCPChurn, false, []string{"-p", "tcp", "--dport", "53"}},
		{"tcp6", (*Host).TCPChurn, true, []string{"-f", "ipv6", "-p", "tcp", "--dport", "53"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Server(t)
			p.Server.ServeDNS(53)
			p.Server.ServeTCP(53, Echo)
			target, sources := netip.AddrPortFrom(p.Server.Addr4, 53), p.Client.Sources4
			if c.v6 {
				target, sources = netip.AddrPortFrom(p.Server.Addr6, 53), p.Client.Sources6
			}
			const want = 3000
			got, err := c.churn(p.Client, t.Context(), target, sources, Load{Packets: want})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", got)
			if got.Asked != want || got.Answered < want*95/100 {
				t.Errorf("%+v, want %d asked and nearly all answered", got, want)
			}
			if list := p.Server.ConntrackList(c.list...); len(list) != want {
				t.Errorf("%d entries for %d exchanges", len(list), want)
			}
		})
	}
}

func TestConnectHoldsConnections(t *testing.T) {
	Require(t, "conntrack")
	p := Server(t)
	p.Server.ServeTCP(80, Echo)
	conns, err := p.Client.Connect(t.Context(), netip.AddrPortFrom(p.Server.Addr4, 80), p.Client.Sources4, 300)
	if err != nil {
		t.Fatal(err)
	}
	if len(conns) != 300 {
		t.Errorf("%d connections, want 300", len(conns))
	}
	if list := p.Server.ConntrackList("-p", "tcp", "--state", ct.StateName(ct.TCP, ct.TCPEstablished)); len(list) != 300 {
		t.Errorf("%d entries for 300 connections", len(list))
	}
	var b [1]byte
	if _, err := conns[299].Write([]byte{9}); err != nil {
		t.Error(err)
	}
	if _, err := conns[299].Read(b[:]); err != nil || b[0] != 9 {
		t.Errorf("echo %d, error %v", b[0], err)
	}
}

func TestUDPStreamsBecomeAssured(t *testing.T) {
	Require(t, "conntrack")
	p := Server(t)
	p.Server.ServeUDP(4433)
	conns, err := p.Client.ConnectUDP(netip.AddrPortFrom(p.Server.Addr4, 4433), p.Client.Sources4, 20)
	if err != nil {
		t.Fatal(err)
	}
	talk := Go(t, func(ctx context.Context) (Moved, error) { return Chat(ctx, conns, 200*time.Millisecond) })
	// The kernel calls a UDP flow a stream once it is two seconds old.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		n := len(p.Server.ConntrackList("-p", "udp", "--dport", "4433", "-u", "ASSURED"))
		if n == 20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of 20 streams are assured", n)
		}
	}
	if m := talk.Stop(); m.Broken > 0 || m.Messages == 0 {
		t.Errorf("%+v", m)
	}
}
