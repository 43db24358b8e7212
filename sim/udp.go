package sim

import "github.com/ctwarden/ctwarden/ct"

// udpPacket tracks UDP (nf_conntrack_udp_packet). The stream timeout and
// ASSURED come with two-way traffic; since 5.0 and 5.17 only where the flow has
// lived for two seconds.
func (t *Table) udpPacket(e *entry, k *track, p *Packet) outcome {
	if t.badL4(p) {
		return invalid
	}
	if !e.has(ct.StatusConfirmed) {
		k.setStreamFrom(t.jiffies + 2*uint32(t.knobs.HZ))
	}
	if !e.has(ct.StatusSeenReply) {
		t.refresh(e, t.timeouts[ct.TimeoutUDP])
		return accept
	}
	old := int32(k.streamFrom()-t.jiffies) < 0
	timeout := ct.TimeoutUDP
	if old || !t.rules.udpStreamDelay {
		timeout = ct.TimeoutUDPStream
	}
	t.refresh(e, t.timeouts[timeout])
	if (old || !t.rules.udpAssuredDelay) && !e.has(ct.StatusNATClash) {
		e.set(ct.StatusAssured)
	}
	return accept
}

// udplitePacket tracks UDP-Lite, which has no rule of two seconds.
func (t *Table) udplitePacket(e *entry, p *Packet) outcome {
	if t.badL4(p) {
		return invalid
	}
	if !e.has(ct.StatusSeenReply) {
		t.refresh(e, t.timeouts[ct.TimeoutUDPLite])
		return accept
	}
	t.refresh(e, t.timeouts[ct.TimeoutUDPLiteStream])
	if !e.has(ct.StatusNATClash) {
		e.set(ct.StatusAssured)
	}
	return accept
}

// badL4 reports whether the transport header is unusable. Checksums are
// verified at the first hook of received packets only.
func (t *Table) badL4(p *Packet) bool {
	if p.Flags&(FlagMalformed|FlagBadChecksum) == 0 {
		return false
	}
	return p.Flags&FlagMalformed != 0 || t.knobs.Checksum && p.Hook == HookPrerouting
}

// grePacket tracks GRE (nf_conntrack_gre_packet): the timeouts are copied into
// the entry at its birth, and two-way traffic assures at once.
func (t *Table) grePacket(e *entry, k *track) outcome {
	if !e.has(ct.StatusConfirmed) {
		k.setGRETimeouts(t.timeouts[ct.TimeoutGRE], t.timeouts[ct.TimeoutGREStream])
	}
	plain, stream := k.greTimeouts()
	if !e.has(ct.StatusSeenReply) {
		t.refresh(e, plain)
		return accept
	}
	t.refresh(e, stream)
	if !e.has(ct.StatusNATClash) {
		e.set(ct.StatusAssured)
	}
	return accept
}
