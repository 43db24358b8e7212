package simdiff

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// natCase is a translation, as nftables and as the model take it.
type natCase struct {
	name string
	v6   bool
	// source and dest are the statements of the nat chains.
	source, dest []string
	model        []sim.NATRule
	// toVIP: packets go to the gateway's public address, not to servers.
	toVIP bool
	// zones: some ports are tracked in zones of their own.
	zones bool
	// protos are those that packets have; empty means all that have ports, and
	// echoes, GRE and another.
	protos []ct.Proto
}

// The public addresses that destination NAT translates.
var (
	vip4 = netip.MustParseAddr("172.23.255.1")
	vip6 = netip.MustParseAddr("fd0b::1:0:0:1")
)

var portProtos = []ct.Proto{ct.TCP, ct.UDP}

// natCases are the translations that are compared, for both families.
func natCases() (list []natCase) {
	for _, v6 := range []bool{false, true} {
		a := natAddrs{v6}
		list = append(list, a.sources()...)
		list = append(list, a.destinations()...)
		list = append(list, a.inZones()...)
	}
	return list
}

// Ports in a zone: one for both directions, one for the original only.
const (
	zonePort, zoneOrigPort = 8001, 8080
	zoneBoth, zoneOrig     = 5, 6
)

// inZones are cases in which the zone is part of the tuple, without translation
// and with one whose choice of address takes the zone into account.
func (a natAddrs) inZones() []natCase {
	plain := natCase{name: a.family() + " zones", v6: a.v6, zones: true, model: []sim.NATRule{}}
	many := a.make("zones and snat to a range of addresses", sim.NATRule{Kind: sim.SNAT, To: a.out(0), ToMax: a.out(4)}, "")
	many.zones = true
	return []natCase{plain, many}
}

// place puts a packet into its zone.
func (c *natCase) place(p *sim.Packet) {
	if !c.zones {
		return
	}
	switch t := &p.Tuple; {
	case !t.Proto.HasPorts():
	case t.SrcPort == zonePort || t.DstPort == zonePort:
		p.Zone = zoneBoth
	case t.DstPort == zoneOrigPort:
		p.Zone, p.ZoneDir = zoneOrig, sim.ZoneOrig
	}
}

// zoneRules are what place is in nftables.
func (c *natCase) zoneRules() string {
	if !c.zones {
		return ""
	}
	return fmt.Sprintf(`meta l4proto { tcp, udp, sctp } th dport %[1]d ct zone set %[2]d
		meta l4proto { tcp, udp, sctp } th sport %[1]d ct zone set %[2]d
		meta l4proto { tcp, udp, sctp } th dport %[3]d ct original zone set %[4]d`, zonePort, zoneBoth, zoneOrigPort, zoneOrig)
}

// natAddrs makes the cases of one family.
type natAddrs struct{ v6 bool }

func (a natAddrs) family() string {
	if a.v6 {
		return "ip6"
	}
	return "ip"
}

// out is the nth address that sources are translated to, target the nth server
// behind the public address.
func (a natAddrs) out(n int) netip.Addr {
	if a.v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd1b::100:%x", n+1))
	}
	return netip.AddrFrom4([4]byte{172, 31, 0, byte(100 + n)})
}

func (a natAddrs) target(n int) netip.Addr {
	if a.v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd0b::2:0:0:%x", n+1))
	}
	return netip.AddrFrom4([4]byte{172, 23, 254, byte(10 + n)})
}

func (a natAddrs) vip() netip.Addr {
	if a.v6 {
		return vip6
	}
	return vip4
}

// span prints a range of addresses and ports as nftables writes it.
func (a natAddrs) span(lo, hi netip.Addr, ports sim.PortRange) string {
	s := lo.String()
	if a.v6 && ports.Max != 0 {
		s = "[" + s + "]"
	}
	if hi.IsValid() && hi != lo {
		if a.v6 && ports.Max != 0 {
			s += "-[" + hi.String() + "]"
		} else {
			s += "-" + hi.String()
		}
	}
	return s + portSuffix(ports)
}

func portSuffix(ports sim.PortRange) string {
	switch {
	case ports.Max == 0:
		return ""
	case ports.Min == ports.Max:
		return fmt.Sprintf(":%d", ports.Min)
	}
	return fmt.Sprintf(":%d-%d", ports.Min, ports.Max)
}

// make builds a case of one rule. Ports are translated for TCP and UDP only.
func (a natAddrs) make(name string, r sim.NATRule, flags string) natCase {
	c := natCase{name: a.family() + " " + name, v6: a.v6}
	verb := map[sim.NATKind]string{sim.SNAT: "snat", sim.DNAT: "dnat", sim.Masquerade: "masquerade", sim.Redirect: "redirect"}[r.Kind]
	match, to := "", ""
	switch r.Kind {
	case sim.SNAT, sim.Masquerade:
		match = "meta nfproto " + map[bool]string{false: "ipv4", true: "ipv6"}[a.v6] + " oifname sv0"
	default:
		match = a.family() + " daddr " + a.vip().String()
		r.Dst = netip.PrefixFrom(a.vip(), a.vip().BitLen())
		c.toVIP = true
	}
	switch r.Kind {
	case sim.SNAT, sim.DNAT:
		to = " " + a.family() + " to " + a.span(r.To, r.ToMax, r.Ports)
	default:
		if s := portSuffix(r.Ports); s != "" {
			to = " to " + s
		}
	}
	rules, model := []string{match + " " + verb + to + " " + flags}, []sim.NATRule{r}
	if r.Ports.Max != 0 {
		rules = []string{match + " meta l4proto { tcp, udp } " + verb + to + " " + flags}
		model = nil
		for _, p := range portProtos {
			r.Proto = p
			model = append(model, r)
		}
	}
	c.model = model
	if r.Kind == sim.SNAT || r.Kind == sim.Masquerade {
		c.source = rules
	} else {
		c.dest = rules
	}
	return c
}

func (a natAddrs) sources() []natCase {
	masq := simtest.Outside4
	if a.v6 {
		masq = simtest.Outside6
	}
	few, wide := sim.PortRange{Min: 5000, Max: 5002}, sim.PortRange{Min: 20000, Max: 20999}
	one := sim.NATRule{Kind: sim.SNAT, To: a.out(0)}
	many := sim.NATRule{Kind: sim.SNAT, To: a.out(0), ToMax: a.out(4)}
	with := func(r sim.NATRule, ports sim.PortRange, random, persistent bool) sim.NATRule {
		r.Ports, r.Random, r.Persistent = ports, random, persistent
		return r
	}
	none := sim.PortRange{}
	return []natCase{
		a.make("snat to an address", one, ""),
		a.make("snat to a range of addresses", many, ""),
		a.make("snat to a range, persistent", with(many, none, false, true), "persistent"),
		a.make("snat, random", with(one, none, true, false), "random"),
		a.make("snat to a range, fully random", with(many, none, true, false), "fully-random"),
		a.make("snat to a range, random and persistent", with(many, none, true, true), "random,persistent"),
		a.make("snat to ports", with(one, wide, false, false), ""),
		a.make("snat to three ports", with(one, few, false, false), ""),
		a.make("snat to three ports of a range, fully random", with(many, few, true, false), "fully-random"),
		a.make("snat to one port", with(one, sim.PortRange{Min: 5000, Max: 5000}, false, false), ""),
		a.make("masquerade", sim.NATRule{Kind: sim.Masquerade, To: masq}, ""),
		a.make("masquerade to ports", sim.NATRule{Kind: sim.Masquerade, To: masq, Ports: few}, ""),
		a.make("masquerade, random", sim.NATRule{Kind: sim.Masquerade, To: masq, Random: true}, "random"),
	}
}

func (a natAddrs) destinations() []natCase {
	self := netip.MustParseAddr("10.254.0.1")
	if a.v6 {
		self = netip.MustParseAddr("fd1a::1")
	}
	few := sim.PortRange{Min: 8000, Max: 8002}
	one := sim.NATRule{Kind: sim.DNAT, To: a.target(0)}
	many := sim.NATRule{Kind: sim.DNAT, To: a.target(0), ToMax: a.target(4)}
	with := func(r sim.NATRule, ports sim.PortRange, random, persistent bool) sim.NATRule {
		r.Ports, r.Random, r.Persistent = ports, random, persistent
		return r
	}
	redirect := sim.NATRule{Kind: sim.Redirect, To: self}
	none, port := sim.PortRange{}, sim.PortRange{Min: 8080, Max: 8080}
	list := []natCase{
		a.make("dnat to an address", one, ""),
		a.make("dnat to a port", with(one, port, false, false), ""),
		a.make("dnat to a range of addresses", many, ""),
		a.make("dnat to a range, persistent", with(many, none, false, true), "persistent"),
		a.make("dnat to three ports", with(one, few, false, false), ""),
		a.make("dnat to three ports, random", with(one, few, true, false), "random"),
		a.make("redirect to a port", with(redirect, port, false, false), ""),
		a.make("redirect to three ports", with(redirect, few, false, false), ""),
	}
	for i := range list {
		if strings.Contains(list[i].name, "redirect") {
			list[i].protos = portProtos
		}
	}
	return append(list, a.hairpin(one), a.both(many))
}

// hairpin sends clients back to another client, under the gateway's address on
// their side, so that the answers come through the gateway.
func (a natAddrs) hairpin(r sim.NATRule) natCase {
	inside, self := netip.MustParseAddr("10.127.255.9"), netip.MustParseAddr("10.254.0.1")
	if a.v6 {
		inside, self = netip.MustParseAddr("fd0a::2:0:0:9"), netip.MustParseAddr("fd1a::1")
	}
	r.To = inside
	c := a.make("hairpin", r, "")
	c.source = []string{"oifname cl0 " + a.family() + " daddr " + inside.String() + " masquerade"}
	c.model = append(c.model, sim.NATRule{Kind: sim.Masquerade, To: self, Dst: netip.PrefixFrom(inside, inside.BitLen())})
	return c
}

// both translates destination and source.
func (a natAddrs) both(r sim.NATRule) natCase {
	c := a.make("dnat and snat", r, "")
	s := a.make("", sim.NATRule{Kind: sim.SNAT, To: a.out(0), ToMax: a.out(2)}, "")
	c.source, c.model = s.source, append(c.model, s.model...)
	return c
}

// ruleset is the case as nftables takes it.
func (c *natCase) ruleset() string {
	return rules + fmt.Sprintf(`table inet simdiffnat {
	chain raw {
		type filter hook prerouting priority -300;
		ip daddr %[1]s notrack
		ip saddr %[1]s notrack
		%[4]s
	}
	chain mute { type filter hook output priority -450; drop; }
	chain input { type filter hook input priority 0; iifname "sv0" drop; }
	chain prerouting {
		type nat hook prerouting priority dstnat;
		%[2]s
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		%[3]s
	}
}
`, sentinelServer, strings.Join(c.dest, "\n\t\t"), strings.Join(c.source, "\n\t\t"), c.zoneRules())
}
