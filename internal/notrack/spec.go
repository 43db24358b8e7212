// Package notrack judges whether a flow can do without connection tracking,
// and writes the rules that let it. It is pure: facts in, verdict out.
package notrack

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Key stands for our table of rules among settings: its value is the specs of
// the flows in it, joined by "; ", "" if the table does not exist.
const Key = "nft:inet ctwarden_notrack"

// Table is the table's name in the family inet.
const Table = "ctwarden_notrack"

// Ephemeral ports, as in net.ipv4.ip_local_port_range.
const (
	DefaultEphemeralFirst = 32768
	DefaultEphemeralLast  = 60999
)

// Spec names flows of one port: those that this machine serves, or, with a
// Server, those by which it is a client of that one.
type Spec struct {
	Proto  ct.Proto // TCP or UDP
	Port   uint16   // the service's
	Server netip.Addr
	// From, if valid, bounds the clients of a service.
	From netip.Prefix
	// First and Last bound the local ports of a client.
	First, Last uint16
}

// String is the form that ParseSpec reads: "server udp 53",
// "server tcp 22 from 192.0.2.0/24", "client udp 53 192.0.2.53 32768-60999".
func (s Spec) String() string {
	switch {
	case s.From.IsValid():
		return fmt.Sprintf("server %s %d from %s", s.Proto, s.Port, s.From)
	case !s.Server.IsValid():
		return fmt.Sprintf("server %s %d", s.Proto, s.Port)
	}
	return fmt.Sprintf("client %s %d %s %d-%d", s.Proto, s.Port, s.Server, s.First, s.Last)
}

// ParseSpec reads what String wrote. Nothing else can get into a rule.
func ParseSpec(text string) (Spec, error) {
	bad := fmt.Errorf("%q names no flow", text)
	f := strings.Fields(text)
	if len(f) != 3 && len(f) != 5 {
		return Spec{}, bad
	}
	var s Spec
	switch f[1] {
	case "tcp":
		s.Proto = ct.TCP
	case "udp":
		s.Proto = ct.UDP
	default:
		return Spec{}, bad
	}
	port, err := strconv.ParseUint(f[2], 10, 16)
	if err != nil || port == 0 {
		return Spec{}, bad
	}
	s.Port = uint16(port)
	if f[0] == "server" && len(f) == 3 {
		return s, nil
	}
	if f[0] == "server" && f[3] == "from" {
		s.From, err = netip.ParsePrefix(f[4])
		if err != nil || s.From != s.From.Masked() || s.From.Bits() == 0 || s.From.Addr().Is4In6() {
			return Spec{}, bad
		}
		return s, nil
	}
	if f[0] != "client" || len(f) != 5 {
		return Spec{}, bad
	}
	first, last, _ := strings.Cut(f[4], "-")
	a, err1 := strconv.ParseUint(first, 10, 16)
	z, err2 := strconv.ParseUint(last, 10, 16)
	s.Server, err = netip.ParseAddr(f[3])
	if err != nil || err1 != nil || err2 != nil || a == 0 || a > z || s.Server.Zone() != "" || s.Server.Is4In6() {
		return Spec{}, bad
	}
	s.First, s.Last = uint16(a), uint16(z)
	return s, nil
}

// Value joins specs in a fixed order.
func Value(specs []Spec) string {
	var list []string
	for _, s := range specs {
		list = append(list, s.String())
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), "; ")
}

// ParseValue splits what Value joined.
func ParseValue(value string) ([]Spec, error) {
	var specs []Spec
	for _, part := range strings.Split(value, ";") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		s, err := ParseSpec(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		specs = append(specs, s)
	}
	return specs, nil
}

var comment = regexp.MustCompile(`comment "([a-z]+ [a-z]+ [0-9][^"]*)"`)

// SpecsOf finds the flows in a table that NFT rendered, or in nft's listing of
// it.
func SpecsOf(text string) []Spec {
	var specs []Spec
	for _, m := range comment.FindAllStringSubmatch(text, -1) {
		if s, err := ParseSpec(m[1]); err == nil {
			specs = append(specs, s)
		}
	}
	return specs
}

// NFT renders the table that makes the flows untracked: both directions, at
// priority -300, before connection tracking at -200. It replaces what the
// table held; without specs it removes it.
func NFT(specs []Spec) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s\ndelete table inet %s\n", Table, Table)
	if len(specs) == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "table inet %s {\n", Table)
	for _, c := range []struct {
		hook string
		in   bool
	}{{"prerouting", true}, {"output", false}} {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype filter hook %s priority -300; policy accept;\n", c.hook, c.hook)
		for _, s := range specs {
			fmt.Fprintf(&b, "\t\t%s notrack comment %q\n", s.match(c.in), s.String())
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// match is the condition of packets that come in, or go out.
func (s Spec) match(in bool) string {
	p := s.Proto.String()
	if s.From.IsValid() {
		if in {
			return fmt.Sprintf("%s saddr %s fib daddr type local %s dport %d", ipOf(s.From.Addr()), s.From, p, s.Port)
		}
		return fmt.Sprintf("%s daddr %s %s sport %d", ipOf(s.From.Addr()), s.From, p, s.Port)
	}
	if !s.Server.IsValid() {
		if in {
			return fmt.Sprintf("fib daddr type local %s dport %d", p, s.Port)
		}
		return fmt.Sprintf("%s sport %d", p, s.Port)
	}
	family := ipOf(s.Server)
	if in {
		return fmt.Sprintf("%s saddr %s %s sport %d %s dport %d-%d", family, s.Server, p, s.Port, p, s.First, s.Last)
	}
	return fmt.Sprintf("%s daddr %s %s dport %d %s sport %d-%d", family, s.Server, p, s.Port, p, s.First, s.Last)
}

func ipOf(a netip.Addr) string {
	if a.Is6() {
		return "ip6"
	}
	return "ip"
}

// Iptables renders the same rules for machines with legacy iptables, to be run
// by hand.
func Iptables(specs []Spec) []string {
	var list []string
	for _, s := range specs {
		p := s.Proto.String()
		if !s.Server.IsValid() {
			for _, cmd := range []string{"iptables", "ip6tables"} {
				from, to := "", ""
				if s.From.IsValid() {
					if (cmd == "ip6tables") != s.From.Addr().Is6() {
						continue
					}
					from, to = " -s "+s.From.String(), " -d "+s.From.String()
				}
				list = append(list,
					fmt.Sprintf("%s -t raw -A PREROUTING%s -m addrtype --dst-type LOCAL -p %s --dport %d -j CT --notrack", cmd, from, p, s.Port),
					fmt.Sprintf("%s -t raw -A OUTPUT%s -p %s --sport %d -j CT --notrack", cmd, to, p, s.Port))
			}
			continue
		}
		cmd := "iptables"
		if s.Server.Is6() {
			cmd = "ip6tables"
		}
		list = append(list,
			fmt.Sprintf("%s -t raw -A PREROUTING -s %s -p %s --sport %d --dport %d:%d -j CT --notrack", cmd, s.Server, p, s.Port, s.First, s.Last),
			fmt.Sprintf("%s -t raw -A OUTPUT -d %s -p %s --dport %d --sport %d:%d -j CT --notrack", cmd, s.Server, p, s.Port, s.First, s.Last))
	}
	return list
}
