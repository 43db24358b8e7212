package advice

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// Ports of the machine on trial, or of the server beyond it.
const (
	portWeb   = 80
	portTLS   = 443
	portDNS   = 53
	portShort = 8080
	portHeld  = 8443
)

// Scene is a load under which the ways are compared.
type Scene struct {
	Name, What string
	// gateway puts a masquerading gateway on trial instead of a server.
	gateway bool
	// load begins the trouble; what it returns ends it.
	load func(t testing.TB, n *cast) (stop func())
	// dns lets the new legitimate exchanges be questions to a resolver.
	dns bool
	// quiet is a time of silence after which held connections must still work.
	quiet time.Duration
}

// cast is who takes part.
type cast struct {
	tracked, client, server *lab.Host
	clients                 netip.Prefix // legitimate ones
	forged, targets         netip.Prefix
}

func (n *cast) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(n.server.Addr4, port) }

// Scenes are the laboratory's, at rates of a [Scale]th.
func Scenes() []Scene {
	return []Scene{
		{Name: "SYN flood", What: "SYNs from forged addresses at a web server, 150/s (9,600/s)", load: synFlood},
		{Name: "idle handshakes", What: "64 hosts complete 100 (6,400) handshakes a second and say nothing more", load: handshakes},
		{Name: "left idle", What: "the table is full of connections that have been silent for 35 hours", load: leftIdle},
		{Name: "outbound scan", What: "an inside host asks 150 (9,600) outside addresses a second; a masquerading gateway", gateway: true, load: scan},
		{Name: "DNS churn", What: "inside clients ask 200 (12,800) questions a second through a masquerading gateway", gateway: true, load: dnsChurn, dns: true},
		{Name: "a quiet day", What: "connections through a masquerading gateway say something after the change and are silent for 16 hours then", gateway: true,
			load: func(testing.TB, *cast) func() { return func() {} }, quiet: 16 * time.Hour},
	}
}

// endless is a load that a scene ends itself.
func endless(perSecond int) lab.Load { return lab.Load{Packets: 1 << 30, PerSecond: perSecond} }

func synFlood(t testing.TB, n *cast) func() {
	n.server.Hold(portWeb, 1024)
	j := lab.Go(t, func(ctx context.Context) (lab.Sent, error) {
		return n.client.SYNFlood(ctx, n.at(portWeb), n.forged, endless(150))
	})
	return func() { j.Stop() }
}

func handshakes(t testing.TB, n *cast) func() {
	n.server.Hold(portTLS, 65536)
	j := lab.Go(t, func(ctx context.Context) (lab.Shaken, error) {
		return n.client.Handshakes(ctx, n.at(portTLS), netip.PrefixFrom(n.forged.Addr(), 26), endless(100))
	})
	return func() { j.Stop() }
}

func leftIdle(t testing.TB, n *cast) func() {
	n.tracked.Fill(lab.Class{Count: stockMax/Scale - n.tracked.Count() - 20, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured,
		TimeoutSeconds: 432000 - 35*3600, Sources: n.forged})
	return func() {}
}

func scan(t testing.TB, n *cast) func() {
	scanner := netip.MustParseAddr("10.0.3.7")
	j := lab.Go(t, func(ctx context.Context) (lab.Sent, error) {
		return n.client.Scan(ctx, scanner, n.targets, []uint16{22, 23, 80, 443, 3389}, endless(150))
	})
	return func() { j.Stop() }
}

func dnsChurn(t testing.TB, n *cast) func() {
	j := lab.Go(t, func(ctx context.Context) (lab.Churned, error) {
		return n.client.DNSChurn(ctx, n.at(portDNS), netip.MustParsePrefix("10.0.1.0/24"), endless(200))
	})
	return func() { j.Stop() }
}

// topology makes the machine on trial and who talks through it or to it.
func (s *Scene) topology(t testing.TB) *cast {
	var n cast
	if s.gateway {
		r := lab.Gateway(t)
		n = cast{tracked: r.Gateway, client: r.Inside, server: r.Outside, clients: netip.MustParsePrefix("10.0.2.0/24"), targets: r.Outside.Spoof4}
		n.tracked.NFT(`table inet fw { chain forward { type filter hook forward priority 1; policy drop;
	ct state established,related accept
	iifname "eth1" accept
}
}`)
	} else {
		p := lab.Server(t)
		n = cast{tracked: p.Server, client: p.Client, server: p.Server, clients: netip.MustParsePrefix("10.1.2.0/24"), forged: p.Client.Spoof4}
		n.tracked.NFT(`table inet fw { chain input { type filter hook input priority 1; policy drop;
	ct state established,related accept
	iif lo accept
	tcp dport { 80, 443, 8080, 8443, 8444 } ct state new accept
}
}`)
	}
	n.server.ServeTCP(portShort, lab.Echo)
	n.server.ServeDNS(portDNS)
	return &n
}
