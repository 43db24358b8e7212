package guard

import (
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// ClassOf returns the class under which an entry may be thinned, 0 for one
// that never is: other protocols than TCP, UDP and ICMP, and states that are
// not known.
func ClassOf(f *ct.Flow) Classes {
	switch f.Orig.Proto {
	case ct.TCP:
		if !f.Has(ct.HasProtoInfo) {
			return 0
		}
		switch f.State {
		case ct.TCPSynSent, ct.TCPSynRecv, ct.TCPSynSent2:
			return HalfOpen
		case ct.TCPEstablished:
			if !f.Replied() {
				return Unreplied // picked up in its midst
			}
			return Silent
		case ct.TCPFinWait, ct.TCPCloseWait, ct.TCPLastAck, ct.TCPTimeWait, ct.TCPClose:
			return Closing
		}
	case ct.UDP, ct.UDPLite, ct.ICMP, ct.ICMPv6:
		if !f.Replied() {
			return Unreplied
		}
		return Silent
	}
	return 0
}

// Matches reports whether an entry that has been idle for at least idle at the
// moment now is one of those to be thinned, as far as the entry itself tells:
// sources, protection and the second reading are the caller's to see to.
func (t *Thin) Matches(f *ct.Flow, idle, now time.Duration) bool {
	if t.Classes&ClassOf(f) == 0 || idle < t.MinIdle {
		return false
	}
	// idle is a lower bound, so the last packet may have come earlier still:
	// an entry that may be older than the attack counts as older only where
	// even its least idle time reaches back so far.
	return t.Since == 0 || now-idle >= t.Since
}
