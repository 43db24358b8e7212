package sim

import "github.com/ctwarden/ctwarden/ct"

// SCTP chunk types.
const (
	sctpInit             = 1
	sctpInitAck          = 2
	sctpHeartbeat        = 4
	sctpHeartbeatAck     = 5
	sctpAbort            = 6
	sctpShutdown         = 7
	sctpShutdownAck      = 8
	sctpError            = 9
	sctpCookieEcho       = 10
	sctpCookieAck        = 11
	sctpShutdownComplete = 14
	sctpData             = 0
)

// sctpRow finds a chunk type's row in the transition table.
var sctpRow = [...]uint8{
	sctpInit: 1, sctpInitAck: 2, sctpAbort: 3, sctpShutdown: 4, sctpShutdownAck: 5,
	sctpError: 6, sctpCookieEcho: 7, sctpCookieAck: 8, sctpShutdownComplete: 9,
	sctpHeartbeat: 10, sctpHeartbeatAck: 11,
}

const (
	sCL = uint8(ct.SCTPClosed)
	sCW = uint8(ct.SCTPCookieWait)
	sCE = uint8(ct.SCTPCookieEchoed)
	sES = uint8(ct.SCTPEstablished)
	sSS = uint8(ct.SCTPShutdownSent)
	sSR = uint8(ct.SCTPShutdownRecd)
	sSA = uint8(ct.SCTPShutdownAckSent)
	sHS = uint8(ct.SCTPHeartbeatSent)
	sHA = uint8(ct.SCTPHeartbeatAcked)
	sIV = uint8(ct.NumSCTPStates)
)

type sctpTable [2][11][ct.NumSCTPStates]uint8

// sctpNext are the transition tables (sctp_conntracks): by direction, chunk
// (INIT, INIT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO,
// COOKIE_ACK, SHUTDOWN_COMPLETE, HEARTBEAT, HEARTBEAT_ACK) and state (NONE,
// CLOSED, COOKIE_WAIT, COOKIE_ECHOED, ESTABLISHED, SHUTDOWN_SENT,
// SHUTDOWN_RECD, SHUTDOWN_ACK_SENT, HEARTBEAT_SENT, HEARTBEAT_ACKED).
var sctpNext = [2]sctpTable{
	sctpHeartbeatAcked: {{
		{sCW, sCW, sCW, sCE, sES, sSS, sSR, sSA, sCW, sHA},
		{sCL, sCL, sCW, sCE, sES, sSS, sSR, sSA, sCL, sHA},
		{sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL},
		{sCL, sCL, sCW, sCE, sSS, sSS, sSR, sSA, sCL, sSS},
		{sSA, sCL, sCW, sCE, sES, sSA, sSA, sSA, sSA, sHA},
		{sCL, sCL, sCW, sCE, sES, sSS, sSR, sSA, sCL, sHA},
		{sCL, sCL, sCE, sCE, sES, sSS, sSR, sSA, sCL, sHA},
		{sCL, sCL, sCW, sCE, sES, sSS, sSR, sSA, sCL, sHA},
		{sCL, sCL, sCW, sCE, sES, sSS, sSR, sCL, sCL, sHA},
		{sHS, sCL, sCW, sCE, sES, sSS, sSR, sSA, sHS, sHA},
		{sCL, sCL, sCW, sCE, sES, sSS, sSR, sSA, sHS, sHA},
	}, {
		{sIV, sCL, sCW, sCE, sES, sSS, sSR, sSA, sIV, sHA},
		{sIV, sCL, sCW, sCE, sES, sSS, sSR, sSA, sIV, sHA},
		{sIV, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sIV, sCL},
		{sIV, sCL, sCW, sCE, sSR, sSS, sSR, sSA, sIV, sSR},
		{sIV, sCL, sCW, sCE, sES, sSA, sSA, sSA, sIV, sHA},
		{sIV, sCL, sCW, sCL, sES, sSS, sSR, sSA, sIV, sHA},
		{sIV, sCL, sCW, sCE, sES, sSS, sSR, sSA, sIV, sHA},
		{sIV, sCL, sCW, sES, sES, sSS, sSR, sSA, sIV, sHA},
		{sIV, sCL, sCW, sCE, sES, sSS, sSR, sCL, sIV, sHA},
		{sIV, sCL, sCW, sCE, sES, sSS, sSR, sSA, sHS, sHA},
		{sIV, sCL, sCW, sCE, sES, sSS, sSR, sSA, sHA, sHA},
	}},
	sctpPaths: {{
		{sCL, sCL, sCW, sCE, sES, sCL, sCL, sSA, sCW},
		{sCL, sCL, sCW, sCE, sES, sSS, sSR, sSA, sCL},
		{sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL},
		{sCL, sCL, sCW, sCE, sSS, sSS, sSR, sSA, sCL},
		{sSA, sCL, sCW, sCE, sES, sSA, sSA, sSA, sSA},
		{sCL, sCL, sCW, sCE, sES, sSS, sSR, sSA, sCL},
		{sCL, sCL, sCE, sCE, sES, sSS, sSR, sSA, sCL},
		{sCL, sCL, sCW, sES, sES, sSS, sSR, sSA, sCL},
		{sCL, sCL, sCW, sCE, sES, sSS, sSR, sCL, sCL},
		{sHS, sCL, sCW, sCE, sES, sSS, sSR, sSA, sHS},
		{sCL, sCL, sCW, sCE, sES, sSS, sSR, sSA, sHS},
	}, {
		{sIV, sCL, sCW, sCE, sES, sSS, sSR, sSA, sIV},
		{sIV, sCW, sCW, sCE, sES, sSS, sSR, sSA, sIV},
		{sIV, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sIV},
		{sIV, sCL, sCW, sCE, sSR, sSS, sSR, sSA, sIV},
		{sIV, sCL, sCW, sCE, sES, sSA, sSA, sSA, sIV},
		{sIV, sCL, sCW, sCL, sES, sSS, sSR, sSA, sIV},
		{sIV, sCL, sCE, sCE, sES, sSS, sSR, sSA, sIV},
		{sIV, sCL, sCW, sES, sES, sSS, sSR, sSA, sIV},
		{sIV, sCL, sCW, sCE, sES, sSS, sSR, sCL, sIV},
		{sIV, sCL, sCW, sCE, sES, sSS, sSR, sSA, sHS},
		{sIV, sCL, sCW, sCE, sES, sSS, sSR, sSA, sES},
	}},
}

// SCTP keeps verification tags and the INITs seen, by direction.
func (k *track) vtag(dir int) uint32         { return k.seen[dir].end }
func (k *track) setVTag(dir int, tag uint32) { k.seen[dir].end = tag }
func (k *track) init(dir int) bool           { return k.seen[dir].flags != 0 }
func (k *track) setInit(dir int, on bool)    { k.seen[dir].flags = uint8(b2i(on)) }

// sctpProbing, in lastFlags: a heartbeat came with an unknown tag.
const sctpProbing = 1

// sctpChunks is the set of chunk types in a packet.
type sctpChunks [4]uint64

func (m *sctpChunks) add(typ uint8) { m[typ>>6] |= 1 << (typ & 63) }

func (m *sctpChunks) any(types ...uint8) bool {
	for _, typ := range types {
		if m[typ>>6]&(1<<(typ&63)) != 0 {
			return true
		}
	}
	return false
}

// sctpShape checks which chunks stand together (do_basic_checks).
func sctpShape(p *SCTPPacket) (m sctpChunks, ok bool) {
	alone := false
	for i := range p.Chunks {
		c := &p.Chunks[i]
		if c.Type == sctpInit || c.Type == sctpInitAck || c.Type == sctpShutdownComplete {
			alone = true
		}
		cookie := c.Type == sctpCookieAck || c.Type == sctpCookieEcho
		if (cookie || alone) && i != 0 || c.Length == 0 {
			return m, false
		}
		m.add(c.Type)
	}
	return m, len(p.Chunks) > 0
}

// sctpPacket tracks SCTP (nf_conntrack_sctp_packet).
func (t *Table) sctpPacket(e *entry, k *track, dir int, p *Packet) outcome {
	s := &p.SCTP
	if t.badL4(p) {
		return invalid
	}
	kinds, ok := sctpShape(s)
	if !ok {
		return invalid
	}
	if !e.has(ct.StatusConfirmed) {
		if kinds.any(sctpAbort, sctpShutdownComplete, sctpCookieAck) || !t.sctpNew(e, k, s) {
			return invalid
		}
	}
	ownCheck := kinds.any(sctpInit, sctpShutdownComplete, sctpCookieEcho, sctpAbort,
		sctpShutdownAck, sctpHeartbeat, sctpHeartbeatAck)
	if !ownCheck && s.VTag != k.vtag(dir) {
		return invalid
	}
	c := sctpWalk{t: t, e: e, k: k, dir: dir, vtag: s.VTag, data: kinds.any(sctpData)}
	for i := range s.Chunks {
		if !c.chunk(&s.Chunks[i]) {
			return invalid
		}
	}
	if c.keep {
		return ignored
	}
	t.refresh(e, t.sctpTimeout(c.to))
	if t.rules.sctp == sctpHeartbeatAcked && c.was == sCE && dir == reply && c.to == sES {
		e.set(ct.StatusAssured)
	}
	return accept
}

func (t *Table) sctpTimeout(s uint8) uint32 {
	if k, ok := ct.StateTimeout(ct.SCTP, ct.State(s), 0); ok {
		return t.timeouts[k]
	}
	return t.timeouts[ct.TimeoutSCTPClosed] // of state NONE, which only data can leave unchanged
}

// sctpNew starts the memory of a flow from its first packet (sctp_new).
func (t *Table) sctpNew(e *entry, k *track, p *SCTPPacket) bool {
	*k = track{}
	e.state = uint8(ct.SCTPNone)
	for i := range p.Chunks {
		c := &p.Chunks[i]
		to := t.sctpMove(orig, uint8(ct.SCTPNone), c.Type)
		if to == sIV || to == uint8(ct.SCTPNone) {
			return false
		}
		switch {
		case c.Type == sctpInit:
			if p.VTag != 0 || c.Short {
				return false
			}
			k.setVTag(reply, c.InitTag)
		case c.Type == sctpHeartbeat:
			k.setVTag(orig, p.VTag)
		case c.Type == sctpShutdownAck || t.rules.sctp == sctpHeartbeatAcked:
			k.setVTag(reply, p.VTag)
		}
		if t.rules.sctp == sctpHeartbeatAcked {
			e.state = to
		}
	}
	return true
}

func (t *Table) sctpMove(dir int, from, typ uint8) uint8 {
	if int(typ) >= len(sctpRow) || sctpRow[typ] == 0 {
		return from
	}
	t.observe(ct.SCTP, dir, sctpRow[typ]-1, from)
	return sctpNext[t.rules.sctp][dir][sctpRow[typ]-1][from]
}

// sctpWalk goes over the chunks of one packet.
type sctpWalk struct {
	t       *Table
	e       *entry
	k       *track
	dir     int
	vtag    uint32
	data    bool // the packet carries data
	keep    bool // accept without a new timeout
	was, to uint8
}

// chunk applies one chunk; false means that the packet is invalid.
func (c *sctpWalk) chunk(ch *SCTPChunk) bool {
	ok, skip := c.tagOK(ch)
	if !ok || skip {
		return ok
	}
	c.was = c.e.state
	c.to = c.t.sctpMove(c.dir, c.was, ch.Type)
	if c.to == sIV || !c.learnTag(ch) {
		return false
	}
	c.e.state = c.to
	if c.t.rules.sctp == sctpPaths && c.was != c.to && c.to == sES {
		c.e.set(ct.StatusAssured)
	}
	return true
}

// tagOK checks the verification tag by the chunk's own rule (RFC 9260, 8.5.1).
// skip means that the chunk changes nothing.
func (c *sctpWalk) tagOK(ch *SCTPChunk) (ok, skip bool) {
	k := c.k
	own, peer := k.vtag(c.dir), k.vtag(1-c.dir)
	old := c.t.rules.sctp == sctpHeartbeatAcked
	reflected := ch.Flags&1 != 0
	switch ch.Type {
	case sctpInit:
		return c.vtag == 0, false
	case sctpAbort:
		if old {
			return c.vtag == own || c.vtag == peer, false
		}
		return !reflected && c.vtag == own || reflected && c.vtag == peer, false
	case sctpShutdownComplete:
		if old {
			return c.vtag == own || c.vtag == peer || !reflected, false
		}
		return !reflected && c.vtag == own || reflected && c.vtag == peer, false
	case sctpCookieEcho:
		return c.vtag == own, false
	case sctpCookieAck:
		if !old {
			k.setInit(orig, false)
			k.setInit(reply, false)
		}
	case sctpHeartbeat, sctpHeartbeatAck:
		if own == 0 {
			k.setVTag(c.dir, c.vtag)
			return true, false
		}
		if old {
			return c.vtag == own, false
		}
		return c.probe(ch.Type)
	}
	return true, false
}

// probe deals with heartbeats of a path on which one side has changed its tag:
// the heartbeat is let through, and if it is answered from the other side, the
// new tag counts.
func (c *sctpWalk) probe(typ uint8) (ok, skip bool) {
	k := c.k
	if c.vtag == k.vtag(c.dir) {
		k.lastFlags &^= sctpProbing
		return true, false
	}
	if c.data || c.keep {
		return false, false
	}
	if typ == sctpHeartbeat {
		k.lastFlags |= sctpProbing
		k.lastDir = uint8(c.dir)
		c.keep = true
		return true, true
	}
	if k.lastFlags&sctpProbing == 0 || int(k.lastDir) == c.dir {
		return false, false
	}
	k.lastFlags &^= sctpProbing
	k.setVTag(c.dir, c.vtag)
	k.setVTag(1-c.dir, 0)
	return true, false
}

// learnTag notes the tag that an INIT or INIT_ACK announces.
func (c *sctpWalk) learnTag(ch *SCTPChunk) bool {
	if ch.Type != sctpInit && ch.Type != sctpInitAck {
		return true
	}
	if ch.Short {
		return false
	}
	k, other := c.k, 1-c.dir
	if c.t.rules.sctp == sctpPaths {
		if ch.Type == sctpInit {
			c.noteInit(k, ch.InitTag)
			if c.was == sCL && c.to == sCL && c.e.has(ct.StatusConfirmed) {
				c.keep = true // a repeated INIT does not refresh
			}
		} else {
			tag := k.vtag(other)
			if !k.init(other) && tag != 0 && tag != ch.InitTag {
				return false
			}
			if k.init(c.dir) && k.init(other) && tag != ch.InitTag {
				return false // both sides began, and this answers neither
			}
		}
	}
	k.setVTag(other, ch.InitTag)
	return true
}

// noteInit remembers that a side began. From 6.18.44 on, an INIT that announces
// the tag that is known already is a repetition and changes nothing.
func (c *sctpWalk) noteInit(k *track, tag uint32) {
	other := 1 - c.dir
	if c.t.rules.sctpRepeatedInit && c.e.has(ct.StatusConfirmed) && k.vtag(other) == tag {
		return
	}
	if k.init(c.dir) && k.init(other) {
		k.setInit(other, false)
	}
	k.setInit(c.dir, true)
}
