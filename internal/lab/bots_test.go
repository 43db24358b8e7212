package lab

import (
	"net/netip"
	"testing"
)

func TestBotsConnect(t *testing.T) {
	Require(t, "conntrack")
	SharedLimits(t)
	p := Server(t)
	const n = 2000
	p.Server.Hold(80, 2*n)
	p.Server.ServeTCP(81, Echo)
	p.Client.Mute(80)
	p.Client.Mute(81)
	own := Nth(p.Client.Sources4, 7)
	for _, c := range []struct {
		name string
		port uint16
		say  string
		from []netip.Addr
	}{
		{"silent, from an address that somebody uses", 80, "", []netip.Addr{own}},
		{"silent, from two", 80, "", []netip.Addr{Nth(p.Client.Spoof4, 1), Nth(p.Client.Spoof4, 2)}},
		{"answered", 81, "hello", []netip.Addr{Nth(p.Client.Spoof4, 3)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := Bots{Sources: c.from, Targets: []netip.AddrPort{netip.AddrPortFrom(p.Server.Addr4, c.port)}, Say: []byte(c.say)}
			got, err := p.Client.Connections(t.Context(), b, Load{Packets: n, PerSecond: 10_000})
			if err != nil {
				t.Fatal(err)
			}
			if got.SYNs != n || got.Completed < n {
				t.Errorf("%+v, want %d of each", got, n)
			}
			entries := 0
			for _, from := range c.from {
				entries += len(p.Server.ConntrackList("-f", "ipv4", "-p", "tcp", "-s", from.String(), "--state", "ESTABLISHED", "-u", "ASSURED"))
			}
			if entries != n {
				t.Errorf("%d entries are established and assured, want %d", entries, n)
			}
		})
	}
	if _, err := p.Client.Connections(t.Context(), Bots{}, Load{Packets: 1}); err == nil {
		t.Error("bots without sources connected")
	}
}
