package lab

import (
	"net/netip"
	"testing"
)

func TestHandshakesAreCompleted(t *testing.T) {
	Require(t, "conntrack")
	SharedLimits(t)
	p := Server(t)
	const want = 5000
	p.Server.Hold(80, 2*want)
	for _, c := range []struct {
		addr   netip.Addr
		spoof  netip.Prefix
		family string
	}{
		{p.Server.Addr4, p.Client.Spoof4, "ipv4"},
		{p.Server.Addr6, p.Client.Spoof6, "ipv6"},
	} {
		got, err := p.Client.Handshakes(t.Context(), netip.AddrPortFrom(c.addr, 80), c.spoof, Load{Packets: want})
		if err != nil {
			t.Fatal(err)
		}
		if got.SYNs != want || got.Completed != want {
			t.Errorf("%s: %+v, want %d of each", c.family, got, want)
		}
		list := p.Server.ConntrackList("-f", c.family, "-p", "tcp", "--state", "ESTABLISHED", "-u", "ASSURED")
		if len(list) != want {
			t.Errorf("%s: %d entries are established and assured, want %d", c.family, len(list), want)
		}
		t.Logf("%s: %d in %v", c.family, got.Completed, got.Elapsed)
	}
	if _, err := p.Client.Handshakes(t.Context(), netip.AddrPortFrom(p.Server.Addr4, 80), p.Client.Sources4, Load{Packets: 1}); err == nil {
		t.Error("handshakes from addresses that the client's kernel would reset were accepted")
	}
}
