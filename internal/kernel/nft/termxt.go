package nft

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
)

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// setInWords names a set; those without a name are numbered by nft.
func setInWords(name string) string {
	if strings.HasPrefix(name, "__set") {
		return "{ a set }"
	}
	return "@" + name
}

// xtMatch reads a match of xtables, and reports whether it is understood.
func (t *terms) xtMatch(name string, rev uint32, data []byte) bool {
	switch name {
	case "comment":
		return true
	case "tcp":
		return t.xtTCP(data)
	case "udp":
		return t.xtUDP(data)
	case "set":
		return t.xtSet(rev, data)
	}
	return false
}

// xtTCP reads struct xt_tcp: ports, option, flags, and what is inverted.
func (t *terms) xtTCP(data []byte) bool {
	const known = xtInvSource | xtInvTarget
	if len(data) < 12 || data[8] != 0 || data[9] != 0 || data[11]&^known != 0 {
		return false
	}
	t.proto = "tcp"
	t.xtPorts(data, data[11])
	return true
}

// xtUDP reads struct xt_udp: ports, and what is inverted.
func (t *terms) xtUDP(data []byte) bool {
	if len(data) < 9 {
		return false
	}
	t.proto = "udp"
	t.xtPorts(data, data[8])
	return true
}

// Bits of invflags, XT_TCP_INV_* and XT_UDP_INV_*.
const (
	xtInvSource = 1
	xtInvTarget = 2
)

func (t *terms) xtPorts(data []byte, inv uint8) {
	for i, bit := range []uint8{xtInvSource, xtInvTarget} {
		from, to := host.Uint16(data[4*i:]), host.Uint16(data[4*i+2:])
		if from == 0 && to == 0xffff && inv&bit == 0 {
			continue
		}
		what := decimal(uint64(from))
		if to != from {
			what += "-" + decimal(uint64(to))
		}
		t.port(i == 0, operator(inv&bit != 0), what)
	}
}

// xtSet reads struct xt_set_info: index, dimension, flags. Revision 0 has
// another layout.
func (t *terms) xtSet(rev uint32, data []byte) bool {
	const invert, source = 1, 2 // IPSET_INV_MATCH, IPSET_DIM_ONE_SRC
	if rev == 0 || len(data) < 4 || data[2] != 1 {
		return false
	}
	op, side := operator(data[3]&invert != 0), "daddr"
	if data[3]&source != 0 {
		side = "saddr"
	}
	t.side(side == "saddr", op == equal)
	t.word("%s %s@ipset", side, op)
	return true
}

// xtGoesOn are targets after which the next rule is asked.
var xtGoesOn = map[string]bool{"LOG": true, "NFLOG": true, "AUDIT": true, "TRACE": true, "MARK": true, "CONNMARK": true,
	"CT": true, "TCPMSS": true, "DSCP": true, "TOS": true, "TTL": true, "HL": true, "CLASSIFY": true, "SET": true}

// xtTarget reads a target of xtables other than the standard one.
func (t *terms) xtTarget(name string, data []byte) bool {
	switch {
	case name == "REJECT" && len(data) >= 4:
		reset := uint32(7) // IPT_TCP_RESET
		if t.family == family6 {
			reset = 6 // IP6T_TCP_RESET
		}
		t.finish(rejects)
		t.reset = host.Uint32(data) == reset
	case xtGoesOn[name]:
		return name == "LOG" || name == "NFLOG"
	default:
		t.finish(leaves)
		return false
	}
	return true
}

// seat is where the entries of a legacy table stand, if rules there are of
// interest, and whether one before let packets pass.
type seat struct {
	base
	known, passed bool
}

// xtPriority is where the tables that filter stand, NF_IP_PRI_*.
var xtPriority = map[string]int32{"mangle": -150, "filter": 0, "security": 50}

func seatOf(table string, hook int) seat {
	priority, ok := xtPriority[table]
	return seat{base: base{uint32(hook), priority}, known: ok && hook <= hookOutput}
}

// terms reads a whole entry of a legacy table, with its target at an offset
// and itself at another. Its parts are known to hold together.
func (l *layout) terms(family uint8, e []byte, target int, at uint32) *terms {
	t := &terms{family: family}
	t.xtHead(e)
	for m := e[l.elems:target]; len(m) > 0; {
		n := int(host.Uint16(m))
		name, data := l.element(m[:n])
		t.opaque = !t.xtMatch(name, uint32(m[l.matchHead-1]), data) || t.opaque
		m = m[n:]
	}
	name, data := l.element(e[target:])
	if name != "" {
		t.opaque = !t.xtTarget(name, data) || t.opaque
		return t
	}
	if len(data) < 4 {
		t.opaque = true
		return t
	}
	switch verdict := int32(host.Uint32(data)); verdict {
	case -1: // -NF_DROP - 1
		t.finish(drops)
	case int32(at) + int32(len(e)): // falls through: a rule without a target
	default:
		t.finish(leaves)
	}
	return t
}

// Bits of flags and invflags of struct ipt_ip and ip6t_ip6.
const (
	iptFragment  = 0x01 // IPT_F_FRAG
	ip6tTOS      = 0x02 // IP6T_F_TOS
	iptInvIn     = 0x01
	iptInvOut    = 0x02
	iptInvSource = 0x08
	iptInvTarget = 0x10
	iptInvProto  = 0x40
)

// xtHead reads struct ipt_ip or ip6t_ip6: addresses, masks, interfaces with
// theirs, protocol, flags.
func (t *terms) xtHead(b []byte) {
	size := 4
	if t.family == family6 {
		size = 16
	}
	names := b[4*size:]
	rest := names[4*ifNameSize:]
	proto, flags, inv := host.Uint16(rest), rest[2], rest[3]
	more := flags & iptFragment
	if t.family == family6 {
		flags, inv = rest[3], rest[4]
		more = flags & ip6tTOS
	}
	const known = iptInvIn | iptInvOut | iptInvSource | iptInvTarget | iptInvProto
	t.opaque = t.opaque || more != 0 || inv&^known != 0
	t.xtAddress(b[:size], b[2*size:3*size], true, inv&iptInvSource != 0)
	t.xtAddress(b[size:2*size], b[3*size:4*size], false, inv&iptInvTarget != 0)
	t.xtIface(names, names[2*ifNameSize:], true, inv&iptInvIn != 0)
	t.xtIface(names[ifNameSize:], names[3*ifNameSize:], false, inv&iptInvOut != 0)
	if proto != 0 {
		t.protocol(uint8(proto), operator(inv&iptInvProto != 0))
	}
}

func (t *terms) xtAddress(addr, mask []byte, source, not bool) {
	bits, ok := prefixLen(mask)
	if bits == 0 && ok && !not {
		return
	}
	a, _ := netip.AddrFromSlice(addr)
	t.opaque = t.opaque || !ok
	t.address(netip.PrefixFrom(a, bits), source, operator(not))
}

func (t *terms) xtIface(name, mask []byte, in, not bool) {
	if mask[0] == 0 {
		return
	}
	n := bytes.IndexByte(mask[:ifNameSize], 0) // the mask covers the end of a whole name
	if n < 0 {
		n = ifNameSize
	}
	whole := n == ifNameSize || name[n-1] == 0
	t.iface(in, operator(not), quoted(name[:n], whole))
}
