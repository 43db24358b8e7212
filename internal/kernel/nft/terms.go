package nft

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ending is what a rule does with a packet that it matches.
type ending uint8

const (
	goesOn ending = iota
	drops
	rejects
	leaves // accepts, jumps, returns, queues: later rules may not see the packet
)

// terms is what a rule asks of a packet and what it does then, both in the
// words of nft.
type terms struct {
	family uint8 // familyInet where it asks for neither IPv4 nor IPv6

	words []string
	proto string // of the transport, once it is known; "th" for several
	ports bool   // a word on ports named the protocol

	source bool // it asks for certain source addresses
	input  bool // it asks for certain input interfaces
	output bool // it looks at the output interface
	target bool // it looks at the destination, which translation changes
	opaque bool // it does more than is understood here

	end   ending
	reset bool
}

func (t *terms) word(format string, args ...any) {
	t.words = append(t.words, fmt.Sprintf(format, args...))
}

// finish sets what the rule ends with, unless it ended before.
func (t *terms) finish(e ending) {
	if t.end == goesOn {
		t.end = e
	}
}

// side notes a look at one side of the packet.
func (t *terms) side(source, wanted bool) {
	switch {
	case !source:
		t.target = true
	case wanted:
		t.source = true
	}
}

func (t *terms) address(p netip.Prefix, source bool, op string) {
	family, dir, text := "ip", "daddr", p.String()
	if p.Addr().Is6() {
		family = "ip6"
	}
	if source {
		dir = "saddr"
	}
	if p.IsSingleIP() {
		text = p.Addr().String()
	}
	t.opaque = t.opaque || p.Bits() == 0 // every address
	t.side(source, op != notEqual)
	t.word("%s %s %s%s", family, dir, op, text)
}

// port notes a port, a range of them or a set. Ports of the source are as easy
// to choose as its address, so they do not count as asking for a source.
func (t *terms) port(source bool, op, what string) {
	dir := "dport"
	if source {
		dir = "sport"
	}
	t.side(source, false)
	t.ports = true
	proto := t.proto
	if proto == "" {
		proto = "th"
	}
	t.word("%s %s %s%s", proto, dir, op, what)
}

func (t *terms) protocol(n uint8, op string) {
	name := strconv.Itoa(int(n))
	switch n {
	case 1:
		name = "icmp"
	case 6:
		name = "tcp"
	case 17:
		name = "udp"
	case 58:
		name = "icmpv6"
	case 132:
		name = "sctp"
	}
	if op != "" {
		t.word("meta l4proto %s%s", op, name)
		return
	}
	t.proto = name
}

func (t *terms) iface(in bool, op, name string) {
	if in {
		t.input = t.input || op != notEqual
		t.word("iifname %s%s", op, name)
		return
	}
	t.output = true
	t.word("oifname %s%s", op, name)
}

// rule is the whole rule in words.
func (t *terms) rule() string {
	w := t.words
	if t.proto != "" && !t.ports {
		w = append(w[:len(w):len(w)], "meta l4proto "+t.proto)
	}
	switch {
	case t.reset:
		w = append(w[:len(w):len(w)], "reject with tcp reset")
	case t.end == rejects:
		w = append(w[:len(w):len(w)], "reject")
	default:
		w = append(w[:len(w):len(w)], "drop")
	}
	return strings.Join(w, " ")
}

// empty reports whether the rule matches every packet.
func (t *terms) empty() bool { return len(t.words) == 0 && t.proto == "" }

// What stands between a field and its value: nothing for equality.
const (
	equal    = ""
	notEqual = "!= "
)

func operator(not bool) string {
	if not {
		return notEqual
	}
	return equal
}

// prefixLen is how many leading bits of a mask are set; ok is false if others
// follow.
func prefixLen(mask []byte) (bits int, ok bool) {
	ended := false
	for _, b := range mask {
		for i := 7; i >= 0; i-- {
			switch set := b>>i&1 == 1; {
			case set && ended:
				return 0, false
			case set:
				bits++
			default:
				ended = true
			}
		}
	}
	return bits, true
}

// quoted is the name of an interface; one without an end stands for all names
// that begin so.
func quoted(name []byte, whole bool) string {
	s := cString(name)
	if !whole {
		s += "*"
	}
	return strconv.Quote(s)
}
