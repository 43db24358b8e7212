package sim

type windowResult uint8

const (
	windowAccept  windowResult = iota
	windowIgnore               // let through, nothing learnt
	windowInvalid              // outside
)

// maxAckWindow is how far an acknowledgement may lag behind at least
// (MAXACKWINCONST).
const maxAckWindow = 66000

// tcpInWindow checks a segment against what both sides allow, and learns from
// it (tcp_in_window; after van Rooij, "Real stateful TCP packet filtering in IP
// Filter"). The four bounds, with S the sender and R the receiver:
//
//	seq       ≤ S.maxEnd                    within R's window
//	seq+len   > S.end − R.maxWin            not too old
//	ack/sack  ≤ R.end                       of data that was seen
//	ack/sack  > R.end − max(S.maxWin,66000) not too late
func (t *Table) tcpInWindow(e *entry, k *track, dir int, kind tcpKind, p *Segment) windowResult {
	s, r := &k.seen[dir], &k.seen[1-dir]
	seq, ack, win, end := p.Seq, p.Ack, uint32(p.Window), p.End()
	sack := ack
	if r.flags&tcpSACKPerm != 0 && p.Options.HasSACK {
		sack = p.Options.SACK
	}
	syn := p.Flags&TCPSyn != 0

	if t.tcpLearnFirst(e, k, dir, p, sack, end) {
		return windowAccept
	}
	if p.Flags&TCPAck == 0 || p.Flags&TCPRst != 0 && ack == 0 {
		// Nothing is acknowledged, or a broken stack resets with ACK 0.
		ack, sack = r.end, r.end
	}
	if p.Flags&TCPRst != 0 && seq == 0 && e.state == ss {
		seq, end = s.end, s.end // RST answering a SYN
	}
	if res := t.tcpBounds(s, r, seq, sack, end); res != windowAccept {
		if s.flags&tcpLiberal != 0 || t.knobs.TCPBeLiberal {
			return windowAccept
		}
		if !t.rules.windowIgnore {
			return windowInvalid
		}
		return res
	}

	if !syn {
		win <<= s.scale
	}
	s.maxWin = max(s.maxWin, win+(sack-ack))
	if after(end, s.end) {
		s.end = end
		s.flags |= tcpUnacked
	}
	if p.Flags&TCPAck != 0 && (s.flags&tcpMaxAckSet == 0 || after(ack, s.maxAck)) {
		s.maxAck = ack
		s.flags |= tcpMaxAckSet
	}
	if r.maxWin != 0 && after(end, s.maxEnd) {
		r.maxWin += end - s.maxEnd
	}
	if after(sack+win, r.maxEnd-1) {
		r.maxEnd = sack + win
		if win == 0 {
			r.maxEnd++
		}
	}
	if ack == r.end {
		r.flags &^= tcpUnacked
	}
	if kind == kindAck {
		k.countRepeat(dir, seq, ack, end, p.Window)
	}
	return windowAccept
}

// countRepeat counts identical acknowledgements, which are retransmissions.
func (k *track) countRepeat(dir int, seq, ack, end uint32, win uint16) {
	if int(k.lastDir) == dir && k.lastSeq == seq && k.lastAck == ack &&
		k.lastEnd == end && k.lastWin == win {
		k.retrans++
		return
	}
	k.lastDir, k.lastSeq, k.lastAck, k.lastEnd, k.lastWin = uint8(dir), seq, ack, end, win
	k.retrans = 0
}

// tcpLearnFirst starts a side from its first segment, or afresh from a newer
// SYN. It reports whether the segment needs no check.
func (t *Table) tcpLearnFirst(e *entry, k *track, dir int, p *Segment, sack, end uint32) (done bool) {
	s, r := &k.seen[dir], &k.seen[1-dir]
	syn, bare := p.Flags&TCPSyn != 0, p.Flags&TCPAck == 0
	switch {
	case s.maxWin == 0 && syn:
		t.tcpInitSide(s, r, dir, p, end)
		return bare
	case s.maxWin == 0:
		s.end = end
		s.maxWin = max(uint32(p.Window)<<s.scale, 1)
		s.maxEnd = end + s.maxWin
		if r.maxWin == 0 {
			r.end, r.maxEnd = sack, sack
		} else if sack == r.end+1 {
			r.end++ // probably the answer to a keepalive
		}
	case !after(end, s.end):
	case t.rules.reinitSyn:
		if syn && (e.state == ss || e.state == sr) {
			t.tcpInitSide(s, r, dir, p, end)
			return dir == reply && bare
		}
	case e.state == ss && dir == orig || e.state == sr && dir == reply:
		s.end, s.maxEnd = end, end
		s.maxWin = max(uint32(p.Window), 1)
		t.tcpOptions(s, &p.Options)
	}
	return false
}

// tcpInitSide starts a side from its SYN (tcp_init_sender). Scaling counts only
// where both sides offer it (RFC 7323).
func (t *Table) tcpInitSide(s, r *tcpSide, dir int, p *Segment, end uint32) {
	s.end, s.maxEnd = end, end
	s.maxWin = max(uint32(p.Window), 1)
	t.tcpOptions(s, &p.Options)
	if (dir == reply || !t.rules.reinitSyn) && s.flags&r.flags&tcpWindowScale == 0 {
		s.scale, r.scale = 0, 0
	}
}

// tcpBounds applies the four bounds.
func (t *Table) tcpBounds(s, r *tcpSide, seq, sack, end uint32) windowResult {
	ackFloor := r.end - max(s.maxWin, maxAckWindow) - 1
	recent := after(end, s.end-r.maxWin-1)
	if !before(seq, s.maxEnd+1+t.rules.windowSlack) {
		overshoot := end - s.maxEnd + 1
		if r.maxWin == 0 || !recent || !after(sack, ackFloor) ||
			overshoot > r.maxWin || !before(sack, r.end+1) {
			return windowInvalid
		}
		// Some stacks send a little more than allowed. The segment teaches
		// nothing, except that its acknowledgement will be in order.
		if t.rules.windowIgnore {
			s.end = end
			s.flags |= tcpUnacked
		}
		return windowIgnore
	}
	switch {
	case !before(sack, r.end+1):
		return windowInvalid
	case r.maxWin != 0 && !recent, !after(sack, ackFloor):
		return windowIgnore
	}
	return windowAccept
}
