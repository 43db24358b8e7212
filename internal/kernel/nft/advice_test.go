package nft

import (
	"fmt"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

func value(typ uint16, b ...byte) []byte { return attr(typ, attr(dataValue, b)) }

func load(base, offset, n uint32) []byte {
	return expression("payload", u32(payloadDreg, 1), u32(payloadBase, base), u32(payloadOffset, offset), u32(payloadLen, n))
}

func about(key uint32) []byte { return expression("meta", u32(metaDreg, 1), u32(metaKey, key)) }

func is(op uint32, b ...byte) []byte {
	return expression("cmp", u32(cmpSreg, 1), u32(cmpOp, op), value(cmpData, b...))
}

func ends(code uint32) []byte {
	return expression("immediate", u32(immediateDreg, 0), attr(immediateData, attr(dataVerdict, u32(verdictCode, code))))
}

func join(parts ...[]byte) []byte {
	var list []byte
	for _, p := range parts {
		list = append(list, p...)
	}
	return list
}

var (
	drop   = ends(verdictDrop)
	accept = ends(1)
	tcp23  = join(about(16), is(0, 6), load(2, 2, 2), is(0, 0, 23))
	from10 = join(load(1, 12, 1), is(0, 10))
	reset  = expression("reject", u32(rejectType, rejectWithReset))
	reject = expression("reject", u32(rejectType, 0))
)

// judge reads rules of a chain and tells "kind: rule", with what holds.
func judge(b base, rules ...[]byte) string {
	tb := tables{parent: newCollector()}
	k := chainKey{family4, "t", "c"}
	tb.parent.bases[k] = b
	tb.begin()
	for _, r := range rules {
		tb.advise(k, r)
	}
	tb.keep()
	return tell(tb.parent.finishAdvice(true))
}

func tell(list []ct.RuleAdvice) string {
	s := ""
	for _, a := range list {
		s += fmt.Sprintf("%s: %s", a.Kind, a.Rule)
		if a.More > 0 {
			s += fmt.Sprintf(" +%d", a.More)
		}
		if a.AfterAccept {
			s += ", after"
		}
		s += ";"
	}
	return s
}

func TestAdvice(t *testing.T) {
	input, output := base{hookInput, 0}, base{hookOutput, 0}
	masked := func(mask, xor byte) []byte {
		return join(load(1, 12, 4), expression("bitwise", u32(bitwiseSreg, 1), u32(bitwiseDreg, 1),
			value(bitwiseMask, 255, mask, 0, 0), value(bitwiseXor, 0, 0, 0, xor)), is(0, 172, 16, 0, 0))
	}
	in := func(flags uint32) []byte {
		return join(load(1, 12, 4), expression("lookup", text(lookupSet, "bad"), u32(lookupSreg, 1), u32(lookupFlags, flags)))
	}
	for name, c := range map[string]struct {
		at    base
		rules [][]byte
		want  string
	}{
		"reject after an accept":  {input, [][]byte{join(from10, accept), reject}, "open-reject: reject;"},
		"port":                    {input, [][]byte{join(tcp23, drop)}, "late-drop: tcp dport 23 drop;"},
		"prefix of whole bytes":   {input, [][]byte{join(from10, drop)}, "late-drop: ip saddr 10.0.0.0/8 drop;"},
		"prefix by mask":          {input, [][]byte{join(masked(0xf0, 0), drop)}, "late-drop: ip saddr 172.16.0.0/12 drop;"},
		"mask with holes":         {input, [][]byte{join(masked(0x0f, 0), drop)}, ""},
		"bits flipped":            {input, [][]byte{join(masked(0xf0, 1), drop)}, ""},
		"set":                     {input, [][]byte{join(in(0), expression("counter"), drop)}, "late-drop: ip saddr @bad drop;"},
		"alike":                   {input, [][]byte{join(from10, drop), join(in(0), drop), join(tcp23, drop)}, "late-drop: ip saddr 10.0.0.0/8 drop +1;late-drop: tcp dport 23 drop;"},
		"interface":               {input, [][]byte{join(about(6), is(1, 'e', 't', 'h', '0', 0), drop)}, `late-drop: iifname != "eth0" drop;`},
		"protocol":                {input, [][]byte{join(load(1, 9, 1), is(0, 47), drop)}, "late-drop: meta l4proto 47 drop;"},
		"before tracking":         {base{hookPrerouting, -300}, [][]byte{join(tcp23, drop)}, ""},
		"at tracking":             {base{hookPrerouting, -200}, [][]byte{join(tcp23, drop)}, ""},
		"mangle":                  {base{hookPrerouting, -150}, [][]byte{join(tcp23, drop)}, "late-drop: tcp dport 23 drop;"},
		"after routing":           {base{4, 0}, [][]byte{join(tcp23, drop)}, ""},
		"everything":              {input, [][]byte{drop}, ""},
		"every address":           {input, [][]byte{join(load(1, 12, 4), expression("bitwise", u32(bitwiseSreg, 1), u32(bitwiseDreg, 1), value(bitwiseMask, 0, 0, 0, 0)), is(0, 0, 0, 0, 0), drop)}, ""},
		"by state":                {input, [][]byte{join(expression("ct", u32(ctDreg, 1), u32(ctKey, 0)), is(0, 1, 0, 0, 0), tcp23, drop)}, ""},
		"by rate":                 {input, [][]byte{join(tcp23, expression("limit"), drop)}, ""},
		"by mark":                 {input, [][]byte{join(about(3), is(0, 1, 0, 0, 0), drop)}, ""},
		"of a kernel to come":     {input, [][]byte{join(from10, expression("quantum"), drop)}, ""},
		"loaded and not asked":    {input, [][]byte{join(from10, load(1, 16, 4), drop)}, ""},
		"two addresses at once":   {input, [][]byte{join(load(1, 12, 8), is(0, 1, 2, 3, 4, 5, 6, 7, 8), drop)}, ""},
		"accepts":                 {input, [][]byte{join(from10, accept)}, ""},
		"port after an accept":    {input, [][]byte{join(from10, accept), join(tcp23, drop)}, ""},
		"source after an accept":  {input, [][]byte{join(tcp23, accept), join(from10, drop)}, "late-drop: ip saddr 10.0.0.0/8 drop, after;"},
		"others after an accept":  {input, [][]byte{join(tcp23, accept), join(in(1), drop)}, ""},
		"source after a map":      {input, [][]byte{join(load(2, 2, 2), expression("lookup", text(lookupSet, "m"), u32(lookupSreg, 1), u32(lookupDreg, 0))), join(from10, drop)}, "late-drop: ip saddr 10.0.0.0/8 drop, after;"},
		"way out known":           {output, [][]byte{join(about(7), is(0, 'e', 't', 'h', '0', 0), tcp23, drop)}, `late-drop: oifname "eth0" tcp dport 23 drop;`},
		"way out not known yet":   {base{hookForward, 0}, [][]byte{join(about(7), is(0, 'e', 't', 'h', '0', 0), drop)}, ""},
		"reject":                  {input, [][]byte{reject}, "open-reject: reject;"},
		"reject a port":           {base{hookForward, 0}, [][]byte{join(tcp23, reset)}, "open-reject: tcp dport 23 reject with tcp reset;"},
		"reject a source":         {input, [][]byte{join(from10, reject)}, ""},
		"reject all but a source": {input, [][]byte{join(in(1), reject)}, "open-reject: ip saddr != @bad reject;"},
		"reject an interface":     {input, [][]byte{join(about(6), is(0, 'l', 'a', 'n', 0), reject)}, ""},
		"reject at a rate":        {input, [][]byte{join(expression("limit"), reject)}, ""},
		"reject one's own":        {output, [][]byte{join(tcp23, reject)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := judge(c.at, c.rules...); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestDestinationsUnderTranslation(t *testing.T) {
	for name, c := range map[string]struct {
		at    base
		whole bool
		nat   string
		want  int
	}{
		"nothing translates":     {base{hookInput, 0}, true, "", 1},
		"rules were not read":    {base{hookInput, 0}, false, "", 0},
		"a rule translates":      {base{hookInput, 0}, true, "masquerade", 0},
		"before the translation": {base{hookPrerouting, -150}, true, "masquerade", 1},
	} {
		col := newCollector()
		if c.nat != "" {
			col.nat.add("here", c.nat)
		}
		col.advise("there", c.at, termsOf(family4, join(tcp23, drop)), false)
		col.advise("elsewhere", c.at, termsOf(family4, join(from10, drop)), false)
		if got := len(col.finishAdvice(c.whole)) - 1; got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestTrackingOfOneFamily knows that IPv4 may be tracked and IPv6 not.
func TestTrackingOfOneFamily(t *testing.T) {
	for user, want := range map[string]string{
		"":                    "late-drop: ip saddr 10.0.0.0/8 drop;",
		"nft inet t c":        "late-drop: ip saddr 10.0.0.0/8 drop;",
		"iptables filter X":   "late-drop: ip saddr 10.0.0.0/8 drop;",
		"ip6tables filter X":  "",
		"nft ip6 filter here": "",
	} {
		c := newCollector()
		if user != "" {
			c.users.add(user, "-m conntrack")
		}
		c.advise("there", base{hookInput, 0}, termsOf(familyInet, join(about(15), is(0, family4), from10, drop)), false)
		if got := tell(c.finishAdvice(true)); got != want {
			t.Errorf("tracked by %q: %q, want %q", user, got, want)
		}
	}
}

// TestInetSaysWhichFamily knows that an offset alone is no address.
func TestInetSaysWhichFamily(t *testing.T) {
	if !termsOf(familyInet, join(from10, drop)).opaque {
		t.Error("an address of no family was understood")
	}
	six := termsOf(familyInet, join(about(15), is(0, family6), load(1, 8, 2), is(0, 0xfd, 0), drop))
	if six.opaque || six.rule() != "ip6 saddr fd00::/16 drop" {
		t.Errorf("%+v", six)
	}
}

func TestXtMatches(t *testing.T) {
	tcp := func(edit func(b []byte)) []byte {
		b := make([]byte, 16)
		host.PutUint16(b[2:], 0xffff)
		host.PutUint16(b[4:], 20)
		host.PutUint16(b[6:], 23)
		edit(b)
		return b
	}
	plain := func([]byte) {}
	for _, c := range []struct {
		name string
		rev  uint32
		data []byte
		want string // "" if it is not understood
	}{
		{"tcp", 0, tcp(plain), "tcp dport 20-23 drop"},
		{"udp", 0, tcp(plain), "udp dport 20-23 drop"},
		{"tcp", 0, tcp(func(b []byte) { b[11] = xtInvTarget }), "tcp dport != 20-23 drop"},
		{"tcp", 0, tcp(func(b []byte) { b[9] = 2 }), ""},
		{"tcp", 0, nil, ""},
		{"set", 4, []byte{1, 0, 1, 2}, "saddr @ipset drop"},
		{"set", 4, []byte{1, 0, 1, 1}, "daddr != @ipset drop"},
		{"set", 4, []byte{1, 0, 2, 2}, ""},
		{"set", 0, []byte{1, 0, 1, 2}, ""},
		{"comment", 0, nil, "drop"},
		{"recent", 0, nil, ""},
	} {
		x := termsOf(family4, join(expression("match", text(compatName, c.name), u32(compatRev, c.rev), attr(compatInfo, c.data)), drop))
		if got := x.rule(); x.opaque != (c.want == "") || c.want != "" && got != c.want {
			t.Errorf("%s %v: %q opaque %v, want %q", c.name, c.data, got, x.opaque, c.want)
		}
	}
}

// TestAdviceOfTheKernel writes rules with the programs that people use.
func TestAdviceOfTheKernel(t *testing.T) {
	lab.Require(t, "iptables-legacy", "ip6tables-legacy", "iptables-nft")
	inet := func(rules string) string {
		return "table inet t {\n set bad {\n type ipv4_addr\n flags interval\n elements = { 192.0.2.0/24 }\n }\n chain c {\n type filter hook input priority 0;\n" + rules + "\n}\n}\n"
	}
	for name, c := range map[string]struct {
		nft   string
		lines [][]string
		want  string
	}{
		"nft port":         {nft: inet("tcp dport 23 drop"), want: "late-drop: tcp dport 23 drop;"},
		"nft ports":        {nft: inet("udp dport { 137, 138 } counter drop"), want: "late-drop: udp dport { a set } drop;"},
		"nft blocklist":    {nft: inet("ct state established accept\nip saddr @bad drop"), want: "late-drop: ip saddr @bad drop, after;"},
		"nft prefix":       {nft: inet("ip saddr 172.16.0.0/12 drop"), want: "late-drop: ip saddr 172.16.0.0/12 drop;"},
		"nft IPv6":         {nft: inet("ip6 saddr 2001:db8::/33 drop"), want: "late-drop: ip6 saddr 2001:db8::/33 drop;"},
		"nft interface":    {nft: inet("iifname \"eth*\" drop"), want: `late-drop: iifname "eth*" drop;`},
		"nft policy":       {nft: inet("ct state established accept\ntcp dport 22 accept\ndrop")},
		"nft end":          {nft: inet("ct state established accept\ntcp dport 22 accept\nreject"), want: "open-reject: reject;"},
		"nft reset":        {nft: inet("tcp dport 113 reject with tcp reset"), want: "open-reject: tcp dport 113 reject with tcp reset;"},
		"nft own people":   {nft: inet("ip saddr 10.0.0.0/8 reject")},
		"nft state":        {nft: inet("ct state invalid drop")},
		"nft flags":        {nft: inet("tcp flags & (fin|syn) == (fin|syn) drop")},
		"nft raw":          {nft: "table inet t {\n chain c {\n type filter hook prerouting priority -300;\n tcp dport 23 drop\n}\n}\n"},
		"nft under DNAT":   {nft: inet("tcp dport 23 drop") + "table ip n {\n chain c {\n type nat hook prerouting priority -100;\n tcp dport 24 dnat to 10.0.0.1:23\n}\n}\n"},
		"legacy port":      {lines: [][]string{{"iptables-legacy", "-A", "INPUT", "-p", "tcp", "--dport", "23", "-j", "DROP"}}, want: "late-drop: tcp dport 23 drop;"},
		"legacy source":    {lines: [][]string{{"iptables-legacy", "-A", "INPUT", "-p", "icmp"}, {"iptables-legacy", "-A", "INPUT", "!", "-i", "eth0", "-s", "172.16.0.0/12", "-j", "DROP"}}, want: `late-drop: ip saddr 172.16.0.0/12 iifname != "eth0" drop;`},
		"legacy IPv6":      {lines: [][]string{{"ip6tables-legacy", "-A", "FORWARD", "-i", "eth+", "-s", "fd00::/8", "-p", "udp", "--sport", "53", "-j", "DROP"}}, want: `late-drop: ip6 saddr fd00::/8 iifname "eth*" udp sport 53 drop;`},
		"legacy accepted":  {lines: [][]string{{"iptables-legacy", "-A", "INPUT", "-i", "lo", "-j", "ACCEPT"}, {"iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP"}}, want: "late-drop: ip saddr 192.0.2.1 drop, after;"},
		"legacy policy":    {lines: [][]string{{"iptables-legacy", "-P", "INPUT", "DROP"}}},
		"legacy own":       {lines: [][]string{{"iptables-legacy", "-N", "mine"}, {"iptables-legacy", "-A", "mine", "-s", "192.0.2.1", "-j", "DROP"}}},
		"legacy raw":       {lines: [][]string{{"iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-s", "192.0.2.1", "-j", "DROP"}}},
		"legacy reject":    {lines: [][]string{{"ip6tables-legacy", "-A", "INPUT", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"}}, want: "open-reject: meta l4proto tcp reject with tcp reset;"},
		"legacy state":     {lines: [][]string{{"iptables-legacy", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"}}},
		"compat port":      {lines: [][]string{{"iptables-nft", "-A", "INPUT", "-p", "tcp", "--dport", "23", "-j", "DROP"}}, want: "late-drop: tcp dport 23 drop;"},
		"compat source":    {lines: [][]string{{"iptables-nft", "-A", "INPUT", "-s", "172.16.0.0/12", "-j", "DROP"}}, want: "late-drop: ip saddr 172.16.0.0/12 drop;"},
		"compat interface": {lines: [][]string{{"iptables-nft", "-A", "INPUT", "-i", "eth0", "-j", "DROP"}}, want: `late-drop: iifname "eth0" drop;`},
		"compat reject":    {lines: [][]string{{"iptables-nft", "-A", "FORWARD", "-j", "REJECT"}}, want: "open-reject: reject;"},
	} {
		t.Run(name, func(t *testing.T) {
			h := lab.NewHost(t, "advice")
			if c.nft != "" {
				h.NFT(c.nft)
			}
			for _, l := range c.lines {
				h.Exec(l[0], l[1:]...)
			}
			if got := tell(read(t, h).Advice); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
