package ct

import "time"

// DirCounters are the packets and bytes of one direction of a flow, kept by
// the kernel only while nf_conntrack_acct is on when the entry is created.
type DirCounters struct {
	Packets, Bytes uint64
}

// Fields says which optional parts of a [Flow] the kernel sent.
type Fields uint16

// Optional parts of a flow.
const (
	HasTimeout   Fields = 1 << iota // absent for offloaded entries
	HasProtoInfo                    // absent for offloaded entries and stateless protocols
	HasCounters
	HasMark
	HasZone // zone of both directions; ZoneOrig and ZoneReply hold single-direction ones
	HasLabels
	HasTimestamp
	HasMaster
	HasSeqAdj
	HasSynProxy
	HasSecCtx
	HasHelper
	HasID
	HasUse
	HasEventTime // 6.14 and later
	HasUnknown   // attributes that this version does not know were present
)

// Flow is one entry of the table: struct nf_conn as ctnetlink shows it. A Flow
// holds no reference to the message it came from, except that Helper and
// SecCtx are shared, immutable strings.
type Flow struct {
	Orig, Reply Tuple
	Master      Tuple // with HasMaster: the flow that expected this one
	Status      Status
	State       State
	Fields      Fields

	TimeoutSeconds uint32 // what remains; the kernel truncates, so a fresh 120 s reads 119
	Mark           uint32
	ID             uint32 // keyed hash, stable for the life of the entry
	Use            uint32

	Zone, ZoneOrig, ZoneReply uint16

	TCP  TCPInfo
	SCTP SCTPInfo
	DCCP DCCPInfo

	OrigCounters, ReplyCounters DirCounters

	StartNanos, StopNanos, EventNanos int64 // Unix time, with HasTimestamp and HasEventTime

	Labels [16]byte

	SeqAdjOrig, SeqAdjReply SeqAdj
	SynProxy                SynProxy

	Helper, SecCtx string
}

// TCPInfo is what CTA_PROTOINFO_TCP adds to the state.
type TCPInfo struct {
	WScaleOrig, WScaleReply uint8 // 0 to 14
	FlagsOrig, FlagsReply   uint8 // IP_CT_TCP_FLAG_*
}

// SCTPInfo is what CTA_PROTOINFO_SCTP adds to the state.
type SCTPInfo struct {
	VTagOrig, VTagReply uint32 // verification tags
}

// DCCPInfo is what CTA_PROTOINFO_DCCP adds to the state, up to 6.14.
type DCCPInfo struct {
	Role         uint8  // of the original direction: 0 client, 1 server
	HandshakeSeq uint64 // CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ
}

// SeqAdj is a sequence number adjustment left by a helper: CTA_SEQ_ADJ_*.
type SeqAdj struct {
	CorrectionPos, OffsetBefore, OffsetAfter uint32
}

// SynProxy is CTA_SYNPROXY.
type SynProxy struct {
	ISN, ITS, TSOff uint32
}

// Has reports whether all the optional parts in m are present.
func (f *Flow) Has(m Fields) bool { return f.Fields&m == m }

// Timeout is what remains of the timeout, zero if the kernel did not say.
func (f *Flow) Timeout() time.Duration { return time.Duration(f.TimeoutSeconds) * time.Second }

// Assured reports whether the kernel's early drop spares this entry.
func (f *Flow) Assured() bool { return f.Status&StatusAssured != 0 }

// Replied reports whether both directions have been seen.
func (f *Flow) Replied() bool { return f.Status&StatusSeenReply != 0 }

// Offloaded reports whether a flow table handles the packets. The kernel then
// sends neither state nor timeout.
func (f *Flow) Offloaded() bool { return f.Status&(StatusOffload|StatusHWOffload) != 0 }

// NAT reports whether the flow is translated, by its status bits or by its
// tuples; a null binding leaves both clear.
func (f *Flow) NAT() bool {
	if f.Status&StatusNAT != 0 {
		return true
	}
	inv, ok := f.Orig.Invert()
	return ok && f.Reply.IsValid() && inv != f.Reply
}

// StateName is the kernel's name of the flow's state, or "".
func (f *Flow) StateName() string {
	if !f.Orig.Proto.HasState() || f.Fields&HasProtoInfo == 0 {
		return ""
	}
	return StateName(f.Orig.Proto, f.State)
}
