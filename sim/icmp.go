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
// errors about other flows, and discovery. It reports false for the rest
// (nf_conntrack_icmpv4_error, nf_conntrack_icmpv6_error).
func (t *Table) icmpControl(p *Packet, f *Flight) (done bool) {
	v6 := !p.Tuple.Src.Is4()
	if v6 != (p.Tuple.Proto == ct.ICMPv6) {
		return false
	}
	typ := p.Tuple.ICMPType
	switch {
	case t.badL4(p), !v6 && typ > icmpHighestType:
		t.badICMP(f)
	case !v6:
		if !icmpError(typ) {
			return false
		}
		t.relate(p, f)
	case icmp6Untracked(typ):
		f.verdict = Untracked
	case typ == icmp6Redirect && t.rules.icmp6Reroute && p.Tuple.ICMPCode == 0, typ < 128:
		t.relate(p, f)
	default:
		return false
	}
	return true
}

func (t *Table) badICMP(f *Flight) {
	t.counters.Error++
	f.verdict = Invalid
}

// relate finds the flow that the packet inside an error belongs to
// (nf_conntrack_inet_error). The error must go to where the inner packet came
// from, or it is none.
func (t *Table) relate(p *Packet, f *Flight) {
	link, ok := t.innerLink(p)
	if !ok {
		t.badICMP(f)
		return
	}
	if t.nat.on && p.Flags&FlagBadChecksum != 0 {
		// Translating an error needs its checksum right, whatever the knob says
		// (nf_nat_icmp_reply_translation).
		f.verdict = Lost
		return
	}
	f.info, f.reply, f.entry = InfoRelated, link&1 == reply, link>>1
}

func (t *Table) innerLink(p *Packet) (link int32, ok bool) {
	if !p.Inner.IsValid() {
		return 0, false
	}
	z := zones(p)
	var inner key
	t.pack(&inner, &p.Inner, z.orig)
	k, ok := inner.invert()
	if !ok {
		return 0, false
	}
	if link = t.lookup(&k, t.hash(&k), z.reply); link == 0 {
		return 0, false
	}
	return link, t.key(&t.entries[link>>1], int(link&1)).dst == packAddr(p.Tuple.Dst)
}

// icmpPacket tracks requests and their answers: no states, one timeout, never
// assured.
func (t *Table) icmpPacket(e *entry) outcome {
	p := e.proto()
	if (p == ct.ICMPv6) != e.isIPv6() {
		return invalid
	}
	if !icmpOpens(p, uint8(t.key(e, orig).ports>>8)) {
		return invalid
	}
	timeout := ct.TimeoutICMP
	if p == ct.ICMPv6 {
		timeout = ct.TimeoutICMPv6
	}
	t.refresh(e, t.timeouts[timeout])
	return accept
}

// icmpOpens reports whether a type may open a flow.
func icmpOpens(p ct.Proto, typ uint8) bool {
	if p == ct.ICMP {
		return typ == 8 || typ == 13 || typ == 15 || typ == 17
	}
	return typ == 128 || typ == 139
}
