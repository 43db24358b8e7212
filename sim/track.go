package sim

// track is what a protocol's tracker remembers of a flow, one line of the cache.
// It is laid out for TCP; the other protocols keep their few words in its fields,
// through the methods below.
type track struct {
	seen [2]tcpSide

	lastSeq, lastAck, lastEnd uint32
	lastWin                   uint16 // unscaled
	lastKind                  tcpKind
	lastDir                   uint8
	lastScale                 uint8
	lastFlags                 uint8
	retrans                   uint8

	_ uint32
}

// tcpSide is what the window check remembers of one side (ip_ct_tcp_state).
type tcpSide struct {
	end    uint32 // highest sequence number and length sent
	maxEnd uint32 // highest sequence number that the peer allows
	maxWin uint32 // largest window shown, scaled; 0 before the first packet
	maxAck uint32
	scale  uint8
	flags  uint8
}

// UDP keeps the jiffy from which the flow may be a stream.
func (k *track) streamFrom() uint32     { return k.lastSeq }
func (k *track) setStreamFrom(j uint32) { k.lastSeq = j }

// GRE keeps the timeouts that were set when the entry was made.
func (k *track) greTimeouts() (plain, stream uint32) { return k.lastSeq, k.lastAck }
func (k *track) setGRETimeouts(plain, stream uint32) { k.lastSeq, k.lastAck = plain, stream }
