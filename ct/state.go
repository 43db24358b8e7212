package ct

// State is the protocol state of a flow. Its meaning depends on the protocol:
// use the constants below, and [StateName] to print one. Protocols without
// states of their own (UDP, ICMP, GRE, generic) leave it at zero.
type State uint8

// TCP states, enum tcp_conntrack.
const (
	TCPNone State = iota
	TCPSynSent
	TCPSynRecv
	TCPEstablished
	TCPFinWait
	TCPCloseWait
	TCPLastAck
	TCPTimeWait
	TCPClose
	TCPSynSent2 // simultaneous open; LISTEN in old headers
	NumTCPStates
)

// SCTP states, enum sctp_conntrack.
const (
	SCTPNone State = iota
	SCTPClosed
	SCTPCookieWait
	SCTPCookieEchoed
	SCTPEstablished
	SCTPShutdownSent
	SCTPShutdownRecd
	SCTPShutdownAckSent
	SCTPHeartbeatSent
	SCTPHeartbeatAcked // 4.4 to 6.0
	NumSCTPStates
)

// DCCP states, enum ct_dccp_states; the kernel tracks DCCP until 6.14.
const (
	DCCPNone State = iota
	DCCPRequest
	DCCPRespond
	DCCPPartOpen
	DCCPOpen
	DCCPCloseReq
	DCCPClosing
	DCCPTimeWait
	DCCPIgnore
	DCCPInvalid
	NumDCCPStates
)

var (
	tcpNames = [NumTCPStates]string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED",
		"FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}
	sctpNames = [NumSCTPStates]string{"NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED",
		"ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT",
		"HEARTBEAT_SENT", "HEARTBEAT_ACKED"}
	dccpNames = [NumDCCPStates]string{"NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN",
		"CLOSEREQ", "CLOSING", "TIMEWAIT", "IGNORE", "INVALID"}
)

func stateNames(p Proto) []string {
	switch p {
	case TCP:
		return tcpNames[:]
	case SCTP:
		return sctpNames[:]
	case DCCP:
		return dccpNames[:]
	}
	return nil
}

// StateName returns the kernel's name of a state, and "" for protocols without
// states and for numbers that no kernel known here uses.
func StateName(p Proto, s State) string {
	names := stateNames(p)
	if int(s) < len(names) {
		return names[s]
	}
	return ""
}

// ParseState finds a state of protocol p by the kernel's name.
func ParseState(p Proto, name string) (State, bool) {
	for i, n := range stateNames(p) {
		if n == name {
			return State(i), true
		}
	}
	if p == TCP && name == "LISTEN" {
		return TCPSynSent2, true
	}
	return 0, false
}

// HasState reports whether flows of this protocol carry a state.
func (p Proto) HasState() bool { return p == TCP || p == SCTP || p == DCCP }
