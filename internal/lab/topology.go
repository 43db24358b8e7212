package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
)

// Pair is a server and a client joined by one cable. The client owns a whole
// /16 and /64 of addresses, so that it can stand for 65,000 clients.
type Pair struct {
	Server, Client *Host
}

// Routed is a gateway between inside clients and an outside server. The inside
// host owns a whole /16 and /64 and stands for any number of clients; the
// outside host owns 198.18.0.0/16 likewise and stands for the internet.
type Routed struct {
	Inside, Gateway, Outside *Host
}

// Server makes a server that tracks connections and a client beside it. The
// client's addresses are 10.1.0.0/16 and fd01::/64, its own first ones on the
// cable besides; 10.2.0.0/15 and fd02::/64 lead to the client and belong to
// nobody.
func Server(t testing.TB) *Pair {
	t.Helper()
	p := &Pair{Server: NewHost(t, "server"), Client: NewHost(t, "client")}
	join(p.Server, p.Client, cable{"192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64", "2001:db8::2/64"})
	p.Client.own("10.1.0.0/16", "fd01::/64")
	p.Client.Spoof4, p.Client.Spoof6 = netip.MustParsePrefix("10.2.0.0/15"), netip.MustParsePrefix("fd02::/64")
	p.Server.routeTo(p.Client, p.Client.Sources4, p.Client.Sources6, p.Client.Spoof4, p.Client.Spoof6)
	p.Server.Track()
	return p
}

// Gateway makes inside clients 10.0.0.0/16 and fd00::/64, a gateway that
// tracks and masquerades, and an outside server 203.0.113.1 that also owns
// 198.18.0.0/16 and fd18::/64, while 198.19.0.0/16 and fd19::/64 lead to it and
// never answer.
func Gateway(t testing.TB) *Routed {
	t.Helper()
	r := &Routed{Inside: NewHost(t, "inside"), Gateway: NewHost(t, "gateway"), Outside: NewHost(t, "outside")}
	g := r.Gateway
	join(r.Outside, g, cable{"203.0.113.1/24", "203.0.113.2/24", "2001:db8:1::1/64", "2001:db8:1::2/64"})
	outDev := g.Dev
	join(g, r.Inside, cable{"192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64", "2001:db8::2/64"})
	r.Inside.own("10.0.0.0/16", "fd00::/64")
	r.Inside.IP("route add 0.0.0.0/0 via "+g.Addr4.String(), "route add ::/0 via "+g.Addr6.String())
	g.routeTo(r.Inside, r.Inside.Sources4, r.Inside.Sources6)

	r.Outside.own("198.18.0.0/16", "fd18::/64")
	r.Outside.Spoof4, r.Outside.Spoof6 = netip.MustParsePrefix("198.19.0.0/16"), netip.MustParsePrefix("fd19::/64")
	g.IP("route add 0.0.0.0/0 via "+r.Outside.Addr4.String(), "route add ::/0 via "+r.Outside.Addr6.String())

	g.SetSysctl("net.ipv4.ip_forward", "1")
	g.SetSysctl("net.ipv6.conf.all.forwarding", "1")
	g.Track()
	g.NFT(fmt.Sprintf(`table inet ctwlabnat {
	chain postrouting { type nat hook postrouting priority srcnat; oifname %q masquerade; }
}`, outDev))
	return r
}

// cable is the addressing of a veth pair: one address of each family an end.
type cable struct{ a4, b4, a6, b6 string }

// join lays a cable from a to b and sets their own addresses and devices.
func join(a, b *Host, c cable) {
	a.t.Helper()
	aDev, bDev := a.nextDev(), b.nextDev()
	a.IP(fmt.Sprintf("link add %s type veth peer name %s netns %s", aDev, bDev, b.Name))
	a.plug(aDev, c.a4, c.a6)
	b.plug(bDev, c.b4, c.b6)
	var err1, err2 error
	a.link, err1 = a.lookUpLink(aDev)
	b.link, err2 = b.lookUpLink(bDev)
	if err := errors.Join(err1, err2); err != nil {
		a.t.Fatalf("lab: join %s and %s: %v", a.Name, b.Name, err)
	}
	a.link.hop, b.link.hop = b.link.own, a.link.own
	a.know(aDev, b)
	b.know(bDev, a)
}

// know enters a neighbour for good, so that no first packet waits for it to be
// found.
func (h *Host) know(dev string, neighbour *Host) {
	mac := net.HardwareAddr(neighbour.link.own[:])
	h.IP(fmt.Sprintf("neighbour replace %s lladdr %s dev %s nud permanent", neighbour.Addr4, mac, dev),
		fmt.Sprintf("neighbour replace %s lladdr %s dev %s nud permanent", neighbour.Addr6, mac, dev))
}

func (h *Host) nextDev() string {
	if h.Dev == "" {
		return "eth0"
	}
	return "eth1"
}

func (h *Host) plug(dev, addr4, addr6 string) {
	h.Dev = dev
	h.Addr4 = netip.MustParsePrefix(addr4).Addr()
	h.Addr6 = netip.MustParsePrefix(addr6).Addr()
	h.IP(fmt.Sprintf("address add %s dev %s", addr4, dev),
		fmt.Sprintf("address add %s dev %s nodad", addr6, dev),
		fmt.Sprintf("link set %s up", dev))
	h.SetSysctl("net.ipv4.conf."+dev+".rp_filter", "0")
}

// own makes every address of two prefixes the host's own.
func (h *Host) own(prefix4, prefix6 string) {
	h.Sources4, h.Sources6 = netip.MustParsePrefix(prefix4), netip.MustParsePrefix(prefix6)
	h.IP("route add local "+prefix4+" dev lo", "route add local "+prefix6+" dev lo")
	h.SetSysctl("net.ipv6.ip_nonlocal_bind", "1") // IPv6 binds to assigned addresses only
}

// routeTo routes prefixes by way of a neighbour.
func (h *Host) routeTo(neighbour *Host, prefixes ...netip.Prefix) {
	for _, p := range prefixes {
		via := neighbour.Addr4
		if p.Addr().Is6() {
			via = neighbour.Addr6
		}
		h.IP(fmt.Sprintf("route add %s via %s", p, via))
	}
}

// Nth returns the address of a prefix n places after its first one.
func Nth(p netip.Prefix, n uint32) netip.Addr {
	if p.Addr().Is4() {
		b := p.Masked().Addr().As4()
		addBytes(b[:], n)
		return netip.AddrFrom4(b)
	}
	b := p.Masked().Addr().As16()
	addBytes(b[:], n)
	return netip.AddrFrom16(b)
}

// addBytes adds n to a big-endian number.
func addBytes(b []byte, n uint32) {
	carry := uint64(n)
	for i := len(b) - 1; i >= 0 && carry > 0; i-- {
		carry += uint64(b[i])
		b[i] = byte(carry)
		carry >>= 8
	}
}
