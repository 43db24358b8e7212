package notrack

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

func open() Facts {
	return Facts{NAT: ct.No, Users: []string{"nft inet filter input: ct state"}, MatchesState: true, TableRead: true,
		Listeners: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:53")}, Bound: []uint16{53},
		Self: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Entries: Entries{Total: 100}}
}

func TestJudge(t *testing.T) {
	server := []Spec{{Proto: ct.UDP, Port: 53}}
	client := []Spec{{Proto: ct.UDP, Port: 53, Server: netip.MustParseAddr("192.0.2.53"), First: 32768, Last: 60999}}
	for _, tt := range []struct {
		name  string
		specs []Spec
		f     func(*Facts)
		want  Verdict
		why   string
	}{
		{"a public name server", server, func(*Facts) {}, Proven, "listens"},
		{"a client of a named server", client, func(*Facts) {}, Proven, "ephemeral"},
		{"a service among the ephemeral ports", client, func(f *Facts) { f.Bound = []uint16{53, 51820} }, Refuted, "51820"},
		{"itself as server", client, func(f *Facts) { f.Self = append(f.Self, client[0].Server) }, Refuted, "this machine"},
		{"nobody listens", server, func(f *Facts) { f.Listeners = nil }, NotProven, "nothing listens"},
		{"it only forwards", server, func(f *Facts) { f.Listeners, f.Entries.Forwarded = nil, 40 }, Refuted, "between others"},
		{"it serves and forwards", server, func(f *Facts) { f.Entries.Forwarded = 40 }, NotProven, "between others"},
		{"translated entries", server, func(f *Facts) { f.Entries.NAT = 1 }, Refuted, "translated"},
		{"a rule that could translate", server, func(f *Facts) { f.NATRules, f.NAT = []string{"nft ip nat post: masquerade"}, ct.Yes }, NotProven, "masquerade"},
		{"rules unread", server, func(f *Facts) { f.NAT, f.Unread = ct.Unknown, []string{"iptables"} }, NotProven, "iptables"},
		{"rules unread, and who needs them", server, func(f *Facts) { f.Unread = []string{"the nftables rules"} }, NotProven, "nftables rules"},
		{"policy drop with state rules", server, func(f *Facts) { f.PolicyDrop = true }, NotProven, "policy"},
		{"a later drop", server, func(f *Facts) { f.Drops = true }, NotProven, "overrule"},
		{"helper", server, func(f *Facts) { f.Entries.Helper = 1 }, Refuted, "helper"},
		{"a rule that counts", server, func(f *Facts) { f.Users = []string{"iptables filter INPUT: connlimit"} }, NotProven, "connlimit"},
		{"marks", server, func(f *Facts) { f.Entries.Marked = 3 }, NotProven, "mark"},
		{"table unread", server, func(f *Facts) { f.TableRead = false }, NotProven, "table"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := open()
			tt.f(&f)
			j := Judge(tt.specs, f)
			said := ""
			for _, c := range j.Checks {
				said += c.Why + "\n"
			}
			if j.Verdict != tt.want || !strings.Contains(said, tt.why) {
				t.Errorf("%s:\n%s", j.Verdict, said)
			}
		})
	}
}

func TestSpecRoundTrip(t *testing.T) {
	for _, s := range []string{"server udp 53", "server tcp 443", "server tcp 22 from 192.0.2.0/24", "server tcp 22 from 2001:db8::7/128", "client udp 53 192.0.2.53 32768-60999", "client udp 123 2001:db8::1 1024-65535"} {
		got, err := ParseSpec(s)
		if err != nil || got.String() != s {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "server icmp 1", "server udp 0", "server udp 65536", "client udp 53 192.0.2.53", "client udp 53 a 1-2",
		"client udp 53 fe80::1%eth0 1-2", "client udp 53 192.0.2.53 9-1", "server udp 53; flush ruleset",
		"server tcp 22 from 0.0.0.0/0", "server tcp 22 from 192.0.2.1/24", "server tcp 22 to 192.0.2.0/24", "server tcp 22 from ::ffff:192.0.2.0/120"} {
		if got, err := ParseSpec(s); err == nil {
			t.Errorf("%q: %q", s, got)
		}
	}
}

func TestBothDirections(t *testing.T) {
	specs := []Spec{{Proto: ct.UDP, Port: 53}}
	text := NFT(specs)
	for _, want := range []string{"hook prerouting priority -300", "hook output priority -300", "udp dport 53 notrack", "udp sport 53 notrack", "fib daddr type local"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if n := len(Iptables(specs)); n != 4 {
		t.Errorf("%d commands for both families and directions", n)
	}
}

func FuzzParseValue(f *testing.F) {
	f.Add("server tcp 22 from 192.0.2.0/24")
	f.Add("server udp 53; client udp 53 192.0.2.53 32768-60999")
	f.Fuzz(func(t *testing.T, s string) {
		specs, err := ParseValue(s)
		if err != nil {
			return
		}
		again, err := ParseValue(Value(specs))
		if err != nil || Value(again) != Value(specs) {
			t.Fatalf("%q: %v", s, err)
		}
		if text := NFT(specs); strings.ContainsAny(text, "$`\\") || strings.Count(text, `"`) != 4*len(specs) {
			t.Fatalf("%q makes rules:\n%s", s, text)
		}
	})
}
