package guardtable_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/guardtable"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// reach are the addresses of one family.
type reach struct {
	name            string
	server, client  netip.Addr
	sources, spoofs netip.Prefix // of the client
}

func families(p *lab.Pair) []reach {
	return []reach{
		{"IPv4", p.Server.Addr4, p.Client.Addr4, p.Client.Sources4, p.Client.Spoof4},
		{"IPv6", p.Server.Addr6, p.Client.Addr6, p.Client.Sources6, p.Client.Spoof6},
	}
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// entries counts the entries whose line holds all the words.
func entries(t *testing.T, h *lab.Host, words ...string) int {
	t.Helper()
	_, _, n := left(t, h, words...)
	return n
}

// refused checks that a new connection is not let in.
func refused(t *testing.T, h *lab.Host, to netip.AddrPort, from netip.Addr) {
	t.Helper()
	if c, err := h.Dial(t.Context(), to, from, 300*time.Millisecond); err == nil {
		c.Close()
		t.Errorf("%s was let in", from)
	}
}

func let(t *testing.T, h *lab.Host, to netip.AddrPort, from netip.Addr) net.Conn {
	t.Helper()
	c, err := h.Dial(t.Context(), to, from, 5*time.Second)
	if err != nil {
		t.Fatalf("%s was not let in: %v", from, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// silent checks that a datagram is not answered.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	var b [1]byte
	if _, err := c.Write(b[:]); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(b[:]); err == nil {
		t.Errorf("%s was answered", c.LocalAddr())
	}
}

// TestLimited has limited and other sources begin flows and go on with those
// that they have.
func TestLimited(t *testing.T) {
	lab.Require(t, "conntrack", "ping")
	p := lab.Server(t)
	p.Server.ServeTCP(80, lab.Echo)
	for _, port := range []uint16{53, 67, 547} {
		p.Server.ServeUDP(port)
	}
	p.Server.ServeDNS(5999) // silent to what is no query
	g := open(t, p.Server)
	for _, f := range families(p) {
		t.Run(f.name, func(t *testing.T) {
			bad, good := f.client, lab.Nth(f.sources, 9)
			web := netip.AddrPortFrom(f.server, 80)
			udp := func(from netip.Addr, port uint16) talker {
				list, err := p.Client.ConnectUDP(netip.AddrPortFrom(f.server, port), host(from), 1)
				must(t, err)
				return talker{list[0], t}
			}
			held, stream := talker{let(t, p.Client, web, bad), t}, udp(bad, 53)
			held.say()
			stream.say()
			oneWay := udp(bad, 5999)
			push := func() {
				_, err := oneWay.Write([]byte("x"))
				must(t, err)
			}
			push()

			must(t, g.Limit(limit(bad.String())))
			before, dropped := p.Server.Count(), mustDropped(t, g)
			refused(t, p.Client, web, bad)
			young := udp(bad, 53)
			silent(t, young)
			if _, err := p.Client.TryExec("ping", "-c2", "-i0.2", "-W1", "-I", bad.String(), f.server.String()); err == nil {
				t.Error("an echo request was answered")
			}
			if now := p.Server.Count(); now > before {
				t.Errorf("%d entries, %d before", now, before)
			}
			for _, word := range []string{"SYN_SENT", "SYN_RECV", young.port()} {
				if n := entries(t, p.Server, "src="+bad.String()+" ", word); n > 0 {
					t.Errorf("%d entries %s", n, word)
				}
			}
			if n := mustDropped(t, g) - dropped; n < 4 || n > 10 {
				t.Errorf("%d packets dropped of one SYN, one datagram and two echo requests", n)
			}
			// What goes on, and what others do.
			for range 3 {
				held.say()
				stream.say()
			}
			passed := mustDropped(t, g)
			push()
			if n := mustDropped(t, g); n != passed {
				t.Error("a stream that nobody answers lost a packet")
			}
			goodConn := talker{let(t, p.Client, web, good), t}
			goodConn.say()
			udp(good, 53).say()
			p.Client.Exec("ping", "-c1", "-W2", "-I", good.String(), f.server.String())
			// What must pass whoever sends it.
			p.Server.Exec("ping", "-c1", "-W2", bad.String())
			udp(bad, 67).say()
			udp(bad, 547).say()

			must(t, g.Limit(guard.Limit{}))
			freed := talker{let(t, p.Client, web, bad), t}
			freed.say()
			udp(bad, 53).say()
		})
	}
}

func mustDropped(t *testing.T, g *guardtable.Table) uint64 {
	t.Helper()
	n, err := g.Dropped()
	must(t, err)
	return n
}

// TestSYNsOfLimitedMakeNoEntry floods from a limited prefix and from another.
func TestSYNsOfLimitedMakeNoEntry(t *testing.T) {
	lab.Require(t, "conntrack")
	p := lab.Server(t)
	p.Server.ServeTCP(80, lab.Echo) // an answered SYN has an entry for a while
	g := open(t, p.Server)
	for _, f := range families(p) {
		t.Run(f.name, func(t *testing.T) {
			must(t, g.Limit(limit(f.spoofs.String())))
			before, dropped := p.Server.Count(), mustDropped(t, g)
			const packets = 3000
			sent, err := p.Client.SYNFlood(t.Context(), netip.AddrPortFrom(f.server, 80), f.spoofs, lab.Load{Packets: packets})
			must(t, err)
			if now := p.Server.Count(); now > before {
				t.Errorf("%d entries, %d before", now, before)
			}
			if n := mustDropped(t, g) - dropped; n != uint64(sent.Packets) {
				t.Errorf("%d of %d SYNs counted as dropped", n, sent.Packets)
			}
			must(t, g.Limit(limit("203.0.113.0/24", "2001:db8:ffff::/64")))
			_, err = p.Client.SYNFlood(t.Context(), netip.AddrPortFrom(f.server, 80), f.spoofs, lab.Load{Packets: packets})
			must(t, err)
			if n := entries(t, p.Server, "tcp"); n < packets/2 {
				t.Errorf("%d entries of %d SYNs of sources that are not limited", n, packets)
			}
			p.Server.TryExec("conntrack", "-D", "-p", "tcp")
			p.Server.TryExec("conntrack", "-D", "-f", "ipv6", "-p", "tcp")
		})
	}
}

// TestNeighboursOfLimited finds the limited client's link address anew, from
// both ends.
func TestNeighboursOfLimited(t *testing.T) {
	lab.Require(t, "ping")
	p := lab.Server(t)
	g := open(t, p.Server)
	must(t, g.Limit(limit(p.Client.Addr4.String(), p.Client.Addr6.String(), "fe80::/10", "fd01::/64")))
	forget := func() {
		for _, h := range []*lab.Host{p.Server, p.Client} {
			h.Exec("ip", "neighbour", "flush", "dev", h.Dev, "nud", "all")
		}
	}
	for _, to := range []netip.Addr{p.Client.Addr4, p.Client.Addr6} {
		forget()
		p.Server.Exec("ping", "-c1", "-W3", to.String())
	}
	// The client asks with its limited address, and is answered.
	for _, to := range []netip.Addr{p.Server.Addr4, p.Server.Addr6} {
		forget()
		p.Client.TryExec("ping", "-c1", "-W1", to.String())
		if out := p.Client.Exec("ip", "neighbour", "show", to.String()); !strings.Contains(out, "lladdr") {
			t.Errorf("the client does not find %s: %q", to, out)
		}
	}
}

// TestPathMTUOfLimited sends large packets over a path whose narrow place is
// told of by a limited gateway.
func TestPathMTUOfLimited(t *testing.T) {
	lab.Require(t)
	r := lab.Gateway(t)
	r.Outside.Track()
	g := open(t, r.Outside)
	must(t, g.Limit(limit(r.Gateway.Addr4.String(), "203.0.113.2", "2001:db8:1::/64")))
	r.Gateway.IP("link set " + r.Gateway.Dev + " mtu 1300")
	for _, c := range []struct {
		to, via netip.Addr
	}{{r.Inside.Addr4, netip.MustParseAddr("203.0.113.2")}, {r.Inside.Addr6, netip.MustParseAddr("2001:db8:1::2")}} {
		bits := c.to.BitLen()
		r.Outside.IP(fmt.Sprintf("route add %s/%d via %s", c.to, bits, c.via))
		size := "1400"
		// The first packet is answered by the gateway: too big. Its answer
		// must come in.
		r.Outside.TryExec("ping", "-c2", "-i0.3", "-W1", "-M", "do", "-s", size, c.to.String())
		if out := r.Outside.Exec("ip", "route", "get", c.to.String()); !strings.Contains(out, "mtu 1300") {
			t.Errorf("the path to %s has become %q", c.to, out)
		}
	}
}

// TestLimitedForATime lets the kernel forget.
func TestLimitedForATime(t *testing.T) {
	lab.Require(t)
	p := lab.Server(t)
	p.Server.ServeTCP(80, lab.Echo)
	g := open(t, p.Server)
	for i, f := range families(p) {
		bad, to := f.client, netip.AddrPortFrom(f.server, 80)
		source := []netip.Prefix{host(bad), netip.PrefixFrom(bad, 64)}[i]
		l := guard.Limit{Seconds: 2, Sources: []netip.Prefix{source}}
		must(t, g.Limit(l))
		refused(t, p.Client, to, bad)
		time.Sleep(2 * time.Second)
		let(t, p.Client, to, bad)
		must(t, g.Limit(l))
		refused(t, p.Client, to, bad)
	}
}

// TestTooManySources is refused as a whole.
func TestTooManySources(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "sources")
	g := open(t, h)
	must(t, g.Limit(limit("10.1.0.0/16", "192.0.2.7")))
	before := withoutTime(listed(h))
	var many, most, lengths guard.Limit
	for i := range uint32(guardtable.MaxSources + 1) {
		many.Sources = append(many.Sources, host(lab.Nth(netip.MustParsePrefix("10.0.0.0/8"), i*3)))
	}
	for i := range guardtable.MaxLengths + 1 {
		lengths.Sources = append(lengths.Sources, netip.PrefixFrom(netip.MustParseAddr("2001:db8::1"), 30+i))
	}
	many.Seconds, lengths.Seconds = 60, 60
	most = many
	most.Sources = many.Sources[:guardtable.MaxSources]
	for name, c := range map[string]struct {
		l    guard.Limit
		want error
	}{
		"sources":  {many, guardtable.ErrTooMany},
		"lengths":  {lengths, guardtable.ErrTooMany},
		"everyone": {limit("10.9.9.9", "0.0.0.0/0"), guardtable.ErrRange},
		"mapped":   {limit("::ffff:0:0/90"), guardtable.ErrRange},
		"invalid":  {guard.Limit{Seconds: 60, Sources: []netip.Prefix{{}}}, guardtable.ErrRange},
		"no time":  {guard.Limit{Sources: most.Sources}, guardtable.ErrRange},
		"ages":     {guard.Limit{Sources: most.Sources, Seconds: 1 << 31}, guardtable.ErrRange},
		"negative": {guard.Limit{Sources: most.Sources, Seconds: 60, PerSource: -1}, guardtable.ErrRange},
	} {
		if err := g.Limit(c.l); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if now := withoutTime(listed(h)); now != before {
			t.Errorf("%s changed the table:\n%s", name, now)
		}
	}
	must(t, g.Limit(most))
	out := h.Exec("nft", "-j", "list", "set", "inet", guardtable.Name, "v4_32")
	if n := strings.Count(out, `"val"`); n != guardtable.MaxSources {
		t.Errorf("%d sources are limited, of %d", n, guardtable.MaxSources)
	}
}

// TestCounted limits how many entries a source has at a time.
func TestCounted(t *testing.T) {
	lab.Require(t, "conntrack")
	p := lab.Server(t)
	p.Server.ServeTCP(80, lab.Echo)
	p.Server.ServeUDP(53)
	g := open(t, p.Server)
	if !g.Counts() {
		t.Skip("this kernel does not count right")
	}
	const most = 20
	for _, f := range families(p) {
		t.Run(f.name, func(t *testing.T) {
			to := netip.AddrPortFrom(f.server, 80)
			bad, good := lab.Nth(f.sources, 5), lab.Nth(f.sources, 6)
			l := limit(bad.String(), host(f.spoofs.Addr()).String())
			l.PerSource = most
			must(t, g.Limit(l))
			var held []net.Conn
			for range most {
				held = append(held, let(t, p.Client, to, bad))
			}
			refused(t, p.Client, to, bad)
			if n := entries(t, p.Server, "src="+bad.String()+" "); n != most {
				t.Errorf("%d entries, want %d", n, most)
			}
			list, err := p.Client.ConnectUDP(netip.AddrPortFrom(f.server, 53), host(bad), 1)
			must(t, err)
			silent(t, list[0])
			for range most + 5 {
				talker{let(t, p.Client, to, good), t}.say()
			}
			// Another source joins; the count goes on.
			l.Sources = append(l.Sources, host(lab.Nth(f.sources, 77)))
			must(t, g.Limit(l))
			refused(t, p.Client, to, bad)
			for _, c := range held {
				talker{c, t}.say()
			}
			for _, c := range held[:5] {
				c.Close()
			}
			// Closing takes the server a moment; a connection in TIME_WAIT does
			// not count.
			eventually(t, "a place is free", func() bool {
				c, err := p.Client.Dial(t.Context(), to, bad, 300*time.Millisecond)
				if err == nil {
					c.Close()
				}
				return err == nil
			})
		})
	}
}

// TestManyShortOfCounted has a source far below its number of entries at a
// time begin and end many.
func TestManyShortOfCounted(t *testing.T) {
	lab.Require(t, "conntrack")
	p := lab.Server(t)
	p.Server.ServeTCP(80, lab.Echo)
	g := open(t, p.Server)
	if !g.Counts() {
		t.Skip("this kernel does not count right")
	}
	bad := lab.Nth(p.Client.Sources4, 5)
	l := limit(bad.String())
	l.PerSource = 20
	must(t, g.Limit(l))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Second / 200)
	defer tick.Stop()
	for i := range 600 {
		<-tick.C
		c, err := p.Client.Dial(ctx, netip.AddrPortFrom(p.Server.Addr4, 80), bad, time.Second)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		talker{c, t}.say()
		c.Close()
	}
}

// TestCountsOrNot compares what Counts says with what the kernel does to a
// source that has ended as many flows as it may have, and begins as many.
func TestCountsOrNot(t *testing.T) {
	lab.Require(t, "conntrack")
	p := lab.Server(t)
	p.Server.NFT(`table inet counted {
	set s {
		type ipv4_addr
		size 10
		flags dynamic
	}
	chain c {
		type filter hook prerouting priority -150
		udp dport 7000 add @s { ip saddr ct count over 100 } counter drop
	}
}
`)
	from := host(p.Client.Spoof4.Addr())
	for i := range 2 {
		_, err := p.Client.UDPFlood(t.Context(), netip.AddrPortFrom(p.Server.Addr4, 7000), from, 1, lab.Load{Packets: 100, First: 100 * i})
		must(t, err)
		p.Server.Exec("conntrack", "-D", "-p", "udp")
	}
	out := p.Server.Exec("nft", "list", "chain", "inet", "counted", "c")
	right := strings.Contains(out, "counter packets 0 ")
	if got := open(t, p.Server).Counts(); got != right {
		t.Errorf("Counts says %v; the kernel's rule:\n%s", got, out)
	}
}

// TestCountedTogether counts the addresses of a prefix as one source.
func TestCountedTogether(t *testing.T) {
	lab.Require(t)
	p := lab.Server(t)
	p.Server.ServeTCP(80, lab.Echo)
	g := open(t, p.Server)
	if !g.Counts() {
		t.Skip("this kernel does not count right")
	}
	for i, f := range families(p) {
		bits := []int{24, 120}[i]
		to := netip.AddrPortFrom(f.server, 80)
		l := guard.Limit{Seconds: 60, PerSource: 6, Sources: []netip.Prefix{netip.PrefixFrom(lab.Nth(f.sources, 512), bits)}}
		must(t, g.Limit(l))
		for n := range uint32(6) {
			let(t, p.Client, to, lab.Nth(f.sources, 512+n/2))
		}
		refused(t, p.Client, to, lab.Nth(f.sources, 600))
		let(t, p.Client, to, lab.Nth(f.sources, 800))
	}
}
