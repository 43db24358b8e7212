package sim

import "github.com/ctwarden/ctwarden/ct"

// tcpKind is what the transition table knows of a segment's flags, enum
// tcp_bit_set. The first that applies counts: RST, SYN/ACK, SYN, FIN, ACK.
type tcpKind uint8

const (
	kindSyn tcpKind = iota
	kindSynAck
	kindFin
	kindAck
	kindRst
	kindNone
	numTCPKinds
)

// tcpKinds are the kinds by flags.
var tcpKinds = func() (kinds [256]tcpKind) {
	for flags := range kinds {
		switch {
		case flags&TCPRst != 0:
			kinds[flags] = kindRst
		case flags&(TCPSyn|TCPAck) == TCPSyn|TCPAck:
			kinds[flags] = kindSynAck
		case flags&TCPSyn != 0:
			kinds[flags] = kindSyn
		case flags&TCPFin != 0:
			kinds[flags] = kindFin
		case flags&TCPAck != 0:
			kinds[flags] = kindAck
		default:
			kinds[flags] = kindNone
		}
	}
	return kinds
}()

// Flags of one side, as ctnetlink shows them (IP_CT_TCP_FLAG_*).
const (
	tcpWindowScale = 1 << iota
	tcpSACKPerm
	tcpCloseInit // this side sent the first FIN
	tcpLiberal   // no window check: the flow was picked up
	tcpUnacked   // data of this side waits for an acknowledgement
	tcpMaxAckSet
	tcpChallengeAck // lastFlags only: an answer to an ignored SYN may come
	tcpSimultaneous // lastFlags only: both sides sent a SYN
)

// Targets of the transition table besides states.
const (
	tcpInvalid = 0xfe
	tcpIgnore  = 0xff
)

// tcpTable has room for more kinds and states than there are, so that indices need
// no check.
type tcpTable [2][8][16]uint8

// tcpNext is the transition table of 3.19 and later, tcp_conntracks: by
// direction, kind of segment and state (NONE, SYN_SENT, SYN_RECV, ESTABLISHED,
// FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE, SYN_SENT2).
var tcpNext = tcpTable{
	{
		kindSyn:    {ss, ss, ig, ig, ig, ig, ig, ss, ss, s2},
		kindSynAck: {iv, iv, sr, iv, iv, iv, iv, iv, iv, sr},
		kindFin:    {iv, iv, fw, fw, la, la, la, tw, cl, iv},
		kindAck:    {es, iv, es, es, cw, cw, tw, tw, cl, iv},
		kindRst:    {iv, cl, cl, cl, cl, cl, cl, cl, cl, cl},
		kindNone:   {iv, iv, iv, iv, iv, iv, iv, iv, iv, iv},
	},
	{
		kindSyn:    {iv, s2, iv, iv, iv, iv, iv, ss, iv, s2},
		kindSynAck: {iv, sr, ig, ig, ig, ig, ig, ig, ig, sr},
		kindFin:    {iv, iv, fw, fw, la, la, la, tw, cl, iv},
		kindAck:    {iv, ig, sr, es, cw, cw, tw, tw, cl, ig},
		kindRst:    {iv, cl, cl, cl, cl, cl, cl, cl, cl, cl},
		kindNone:   {iv, iv, iv, iv, iv, iv, iv, iv, iv, iv},
	},
}

const (
	ss = uint8(ct.TCPSynSent)
	sr = uint8(ct.TCPSynRecv)
	es = uint8(ct.TCPEstablished)
	fw = uint8(ct.TCPFinWait)
	cw = uint8(ct.TCPCloseWait)
	la = uint8(ct.TCPLastAck)
	tw = uint8(ct.TCPTimeWait)
	cl = uint8(ct.TCPClose)
	s2 = uint8(ct.TCPSynSent2)
	iv = uint8(tcpInvalid)
	ig = uint8(tcpIgnore)
)

// The TCP timeouts by state, then the two caps.
const (
	tcpTimeoutRetrans = int(ct.NumTCPStates) + iota
	tcpTimeoutUnack
	numTCPTimeouts
)

func (t *Table) setTCPTimeouts() {
	for s := range ct.NumTCPStates {
		if k, ok := ct.StateTimeout(ct.TCP, s, 0); ok {
			t.tcpTimeouts[s] = t.timeouts[k]
		}
	}
	t.tcpTimeouts[ct.TCPSynSent2] = t.seconds(120)
	t.tcpTimeouts[tcpTimeoutRetrans] = t.timeouts[ct.TimeoutTCPMaxRetrans]
	t.tcpTimeouts[tcpTimeoutUnack] = t.timeouts[ct.TimeoutTCPUnacknowledged]
}

// tcpFlagsValid tells which combinations of flags the kernel tracks at all; PSH,
// ECE and CWR do not matter.
var tcpFlagsValid = func() (valid [256]bool) {
	for flags := range valid {
		switch flags &^ (TCPPsh | TCPEce | TCPCwr) {
		case TCPSyn, TCPSyn | TCPUrg, TCPSyn | TCPAck, TCPRst, TCPRst | TCPAck,
			TCPFin | TCPAck, TCPFin | TCPAck | TCPUrg, TCPAck, TCPAck | TCPUrg:
			valid[flags] = true
		}
	}
	return valid
}()

// tcpClosing reports whether a state is past the first FIN or a reset
// (tcp_can_early_drop).
func tcpClosing(s ct.State) bool { return s >= ct.TCPFinWait && s <= ct.TCPClose }

// tcpSettled reports whether the handshake is done and seen from both sides
// (nf_conntrack_tcp_established).
func tcpSettled(e *entry) bool {
	return e.state == es && e.has(ct.StatusAssured)
}

// tcpPacket tracks TCP (nf_conntrack_tcp_packet).
func (t *Table) tcpPacket(e *entry, k *track, dir int, p *Packet) outcome {
	s := &p.TCP
	if t.badL4(p) || !tcpFlagsValid[s.Flags] {
		return invalid
	}
	if !e.has(ct.StatusConfirmed) && !t.tcpNew(e, k, s) {
		return invalid
	}
	kind := tcpKinds[s.Flags]
	was := e.state
	t.observe(ct.TCP, dir, uint8(kind), was)
	to := t.rules.tcp[dir&1][kind&7][was&15]
	check := true
	switch to {
	case ss:
		if was < tw {
			break
		}
		if (k.seen[0].flags|k.seen[1].flags)&tcpCloseInit != 0 ||
			int(k.lastDir) == dir && k.lastKind == kindRst {
			return repeat
		}
		fallthrough
	case tcpIgnore:
		if !t.tcpResync(k, kind, dir, s) {
			t.tcpRemember(k, was, kind, dir, s)
			return ignored
		}
		was, to = ss, sr
	case tcpInvalid:
		return invalid
	case tw:
		if was == la && kind == kindAck && int(k.lastDir) != dir &&
			k.lastKind == kindSyn && k.lastFlags&tcpChallengeAck != 0 {
			k.lastFlags &^= tcpChallengeAck
			return ignored
		}
	case s2:
		k.lastFlags |= tcpSimultaneous
	case sr:
		if dir == reply && kind == kindAck && k.lastFlags&tcpSimultaneous != 0 {
			to = es
		}
	case cl:
		if kind == kindRst {
			var out outcome
			if to, check, out = t.tcpReset(e, k, dir, s, to); out == invalid {
				return invalid
			}
		}
	}
	if check {
		switch t.tcpInWindow(e, k, dir, kind, s) {
		case windowIgnore:
			return ignored
		case windowInvalid:
			t.tcpCutInvalid(e, k, dir, kind)
			return invalid
		}
	}
	return t.tcpAccepted(e, k, dir, kind, was, to)
}

// tcpNew starts the memory of a new flow from its first segment (tcp_new).
func (t *Table) tcpNew(e *entry, k *track, s *Segment) bool {
	*k = track{lastKind: kindNone}
	e.state = uint8(ct.TCPNone)
	kind := tcpKinds[s.Flags]
	to := t.rules.tcp[orig][kind][ct.TCPNone]
	if to == tcpInvalid || to != ss && !t.knobs.TCPLoose {
		t.observe(ct.TCP, orig, uint8(kind), uint8(ct.TCPNone))
		return false
	}
	first := &k.seen[orig]
	first.end = s.End()
	first.maxWin = max(uint32(s.Window), 1)
	first.maxEnd = first.end
	if to == ss {
		t.tcpOptions(first, &s.Options)
		return true
	}
	// The history is lost. Scaling is unknown, so no window is checked.
	first.maxEnd += first.maxWin
	k.seen[orig].flags = tcpSACKPerm | tcpLiberal
	k.seen[reply].flags = tcpSACKPerm | tcpLiberal
	return true
}

// tcpOptions takes over scale and SACK from a SYN. Without options the side
// keeps what it had.
func (t *Table) tcpOptions(s *tcpSide, o *TCPOptions) {
	if !o.Present {
		return
	}
	s.scale = 0
	if t.rules.keepLiberal {
		s.flags &= tcpLiberal
	} else {
		s.flags = 0
	}
	if o.SACKPerm {
		s.flags |= tcpSACKPerm
	}
	if o.HasWScale {
		s.flags |= tcpWindowScale
		s.scale = min(o.WScale, tcpMaxWScale)
	}
}

// tcpResync answers whether a segment is the SYN/ACK to a SYN that was ignored
// before. If so, the two hosts agree and the entry was wrong: it takes up the
// remembered SYN.
func (t *Table) tcpResync(k *track, kind tcpKind, dir int, s *Segment) bool {
	if kind != kindSynAck || k.lastKind != kindSyn || int(k.lastDir) == dir || s.Ack != k.lastEnd {
		return false
	}
	other := &k.seen[k.lastDir]
	other.end, other.maxEnd = k.lastEnd, k.lastEnd
	other.maxWin = max(uint32(k.lastWin), 1)
	other.scale = k.lastScale
	k.lastFlags &^= tcpChallengeAck
	other.flags = k.lastFlags
	liberal := k.seen[dir].flags & tcpLiberal
	k.seen[dir] = tcpSide{}
	if t.rules.keepLiberal {
		k.seen[dir].flags = liberal
	}
	return true
}

// tcpRemember notes a segment that is let through without being believed.
func (t *Table) tcpRemember(k *track, was uint8, kind tcpKind, dir int, s *Segment) {
	k.lastKind, k.lastDir = kind, uint8(dir)
	k.lastSeq, k.lastEnd, k.lastWin = s.Seq, s.End(), s.Window
	if kind == kindSyn && dir == orig {
		k.lastFlags, k.lastScale = 0, 0
		if s.Options.HasWScale {
			k.lastFlags |= tcpWindowScale
			k.lastScale = min(s.Options.WScale, tcpMaxWScale)
		}
		if s.Options.SACKPerm {
			k.lastFlags |= tcpSACKPerm
		}
		// In LAST_ACK an ACK means the last FIN's; a challenge ACK
		// (RFC 5961) must not be taken for it.
		if was == la {
			k.lastFlags |= tcpChallengeAck
		}
	}
	if t.rules.challengeRST && was == ss && kind == kindAck && dir == reply {
		k.lastAck = s.Ack
	}
}

// tcpReset decides on an RST whether to believe it, to keep the state because
// the peer may answer with a challenge ACK, or to call it invalid. check is
// false where the window must not be checked.
func (t *Table) tcpReset(e *entry, k *track, dir int, s *Segment, to uint8) (next uint8, check bool, out outcome) {
	if t.rules.rstClosing && tcpClosing(ct.State(e.state)) {
		return to, false, accept
	}
	peer := &k.seen[1-dir]
	if peer.flags&tcpMaxAckSet != 0 && !(t.rules.rstReused && k.lastKind == kindSyn) {
		settled := tcpSettled(e)
		if t.rules.rstReused && s.Seq == 0 && !settled {
			return to, true, accept
		}
		if before(s.Seq, peer.maxAck) && !(t.rules.ignoreInvalidRST && t.knobs.TCPIgnoreInvalidRST) {
			return to, true, invalid
		}
		if !settled || s.Seq == peer.maxAck {
			return to, true, accept
		}
		train := k.lastKind == kindAck && int(k.lastDir) == dir && s.Seq == k.lastEnd
		if train {
			return to, true, accept
		}
		to = e.state
	}
	ignoredSyn := e.has(ct.StatusSeenReply) && k.lastKind == kindSyn
	ignoredAck := !e.has(ct.StatusAssured) && k.lastKind == kindAck
	if t.rules.rstFromPeer && int(k.lastDir) == dir {
		ignoredSyn = false
	}
	if (ignoredSyn || ignoredAck) && s.Ack == k.lastEnd {
		return to, false, accept
	}
	if t.rules.challengeRST && e.state == ss && k.lastKind == kindAck &&
		k.lastDir == reply && s.Seq == k.lastAck {
		return to, false, accept
	}
	return to, true, accept
}

// tcpCutInvalid shortens the life of an assured flow of which both sides sent
// an invalid FIN or RST (nf_tcp_handle_invalid).
func (t *Table) tcpCutInvalid(e *entry, k *track, dir int, kind tcpKind) {
	if !t.rules.cutInvalidClose || !e.has(ct.StatusAssured) || e.has(ct.StatusFixedTimeout) ||
		kind != kindRst && kind != kindFin {
		return
	}
	if int(k.lastDir) == dir || k.lastKind != kindFin && k.lastKind != kindRst {
		k.lastKind, k.lastDir = kind, uint8(dir)
		return
	}
	left := int32(e.deadline - t.jiffies)
	cap := t.tcpTimeouts[tcpTimeoutUnack]
	if left >= 120*int32(t.knobs.HZ) && uint32(left) > cap {
		t.setDeadline(e, cap)
	}
}

// tcpAccepted moves the entry on: state, timeout, ASSURED.
func (t *Table) tcpAccepted(e *entry, k *track, dir int, kind tcpKind, was, to uint8) outcome {
	k.lastKind, k.lastDir = kind, uint8(dir)
	e.state = to
	if was != to && to == fw {
		k.seen[dir].flags |= tcpCloseInit
	}
	timeout := t.tcpTimeout(k, kind, to)
	if !e.has(ct.StatusSeenReply) {
		switch {
		case kind == kindRst:
			return killed
		case t.rules.synRetransmitKeeps && kind == kindSyn && was == ss:
			return ignored
		case to == es:
			timeout = min(timeout, t.tcpTimeouts[tcpTimeoutUnack])
		}
	} else if !e.has(ct.StatusAssured) && (was == sr || was == es) && to == es {
		e.set(ct.StatusAssured)
	}
	t.refresh(e, timeout)
	return accept
}

// tcpTimeout is the state's timeout or the cap that applies first.
func (t *Table) tcpTimeout(k *track, kind tcpKind, to uint8) uint32 {
	full := t.tcpTimeouts[to]
	retrans, unack := t.tcpTimeouts[tcpTimeoutRetrans], t.tcpTimeouts[tcpTimeoutUnack]
	switch {
	case k.retrans >= t.knobs.TCPMaxRetrans+t.rules.retransSlack && full > retrans:
		return retrans
	case kind == kindRst && to != cl && t.rules.rstKeptUnacked:
		return min(full, unack)
	case kind == kindRst:
		return t.tcpTimeouts[cl]
	case (k.seen[0].flags|k.seen[1].flags)&tcpUnacked != 0 && full > unack:
		return unack
	case k.lastWin == 0 && full > retrans:
		return retrans
	}
	return full
}
