package guardtable_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/internal/kernel/guardtable"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestUntracked lets some clients pass before tracking and takes it back, while
// connections go on.
func TestUntracked(t *testing.T) {
	lab.Require(t, "conntrack")
	p := lab.Server(t)
	p.Server.ServeTCP(22, lab.Echo)
	g := open(t, p.Server)
	if !g.Untracks() {
		t.Skip("not by this kernel")
	}
	bare := listed(p.Server)
	for _, f := range families(p) {
		t.Run(f.name, func(t *testing.T) {
			office, other := lab.Nth(f.sources, 9), lab.Nth(f.sources, 300)
			ssh := netip.AddrPortFrom(f.server, 22)
			old := talker{let(t, p.Client, ssh, office), t}
			old.say()
			within, _ := office.Prefix(f.server.BitLen() - 4)
			must(t, g.Untrack(fmt.Sprintf("server tcp 22 from %s", within)))
			tracked := func(a netip.Addr) int { return entries(t, p.Server, "src="+a.String()+" ", "dport=22") }
			before := tracked(office)
			young, others := talker{let(t, p.Client, ssh, office), t}, talker{let(t, p.Client, ssh, other), t}
			for _, c := range []talker{old, young, others} {
				c.say()
			}
			if now := tracked(office); now != before {
				t.Errorf("%d entries of the office before, %d after one more connection", before, now)
			}
			if tracked(other) != 1 {
				t.Errorf("%d entries of another", tracked(other))
			}
			must(t, g.Untrack(""))
			for _, c := range []talker{old, young, others} {
				c.say()
			}
			if now := tracked(office); now != before+1 {
				t.Errorf("%d entries of the office when all is tracked again, want %d", now, before+1)
			}
			if now := listed(p.Server); now != bare {
				t.Errorf("before\n%safter\n%s", bare, now)
			}
		})
	}
}

func TestUntrackRefuses(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "untrack")
	g := open(t, h)
	for _, specs := range []string{"server tcp 22", "client udp 53 192.0.2.53 1024-65535", "anything"} {
		if err := g.Untrack(specs); !errors.Is(err, guardtable.ErrRange) {
			t.Errorf("%q: %v", specs, err)
		}
	}
	if !g.Untracks() {
		t.Skip("not by this kernel")
	}
	must(t, g.Untrack("server tcp 22 from 192.0.2.0/24; server tcp 2222 from 2001:db8::/64"))
	out := listed(h)
	for _, want := range []string{"type filter hook prerouting priority raw", "type filter hook output priority raw",
		"ip saddr 192.0.2.0/24 fib daddr type local tcp dport 22 notrack", "ip6 daddr 2001:db8::/64 tcp sport 2222 notrack"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
