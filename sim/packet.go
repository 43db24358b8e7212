package sim

import "github.com/ctwarden/ctwarden/ct"

// Time is an instant in nanoseconds since an epoch of the caller's choice. It
// must not run backwards: an earlier time than the last one counts as the last.
type Time int64

// Hook is where a packet enters the host.
type Hook uint8

// Hooks at which connection tracking sees a packet first.
const (
	HookPrerouting Hook = iota // received: checksums are verified
	HookOutput                 // sent by this host: checksums are not
)

// PacketFlags say what the parser found wrong with a packet, and what becomes
// of it after tracking.
type PacketFlags uint8

// Packet flags.
const (
	// FlagNoL4: no transport header can be found: an IPv6 header chain that
	// ends in nothing, a bogus header length.
	FlagNoL4 PacketFlags = 1 << iota
	// FlagMalformed: the transport header is cut short or its lengths
	// contradict each other.
	FlagMalformed
	// FlagBadChecksum: the transport checksum is wrong. That of UDP-Lite is
	// wrong where the pseudo header holds UDP-Lite's protocol number: the
	// kernel verifies it with UDP's (udplite_error).
	FlagBadChecksum
	// FlagUntracked: a notrack rule matched, or the packet was seen before.
	FlagUntracked
	// FlagDropped: a later rule drops the packet, so that a new entry is freed
	// unconfirmed.
	FlagDropped
)

// ZoneDir says for which direction of a flow a zone counts.
type ZoneDir uint8

// Zone directions, as of the CT target's --zone, --zone-orig and --zone-reply.
const (
	ZoneBoth ZoneDir = iota
	ZoneOrig
	ZoneReply
)

// Packet is what connection tracking sees of one packet after reassembly. The
// zero value of every field but Tuple is a plain packet without a transport
// payload. The model keeps nothing of it.
type Packet struct {
	// Tuple holds addresses, protocol and ports as the packet carries them.
	// ICMP uses ICMPType, ICMPCode and ICMPID (the identifier, or what stands
	// in its place). GRE version 1 has the call id in DstPort; any other GRE
	// has both zero.
	Tuple ct.Tuple
	// Inner is the tuple inside an ICMP or ICMPv6 error or redirect, as it
	// stands there, not inverted. It is invalid if none could be read.
	Inner ct.Tuple

	TCP  Segment
	SCTP SCTPPacket
	DCCP DCCPPacket

	Length  uint32 // of the IP packet in bytes; used by accounting only
	Zone    uint16
	ZoneDir ZoneDir
	Hook    Hook
	Flags   PacketFlags
	// Tag is the caller's mark: it is kept with the entry that the packet
	// creates and comes back in events.
	Tag uint8
}

// TCP flags, as in byte 13 of the header.
const (
	TCPFin = 1 << iota
	TCPSyn
	TCPRst
	TCPPsh
	TCPAck
	TCPUrg
	TCPEce
	TCPCwr
)

// Segment is a TCP header.
type Segment struct {
	Seq, Ack   uint32
	PayloadLen uint32
	Window     uint16 // unscaled
	Flags      uint8  // TCPFin and friends
	Options    TCPOptions
}

// End is the sequence number behind the segment: SYN and FIN take one each
// (segment_seq_plus_len).
func (s *Segment) End() uint32 {
	end := s.Seq + s.PayloadLen
	if s.Flags&TCPSyn != 0 {
		end++
	}
	if s.Flags&TCPFin != 0 {
		end++
	}
	return end
}

// SCTPPacket is an SCTP common header and its chunks.
type SCTPPacket struct {
	VTag   uint32
	Chunks []SCTPChunk // the model reads them only during the call
}

// SCTPChunk is one chunk. InitTag is that of an INIT or INIT_ACK.
type SCTPChunk struct {
	Type, Flags uint8
	Length      uint16 // as in the header; zero is malformed
	InitTag     uint32
	// Short: the chunk is cut off before the initiate tag.
	Short bool
}

// DCCPPacket is a DCCP header.
type DCCPPacket struct {
	Type     uint8 // 0 request, 1 response, 2 data, 3 ack, 4 dataack, 5 closereq, 6 close, 7 reset, 8 sync, 9 syncack
	Seq, Ack uint64
}

// Verdict is what connection tracking does with a packet.
type Verdict uint8

// Verdicts.
const (
	// Accepted: the packet belongs to an entry.
	Accepted Verdict = iota
	// Invalid: the packet passes without an entry; rules see ct state invalid.
	Invalid
	// Untracked: the packet passes; rules see ct state untracked.
	Untracked
	// Refused: dropped, because the table is full and nothing could be evicted.
	Refused
	// Lost: dropped at confirmation, because another packet's entry took the
	// place (TCP), or because the chain was too long.
	Lost
)

var verdictNames = [...]string{"accepted", "invalid", "untracked", "refused", "lost"}

// String returns "accepted", "invalid", "untracked", "refused" or "lost".
func (v Verdict) String() string { return verdictNames[v] }

// Info is the relation of a packet to its entry, enum ip_conntrack_info
// without the direction.
type Info uint8

// Relations, as rules see them in ct state. They mean something only with the
// verdict Accepted.
const (
	InfoNew Info = iota
	InfoEstablished
	InfoRelated
)

var infoNames = [...]string{"new", "established", "related"}

// String returns the name that ct state uses.
func (i Info) String() string { return infoNames[i] }

// ID names an entry for as long as it lives. Numbers are used again.
type ID int32

// Result is what became of a packet.
type Result struct {
	Verdict Verdict
	Info    Info
	Reply   bool // the packet runs in the reply direction
	Created bool // the packet made the entry and confirmed it
	// Entry is the packet's entry, zero without one or if the packet killed it.
	Entry ID
}
