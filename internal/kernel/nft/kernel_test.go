package nft

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// read reads the rules of a host of the laboratory.
func read(t *testing.T, h *lab.Host) Rules {
	t.Helper()
	mods, err := procfs.FS{}.Modules()
	if err != nil {
		t.Fatal(err)
	}
	var r Rules
	err = h.Do(func() error {
		var failed []Source
		r, failed = Read(context.Background(), procfs.FS{}, mods)
		for _, f := range failed {
			t.Errorf("%s: %v", f.What, f.Err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tracks asks the kernel itself: does a packet make an entry?
func tracks(h *lab.Host) bool {
	h.Exec("ping", "-c1", "-W1", "127.0.0.1")
	return h.Count() > 0
}

// lines puts the statements of a ruleset on lines of their own, as nft wants.
func lines(ruleset string) string {
	ruleset = strings.ReplaceAll(ruleset, "; }", ";\n}\n")
	if rest, ok := strings.CutSuffix(ruleset, " } }"); ok {
		return rest + "\n}\n}\n"
	}
	return ruleset
}

func nftChain(rule string) string {
	return "table inet t { chain c { type filter hook output priority 0; " + rule + " } }"
}

// TestWhatSwitchesTrackingOn compares what the rules are said to do with what
// the kernel does.
func TestWhatSwitchesTrackingOn(t *testing.T) {
	lab.Require(t, "iptables-legacy", "iptables-nft", "ping")
	for name, c := range map[string]struct {
		nft   string
		lines []string
		user  string // must be among the users
		nat   string
	}{
		"nothing":          {},
		"counter":          {nft: nftChain("counter")},
		"limit":            {nft: nftChain("limit rate 5/second")},
		"dynamic set":      {nft: "table inet t { set s { type ipv4_addr; flags dynamic; size 100; } chain c { type filter hook output priority 0; add @s { ip saddr } } }"},
		"notrack":          {nft: "table inet t { chain c { type filter hook output priority -300; notrack; } }"},
		"empty nat chain":  {nft: "table ip t { chain c { type nat hook postrouting priority 100; } }"},
		"ct state":         {nft: nftChain("ct state new counter"), user: "nft inet t c: ct state"},
		"ct mark set":      {nft: nftChain("ct mark set 1"), user: "nft inet t c: ct mark set"},
		"ct count":         {nft: nftChain("ct count over 100000 drop"), user: "nft inet t c: ct count"},
		"ct count by host": {nft: "table inet t { set s { type ipv4_addr; flags dynamic; size 100; } chain c { type filter hook output priority 0; add @s { ip saddr ct count over 10000 } drop; } }", user: "nft inet t c: ct count"},
		"ct zone set":      {nft: "table inet t { chain c { type filter hook output priority -300; ct zone set 5; } }", user: "nft inet t c: ct zone set"},
		"masquerade":       {nft: "table ip t { chain c { type nat hook postrouting priority 100; oifname eth9 masquerade; } }", user: "nft ip t c: masquerade", nat: "nft ip t c: masquerade"},
		"dnat": {nft: "table ip t { chain c { type nat hook output priority -100; ip daddr 192.0.2.9 tcp dport 80 dnat to 192.0.2.1:8080; } }",
			user: "nft ip t c: dnat to 192.0.2.1 port 8080", nat: "nft ip t c: dnat to 192.0.2.1 port 8080"},
		"snat over IPv6": {nft: "table ip6 t { chain c { type nat hook postrouting priority 100; ip6 saddr fd00::/8 snat to 2001:db8::5; } }",
			user: "nft ip6 t c: snat to [2001:db8::5]", nat: "nft ip6 t c: snat to [2001:db8::5]"},
		"dnat by a map": {nft: "table ip t { chain c { type nat hook output priority -100; dnat to tcp dport map { 81 : 192.0.2.1 }; } }",
			user: "nft ip t c: dnat to addresses of a map", nat: "nft ip t c: dnat to addresses of a map"},
		"redirect": {nft: "table ip t { chain c { type nat hook output priority -100; tcp dport 81 redirect to :8081; } }",
			user: "nft ip t c: redirect port 8081", nat: "nft ip t c: redirect port 8081"},
		"synproxy":   {nft: "table ip t { chain c { type filter hook input priority 0; tcp dport 81 synproxy mss 1460 wscale 7; } }", user: "nft ip t c: synproxy"},
		"ct timeout": {nft: "table ip t { ct timeout o { protocol tcp; policy = { established : 500 }; } }", user: "nft ip t object o: ct timeout"},
		"ct expectation": {nft: "table ip t { ct expectation e { protocol tcp; dport 9876; timeout 2m; size 12; l3proto ip; } }",
			user: "nft ip t object e: ct expectation"},
		"ct helper object": {nft: `table ip t { ct helper h { type "ftp" protocol tcp; } chain c { type filter hook output priority 0; tcp dport 21 ct helper set "h"; } }`,
			user: "nft ip t c: ct helper set"},

		"legacy accept":     {lines: []string{"iptables-legacy -A OUTPUT -j ACCEPT"}},
		"legacy notrack":    {lines: []string{"iptables-legacy -t raw -A OUTPUT -j CT --notrack"}},
		"legacy conntrack":  {lines: []string{"iptables-legacy -A INPUT -p tcp -m conntrack --ctstate NEW -j ACCEPT"}, user: "iptables filter INPUT: -m conntrack"},
		"legacy state":      {lines: []string{"iptables-legacy -N mine", "iptables-legacy -A mine -m state --state NEW -j ACCEPT"}, user: "iptables filter mine: -m conntrack"},
		"legacy connlimit":  {lines: []string{"iptables-legacy -A INPUT -p tcp --syn -m connlimit --connlimit-above 5000 -j REJECT"}, user: "iptables filter INPUT: -m connlimit"},
		"legacy connbytes":  {lines: []string{"iptables-legacy -A INPUT -m connbytes --connbytes 1: --connbytes-dir both --connbytes-mode packets"}, user: "iptables filter INPUT: -m connbytes"},
		"legacy connmark":   {lines: []string{"iptables-legacy -t mangle -A OUTPUT -j CONNMARK --set-mark 1"}, user: "iptables mangle OUTPUT: -j CONNMARK"},
		"legacy helper":     {lines: []string{"iptables-legacy -A INPUT -m helper --helper ftp"}, user: "iptables filter INPUT: -m helper"},
		"legacy connlabel":  {lines: []string{"iptables-legacy -A INPUT -m connmark --mark 1"}, user: "iptables filter INPUT: -m connmark"},
		"legacy CT zone":    {lines: []string{"iptables-legacy -t raw -A OUTPUT -j CT --zone 3"}, user: "iptables raw OUTPUT: -j CT"},
		"legacy empty nat":  {lines: []string{"iptables-legacy -t nat -L"}},
		"legacy masquerade": {lines: []string{"iptables-legacy -t nat -A POSTROUTING -o eth9 -j MASQUERADE"}, user: "iptables nat POSTROUTING: -j MASQUERADE", nat: "iptables nat POSTROUTING: -j MASQUERADE"},
		"legacy DNAT":       {lines: []string{"iptables-legacy -t nat -A OUTPUT -p tcp --dport 81 -j DNAT --to 192.0.2.1:80"}, user: "iptables nat OUTPUT: -j DNAT", nat: "iptables nat OUTPUT: -j DNAT"},
		"legacy IPv6":       {lines: []string{"ip6tables-legacy -A INPUT -m conntrack --ctstate NEW -j ACCEPT"}, user: "ip6tables filter INPUT: -m conntrack"},
		"legacy IPv6 NAT":   {lines: []string{"ip6tables-legacy -t nat -A POSTROUTING -s fd00::/8 -j MASQUERADE"}, user: "ip6tables nat POSTROUTING: -j MASQUERADE", nat: "ip6tables nat POSTROUTING: -j MASQUERADE"},

		"compat accept":     {lines: []string{"iptables-nft -A OUTPUT -j ACCEPT"}},
		"compat notrack":    {lines: []string{"iptables-nft -t raw -A OUTPUT -j CT --notrack"}},
		"compat conntrack":  {lines: []string{"iptables-nft -A INPUT -p tcp -m conntrack --ctstate NEW -j ACCEPT"}, user: "nft ip filter INPUT: -m conntrack"},
		"compat CT zone":    {lines: []string{"iptables-nft -t raw -A OUTPUT -j CT --zone 3"}, user: "nft ip raw OUTPUT: -j CT"},
		"compat masquerade": {lines: []string{"iptables-nft -t nat -A POSTROUTING -o eth9 -j MASQUERADE"}, user: "nft ip nat POSTROUTING: ", nat: "nft ip nat POSTROUTING: "},
	} {
		t.Run(name, func(t *testing.T) {
			h := lab.NewHost(t, "rules")
			if c.nft != "" {
				h.NFT(lines(c.nft))
			}
			for _, line := range c.lines {
				f := strings.Fields(line)
				h.Exec(f[0], f[1:]...)
			}
			r := read(t, h)
			// IPv4 is what the ping is; rules for IPv6 track nothing of it.
			only6 := strings.HasPrefix(c.user, "ip6") || strings.HasPrefix(c.user, "nft ip6")
			if got := tracks(h); got != (len(r.Users) > 0) && !only6 {
				t.Errorf("the kernel tracks: %v; users %q", got, r.Users)
			}
			has := func(what string, list []string, want string) {
				t.Helper()
				if want == "" && len(list) > 0 || want != "" && !slices.ContainsFunc(list, func(s string) bool { return strings.HasPrefix(s, want) }) {
					t.Errorf("%s %q, want %q", what, list, want)
				}
			}
			has("users", r.Users, c.user)
			has("NAT", r.NAT, c.nat)
		})
	}
}

func TestWhatCouldRefuse(t *testing.T) {
	lab.Require(t, "iptables-legacy", "iptables-nft")
	for name, c := range map[string]struct {
		nft                      string
		lines                    []string
		policy, drops, state, to bool
	}{
		"nothing":            {},
		"policy":             {nft: "table inet t { chain c { type filter hook input priority 0; policy drop; ct state established accept; } }", policy: true, state: true},
		"netdev policy":      {nft: "table netdev t { chain c { type filter hook ingress device lo priority 0; policy drop; } }"},
		"rule":               {nft: nftChain("ct state invalid drop"), drops: true, state: true},
		"reject":             {nft: nftChain("tcp dport 9 reject"), drops: true},
		"verdict map":        {nft: nftChain("ct state vmap { established : accept, invalid : drop }"), drops: true, state: true},
		"named verdict map":  {nft: "table inet t { map m { type ct_state : verdict; elements = { invalid : drop }; } chain c { type filter hook output priority 0; ct state vmap @m; } }", drops: true, state: true},
		"harmless map":       {nft: nftChain("ct state vmap { established : accept }"), state: true},
		"ct timeout":         {nft: "table ip t { ct timeout o { protocol tcp; policy = { established : 500 }; } chain c { type filter hook output priority -150; ct timeout set \"o\"; } }", to: true},
		"legacy policy":      {lines: []string{"iptables-legacy -P INPUT DROP"}, policy: true},
		"legacy rule":        {lines: []string{"iptables-legacy -A INPUT -m conntrack --ctstate INVALID -j DROP"}, drops: true, state: true},
		"legacy reject":      {lines: []string{"ip6tables-legacy -A INPUT -p udp -j REJECT"}, drops: true},
		"legacy accept":      {lines: []string{"iptables-legacy -A INPUT -m conntrack --ctstate INVALID -j ACCEPT"}, state: true},
		"compat rule":        {lines: []string{"iptables-nft -A INPUT -m conntrack --ctstate INVALID -j DROP"}, drops: true, state: true},
		"compat policy":      {lines: []string{"iptables-nft -P FORWARD DROP"}, policy: true},
		"legacy user chains": {lines: []string{"iptables-legacy -N a", "iptables-legacy -A a -j DROP", "iptables-legacy -A INPUT -s 10.0.0.1 -j a"}, drops: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := lab.NewHost(t, "drops")
			if c.nft != "" {
				h.NFT(lines(c.nft))
			}
			for _, line := range c.lines {
				f := strings.Fields(line)
				h.Exec(f[0], f[1:]...)
			}
			r := read(t, h)
			if r.PolicyDrop != c.policy || r.Drops != c.drops || r.MatchesState != c.state || r.TimeoutPolicies != c.to {
				t.Errorf("policy %v drops %v state %v timeouts %v", r.PolicyDrop, r.Drops, r.MatchesState, r.TimeoutPolicies)
			}
		})
	}
}

// TestReadingMakesNoTable looks at the tables before and after.
func TestReadingMakesNoTable(t *testing.T) {
	lab.Require(t, "iptables-legacy")
	h := lab.NewHost(t, "still")
	names := func() string { return h.Exec("cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names") }
	before := names()
	read(t, h)
	if after := names(); after != before {
		t.Errorf("tables %q became %q", before, after)
	}
	if out := h.Exec("nft", "list", "ruleset"); strings.TrimSpace(out) != "" {
		t.Errorf("rules appeared: %s", out)
	}
}

func TestLargeRulesets(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "large")
	var b strings.Builder
	b.WriteString("table inet t {\n chain c {\n type filter hook output priority 0;\n")
	for range 20000 {
		b.WriteString("  ct state new counter\n")
	}
	b.WriteString(" }\n}\n")
	h.NFT(b.String())
	r := read(t, h)
	if len(r.Users) != 1 || r.Users[0] != "nft inet t c: ct state (20000 rules)" {
		t.Errorf("users %q", r.Users)
	}
}
