package sim

import "github.com/ctwarden/ctwarden/ct"

const (
	icmpHighestType = 18 // NR_ICMP_TYPES
	icmp6Redirect   = 137
)

// icmpError reports whether an ICMP type speaks of another packet.
func icmpError(typ uint8) bool {
	switch typ {
	case 3, 4, 5, 11, 12:
		return true
	}
	return false
}

// icmp6Untracked reports whether an ICMPv6 type belongs to neighbour, multicast
// listener or multicast router discovery, which is never tracked.
func icmp6Untracked(typ uint8) bool {
	return typ >= 130 && typ <= 136 || typ == 143 || typ == 151 || typ == 152
}

// icmpControl deals with the ICMP packets that have no flow of their own:
// errors about other flows, and discovery. done is false for the rest
// (nf_conntrack_icmpv4_error, nf_conntrack_icmpv6_error).
func (t *Table) icmpControl(p *Packet) (f Flight, done bool) {
	v6 := !p.Tuple.Src.Is4()
	if v6 != (p.Tuple.Proto == ct.ICMPv6) {
		return Flight{}, false
	}
	if t.badL4(p) {
		return t.badICMP(), true
	}
	typ := p.Tuple.ICMPType
	if !v6 {
		if typ > icmpHighestType {
			return t.badICMP(), true
		}
		if !icmpError(typ) {
			return Flight{}, false
		}
		return t.relate(p), true
	}
	switch {
	case icmp6Untracked(typ):
		return Flight{verdict: Untracked}, true
	case typ == icmp6Redirect && t.rules.icmp6Reroute && p.Tuple.ICMPCode == 0:
		return t.relate(p), true
	case typ >= 128:
		return Flight{}, false
	}
	return t.relate(p), true
}

func (t *Table) badICMP() Flight {
	t.counters.Error++
	return Flight{verdict: Invalid}
}

// relate finds the flow that the packet inside an error belongs to
// (nf_conntrack_inet_error). The error must go to where the inner packet came
// from, or it is none.
func (t *Table) relate(p *Packet) Flight {
	if !p.Inner.IsValid() {
		return t.badICMP()
	}
	z := zones(p)
	var inner key
	t.pack(&inner, &p.Inner, z.orig)
	k, ok := inner.invert()
	if !ok {
		return t.badICMP()
	}
	link := t.lookup(&k, t.hash(&k), z.reply)
	if link == 0 {
		return t.badICMP()
	}
	e := &t.entries[link>>1]
	if t.key(e, int(link&1)).dst != packAddr(p.Tuple.Dst) {
		return t.badICMP()
	}
	if t.nat.on && p.Flags&FlagBadChecksum != 0 {
		// Translating an error needs its checksum right, whatever the knob says
		// (nf_nat_icmp_reply_translation).
		return Flight{verdict: Lost}
	}
	return Flight{info: InfoRelated, reply: link&1 == reply, entry: link >> 1}
}

// icmpPacket tracks requests and their answers: no states, one timeout, never
// assured.
func (t *Table) icmpPacket(e *entry) outcome {
	p := e.proto()
	if (p == ct.ICMPv6) != e.isIPv6() {
		return invalid
	}
	if !icmpOpens(p, uint8(e.ports>>8)) {
		return invalid
	}
	timeout := ct.TimeoutICMP
	if p == ct.ICMPv6 {
		timeout = ct.TimeoutICMPv6
	}
	e.refresh(t.jiffies, t.timeouts[timeout])
	return accept
}

// icmpOpens reports whether a type may open a flow.
func icmpOpens(p ct.Proto, typ uint8) bool {
	if p == ct.ICMP {
		return typ == 8 || typ == 13 || typ == 15 || typ == 17
	}
	return typ == 128 || typ == 139
}
