package sim

import "github.com/ctwarden/ctwarden/ct"

// DCCP packet types.
const (
	dccpRequest = iota
	dccpResponse
	dccpData
	dccpAck
	dccpDataAck
	dccpCloseReq
	dccpClose
	dccpReset
	dccpSync
	dccpSyncAck
	numDCCPTypes
)

const (
	dRQ = uint8(ct.DCCPRequest)
	dRS = uint8(ct.DCCPRespond)
	dPO = uint8(ct.DCCPPartOpen)
	dOP = uint8(ct.DCCPOpen)
	dCR = uint8(ct.DCCPCloseReq)
	dCG = uint8(ct.DCCPClosing)
	dTW = uint8(ct.DCCPTimeWait)
	dIG = uint8(ct.DCCPIgnore)
	dIV = uint8(ct.DCCPInvalid)
)

// dccpNext is the transition table (dccp_state_table): by the sender's role
// (client, server), packet type and state (NONE, REQUEST, RESPOND, PARTOPEN,
// OPEN, CLOSEREQ, CLOSING, TIMEWAIT).
var dccpNext = [2][numDCCPTypes][8]uint8{
	{
		dccpRequest:  {dRQ, dRQ, dRS, dIG, dIG, dIG, dIG, dRQ},
		dccpResponse: {dIV, dIG, dIG, dIG, dIG, dIG, dIG, dIV},
		dccpAck:      {dIV, dIV, dPO, dPO, dOP, dCR, dCG, dIV},
		dccpData:     {dIV, dIV, dIV, dIV, dOP, dCR, dCG, dIV},
		dccpDataAck:  {dIV, dIV, dPO, dPO, dOP, dCR, dCG, dIV},
		dccpCloseReq: {dIV, dIV, dIV, dIV, dIV, dIV, dIV, dIV},
		dccpClose:    {dIV, dIV, dIV, dCG, dCG, dCG, dIV, dIV},
		dccpReset:    {dIV, dTW, dTW, dTW, dTW, dTW, dTW, dIG},
		dccpSync:     {dIG, dIG, dIG, dIG, dIG, dIG, dIG, dIG},
		dccpSyncAck:  {dIG, dIG, dIG, dIG, dIG, dIG, dIG, dIG},
	},
	{
		dccpRequest:  {dIV, dIG, dIG, dIG, dIG, dIG, dIG, dRQ},
		dccpResponse: {dIV, dRS, dRS, dIG, dIG, dIG, dIG, dIV},
		dccpAck:      {dIV, dIV, dIV, dOP, dOP, dIV, dCG, dIV},
		dccpData:     {dIV, dIV, dIV, dOP, dOP, dIV, dCG, dIV},
		dccpDataAck:  {dIV, dIV, dIV, dOP, dOP, dIV, dCG, dIV},
		dccpCloseReq: {dIV, dIV, dIV, dCR, dCR, dCR, dCR, dIV},
		dccpClose:    {dIV, dIV, dIV, dCG, dCG, dIV, dCG, dIV},
		// The kernel's row has one cell too many, so TIMEWAIT stays TIMEWAIT
		// and is refreshed.
		dccpReset:   {dIV, dTW, dTW, dTW, dTW, dTW, dTW, dTW},
		dccpSync:    {dIG, dIG, dIG, dIG, dIG, dIG, dIG, dIG},
		dccpSyncAck: {dIG, dIG, dIG, dIG, dIG, dIG, dIG, dIG},
	},
}

// DCCP keeps which direction is the client's, the sequence number of the
// response, and the last packet.
func (k *track) dccpClient() int       { return int(k.seen[0].scale) }
func (k *track) setDCCPClient(dir int) { k.seen[0].scale = uint8(dir) }
func (k *track) handshake() uint64     { return uint64(k.lastSeq)<<32 | uint64(k.lastAck) }
func (k *track) setHandshake(n uint64) { k.lastSeq, k.lastAck = uint32(n>>32), uint32(n) }
func (k *track) lastDCCP() uint8       { return k.lastScale }
func (k *track) setLastDCCP(typ uint8) { k.lastScale = typ }

// dccpPacket tracks DCCP, which the kernel does up to 6.14
// (nf_conntrack_dccp_packet).
func (t *Table) dccpPacket(e *entry, k *track, dir int, p *Packet) outcome {
	typ := p.DCCP.Type
	if t.badL4(p) || typ >= numDCCPTypes {
		return invalid
	}
	if !e.has(ct.StatusConfirmed) {
		first := dccpNext[0][typ][ct.DCCPNone]
		if first == dIV || first == dIG || first != dRQ && !t.knobs.DCCPLoose {
			return invalid
		}
		*k = track{}
		e.state = uint8(ct.DCCPNone)
	}
	if typ == dccpReset && !e.has(ct.StatusSeenReply) {
		return killed
	}
	was, role := e.state, b2i(k.dccpClient() != dir)
	to := dccpNext[role][typ][was]
	switch to {
	case dRQ:
		if was == dTW && role == 1 {
			k.setDCCPClient(dir)
		}
	case dRS:
		if was == dRQ {
			k.setHandshake(p.DCCP.Seq)
		}
	case dPO:
		if was == dRS && typ == dccpAck && p.DCCP.Ack == k.handshake() {
			e.set(ct.StatusAssured)
		}
	case dIG:
		if !t.dccpReopened(k, dir, typ, p) {
			k.lastDir = uint8(dir)
			k.setLastDCCP(typ)
			return ignored
		}
		to = dRS
	case dIV:
		return invalid
	}
	k.lastDir = uint8(dir)
	k.setLastDCCP(typ)
	e.state = to
	key, _ := ct.StateTimeout(ct.DCCP, ct.State(to), 0)
	t.refresh(e, t.timeouts[key])
	return accept
}

// dccpReopened answers whether a response confirms a request that was ignored:
// the hosts have started afresh.
func (t *Table) dccpReopened(k *track, dir int, typ uint8, p *Packet) bool {
	if int(k.lastDir) == dir || k.lastDCCP() != dccpRequest || typ != dccpResponse {
		return false
	}
	k.setDCCPClient(1 - dir)
	k.setHandshake(p.DCCP.Seq)
	return true
}
