package ct

// TimeoutKey names one timeout of a namespace.
type TimeoutKey uint8

// Timeouts, in the order of the table in the kernel's nf_conntrack-sysctl
// document. Each stands for the sysctl net.netfilter.nf_conntrack_<Name>.
const (
	TimeoutTCPSynSent TimeoutKey = iota
	TimeoutTCPSynRecv
	TimeoutTCPEstablished
	TimeoutTCPFinWait
	TimeoutTCPCloseWait
	TimeoutTCPLastAck
	TimeoutTCPTimeWait
	TimeoutTCPClose
	TimeoutTCPMaxRetrans
	TimeoutTCPUnacknowledged
	TimeoutUDP
	TimeoutUDPStream
	TimeoutICMP
	TimeoutICMPv6
	TimeoutGeneric
	TimeoutGRE       // a sysctl from 5.0, compiled in before
	TimeoutGREStream // a sysctl from 5.0, compiled in before
	TimeoutSCTPClosed
	TimeoutSCTPCookieWait
	TimeoutSCTPCookieEchoed
	TimeoutSCTPEstablished
	TimeoutSCTPShutdownSent
	TimeoutSCTPShutdownRecd
	TimeoutSCTPShutdownAckSent
	TimeoutSCTPHeartbeatSent
	TimeoutSCTPHeartbeatAcked // 4.4 to 6.0
	TimeoutDCCPRequest        // DCCP: 2.6.32 to 6.14
	TimeoutDCCPRespond
	TimeoutDCCPPartOpen
	TimeoutDCCPOpen
	TimeoutDCCPCloseReq
	TimeoutDCCPClosing
	TimeoutDCCPTimeWait
	TimeoutUDPLite       // own keys until 4.10, UDP's from 4.12
	TimeoutUDPLiteStream // likewise
	NumTimeouts
)

var timeoutNames = [NumTimeouts]string{
	"tcp_timeout_syn_sent", "tcp_timeout_syn_recv", "tcp_timeout_established",
	"tcp_timeout_fin_wait", "tcp_timeout_close_wait", "tcp_timeout_last_ack",
	"tcp_timeout_time_wait", "tcp_timeout_close", "tcp_timeout_max_retrans",
	"tcp_timeout_unacknowledged", "udp_timeout", "udp_timeout_stream",
	"icmp_timeout", "icmpv6_timeout", "generic_timeout", "gre_timeout",
	"gre_timeout_stream", "sctp_timeout_closed", "sctp_timeout_cookie_wait",
	"sctp_timeout_cookie_echoed", "sctp_timeout_established",
	"sctp_timeout_shutdown_sent", "sctp_timeout_shutdown_recd",
	"sctp_timeout_shutdown_ack_sent", "sctp_timeout_heartbeat_sent",
	"sctp_timeout_heartbeat_acked", "dccp_timeout_request", "dccp_timeout_respond",
	"dccp_timeout_partopen", "dccp_timeout_open", "dccp_timeout_closereq",
	"dccp_timeout_closing", "dccp_timeout_timewait", "udplite_timeout",
	"udplite_timeout_stream",
}

// String returns the name without prefix, "tcp_timeout_syn_sent".
func (k TimeoutKey) String() string {
	if k < NumTimeouts {
		return timeoutNames[k]
	}
	return ""
}

// ParseTimeoutKey finds a timeout by its name without prefix.
func ParseTimeoutKey(name string) (TimeoutKey, bool) {
	for i, n := range timeoutNames {
		if n == name {
			return TimeoutKey(i), true
		}
	}
	return 0, false
}

// Timeouts are the timeouts of one network namespace in seconds. The kernel
// accepts zero and negative values, which end a flow at its next packet; a key
// that this kernel lacks, or that could not be read, is not set.
type Timeouts struct {
	seconds [NumTimeouts]int32
	set     uint64
}

// Get returns a timeout in seconds and whether it is known.
func (t *Timeouts) Get(k TimeoutKey) (seconds int32, ok bool) {
	return t.seconds[k], t.set&(1<<k) != 0
}

// Set stores a timeout in seconds.
func (t *Timeouts) Set(k TimeoutKey, seconds int32) {
	t.seconds[k] = seconds
	t.set |= 1 << k
}

// Unset forgets a timeout.
func (t *Timeouts) Unset(k TimeoutKey) {
	t.seconds[k] = 0
	t.set &^= 1 << k
}

// tcpStateTimeout maps a TCP state to its timeout. SYN_SENT2 has no sysctl of
// its own; the kernel uses a fixed 120 s.
var tcpStateTimeout = [NumTCPStates]TimeoutKey{
	TCPNone: NumTimeouts, TCPSynSent: TimeoutTCPSynSent, TCPSynRecv: TimeoutTCPSynRecv,
	TCPEstablished: TimeoutTCPEstablished, TCPFinWait: TimeoutTCPFinWait,
	TCPCloseWait: TimeoutTCPCloseWait, TCPLastAck: TimeoutTCPLastAck,
	TCPTimeWait: TimeoutTCPTimeWait, TCPClose: TimeoutTCPClose, TCPSynSent2: NumTimeouts,
}

var sctpStateTimeout = [NumSCTPStates]TimeoutKey{
	SCTPNone: NumTimeouts, SCTPClosed: TimeoutSCTPClosed, SCTPCookieWait: TimeoutSCTPCookieWait,
	SCTPCookieEchoed: TimeoutSCTPCookieEchoed, SCTPEstablished: TimeoutSCTPEstablished,
	SCTPShutdownSent: TimeoutSCTPShutdownSent, SCTPShutdownRecd: TimeoutSCTPShutdownRecd,
	SCTPShutdownAckSent: TimeoutSCTPShutdownAckSent, SCTPHeartbeatSent: TimeoutSCTPHeartbeatSent,
	SCTPHeartbeatAcked: TimeoutSCTPHeartbeatAcked,
}

var dccpStateTimeout = [NumDCCPStates]TimeoutKey{
	DCCPNone: NumTimeouts, DCCPRequest: TimeoutDCCPRequest, DCCPRespond: TimeoutDCCPRespond,
	DCCPPartOpen: TimeoutDCCPPartOpen, DCCPOpen: TimeoutDCCPOpen, DCCPCloseReq: TimeoutDCCPCloseReq,
	DCCPClosing: TimeoutDCCPClosing, DCCPTimeWait: TimeoutDCCPTimeWait,
	DCCPIgnore: NumTimeouts, DCCPInvalid: NumTimeouts,
}

// StateTimeout returns the timeout that a flow of this protocol, state and
// status has after a packet, leaving aside the caps for retransmission,
// unacknowledged data and resets. ok is false where no sysctl governs it.
func StateTimeout(p Proto, s State, st Status) (k TimeoutKey, ok bool) {
	k = NumTimeouts
	switch p {
	case TCP:
		if s < NumTCPStates {
			k = tcpStateTimeout[s]
		}
	case SCTP:
		if s < NumSCTPStates {
			k = sctpStateTimeout[s]
		}
	case DCCP:
		if s < NumDCCPStates {
			k = dccpStateTimeout[s]
		}
	case UDP:
		k = pick(st, TimeoutUDP, TimeoutUDPStream)
	case UDPLite:
		k = pick(st, TimeoutUDPLite, TimeoutUDPLiteStream)
	case GRE:
		k = pick(st, TimeoutGRE, TimeoutGREStream)
	case ICMP:
		k = TimeoutICMP
	case ICMPv6:
		k = TimeoutICMPv6
	default:
		k = TimeoutGeneric
	}
	return k, k < NumTimeouts
}

func pick(st Status, plain, stream TimeoutKey) TimeoutKey {
	if st.Has(StatusAssured) {
		return stream
	}
	return plain
}

// DefaultTimeouts returns the compiled-in timeouts of a kernel, the values
// that every new namespace starts from.
func DefaultTimeouts(v KernelVersion) Timeouts {
	var t Timeouts
	for k, s := range map[TimeoutKey]int32{
		TimeoutTCPSynSent: 120, TimeoutTCPSynRecv: 60, TimeoutTCPEstablished: 432000,
		TimeoutTCPFinWait: 120, TimeoutTCPCloseWait: 60, TimeoutTCPLastAck: 30,
		TimeoutTCPTimeWait: 120, TimeoutTCPClose: 10, TimeoutTCPMaxRetrans: 300,
		TimeoutTCPUnacknowledged: 300, TimeoutUDP: 30, TimeoutUDPStream: 120,
		TimeoutICMP: 30, TimeoutICMPv6: 30, TimeoutGeneric: 600,
		TimeoutGRE: 30, TimeoutGREStream: 180,
		TimeoutSCTPClosed: 10, TimeoutSCTPCookieWait: 3, TimeoutSCTPCookieEchoed: 3,
		TimeoutSCTPEstablished: 210, TimeoutSCTPShutdownSent: 3, TimeoutSCTPShutdownRecd: 3,
		TimeoutSCTPShutdownAckSent: 3, TimeoutSCTPHeartbeatSent: 30,
	} {
		t.Set(k, s)
	}
	if !v.AtLeast(5, 0) {
		t.Set(TimeoutUDPStream, 180)
	}
	if !newSCTP(v) {
		t.Set(TimeoutSCTPEstablished, 432000)
		t.Set(TimeoutSCTPShutdownSent, 0)
		t.Set(TimeoutSCTPShutdownRecd, 0)
	}
	switch {
	case !v.AtLeast(4, 4):
		t.Unset(TimeoutSCTPHeartbeatSent)
	case !newSCTP(v):
		t.Set(TimeoutSCTPHeartbeatAcked, 210)
	}
	if !v.AtLeast(6, 15) {
		for k, s := range map[TimeoutKey]int32{
			TimeoutDCCPRequest: 240, TimeoutDCCPRespond: 480, TimeoutDCCPPartOpen: 480,
			TimeoutDCCPOpen: 43200, TimeoutDCCPCloseReq: 64, TimeoutDCCPClosing: 64,
			TimeoutDCCPTimeWait: 240,
		} {
			t.Set(k, s)
		}
	}
	if !v.AtLeast(4, 12) {
		t.Set(TimeoutUDPLite, 30)
		t.Set(TimeoutUDPLiteStream, 180)
	}
	return t
}

// newSCTP reports whether a kernel has the SCTP tracker of 6.1. The late
// releases of 5.10 have it too; Debian's all call themselves 5.10.0.
func newSCTP(v KernelVersion) bool {
	return v.AtLeast(6, 1) || v.Major == 5 && v.Minor == 10 && (v.Patch == 0 || v.Patch >= 200)
}
