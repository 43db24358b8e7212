package guard

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// SynProxyFacts are what is known of a TCP port on which this machine listens,
// and of an attack on it.
type SynProxyFacts struct {
	Port    uint16
	Version ct.KernelVersion
	// Module says whether the kernel has nft_synproxy.
	Module bool
	// Listening are the ports on which it listens for others; nil is not known.
	Listening []uint16
	// Unproven are the things that could not be told, in words.
	Unproven []string
	// Translated says whether rules translate the address or port of packets to
	// the port; Untracked whether its packets are not tracked already.
	Translated, Untracked bool
	// InvalidDropped says that nf_conntrack_tcp_loose is 0 and rules drop what
	// is invalid: the client's last word of a handshake, then.
	InvalidDropped bool
	// Timestamps, SACK and WindowScale are what the machine's own handshake
	// would offer: net.ipv4.tcp_timestamps, tcp_sack and, 0 to 14, the scale
	// that its receive buffers ask for. MSS is the device's MTU less 40.
	Timestamps, SACK bool
	WindowScale      uint8
	MSS              uint16

	// HalfOpen counts the entries of unfinished handshakes to the port, Assured
	// those of the whole table that early drop spares.
	HalfOpen, Assured, Count, Max int64
	// Refused and EarlyDropped are the kernel's, per second.
	Refused, EarlyDropped float64
	// RoundTrip is that of distant clients; 0 stands for 200 ms.
	RoundTrip time.Duration
	// Fragile says whether losing a half-open entry breaks the handshake, as in
	// [Surroundings].
	Fragile bool
}

// SynProxyProposal says whether SYNPROXY would be right for a port, and how.
// It is only ever proposed.
type SynProxyProposal struct {
	Right bool   `json:"right"`
	Why   string `json:"why"`
	// Add puts it in place, in one transaction. Undo takes no new connection
	// any more. Finish takes the rest away, once Remaining lists nothing:
	// earlier it would end the connections that were made through it.
	Add       []string `json:"add,omitempty"`
	Undo      []string `json:"undo,omitempty"`
	Remaining []string `json:"remaining,omitempty"`
	Finish    []string `json:"finish,omitempty"`
	Risks     []string `json:"risks,omitempty"`
}

// SynProxyTable is the name of the table, in family inet.
const SynProxyTable = "ctwarden_synproxy"

// tolerable is the share of distant clients whose handshakes may fall to early
// drop before something ought to be done.
const tolerable = 0.005

// ProposeSynProxy judges by what SYNPROXY can do: it keeps bare SYNs out of the
// table, and nothing else. Against a plain flood early drop does as well, at a
// tenth of the latency; against connections that were completed it does
// nothing.
func ProposeSynProxy(f SynProxyFacts) SynProxyProposal {
	if why := f.cannot(); why != "" {
		return SynProxyProposal{Why: why}
	}
	why, right := f.wanted()
	if !right {
		return SynProxyProposal{Why: why}
	}
	return SynProxyProposal{Right: true, Why: why, Add: f.add(),
		Undo:      []string{fmt.Sprintf("nft 'flush chain inet %[1]s raw; flush chain inet %[1]s input'", SynProxyTable)},
		Remaining: []string{fmt.Sprintf("ctwarden list --where 'synproxied && reply_sport == %d'", f.Port)},
		Finish:    []string{"nft delete table inet " + SynProxyTable},
		Risks:     f.risks(),
	}
}

// cannot says what rules SYNPROXY out, "" for nothing.
func (f *SynProxyFacts) cannot() string {
	switch {
	case f.Port == 0:
		return "no port is named"
	case f.Listening != nil && !slices.Contains(f.Listening, f.Port):
		return fmt.Sprintf("nothing on this machine listens on port %d", f.Port)
	case !f.Version.AtLeast(5, 3) || !f.Module:
		return "this kernel has no SYNPROXY for nftables (nft_synproxy, Linux 5.3 and later)"
	case f.Translated:
		return fmt.Sprintf("rules translate packets to port %d, and a SYN that is not tracked is not translated", f.Port)
	case f.InvalidDropped:
		return "nf_conntrack_tcp_loose is 0 and rules drop what is invalid: they would drop the last packet of every handshake"
	case f.Untracked:
		return fmt.Sprintf("packets to port %d are not tracked: its SYNs make no entries as it is", f.Port)
	}
	return ""
}

// wanted weighs what the flood does to legitimate connections.
func (f *SynProxyFacts) wanted() (why string, right bool) {
	half := part(f.HalfOpen, f.Count)
	lost := f.lostHandshakes()
	switch {
	case half < 0.25:
		return fmt.Sprintf("%.0f %% of the table are unfinished handshakes to port %d: this is no SYN flood on it", 100*half, f.Port), false
	case part(f.Assured, f.Max) > 0.9:
		return fmt.Sprintf("%.0f %% of the table are entries of completed connections: SYNPROXY keeps SYNs out, and room is what is missing",
			100*part(f.Assured, f.Max)), false
	case f.Refused >= 1:
		return fmt.Sprintf("the kernel refuses %.0f packets a second while %.0f %% of the table are unfinished handshakes to port %d that early drop does not find",
			f.Refused, 100*half, f.Port), true
	case f.Fragile && lost > tolerable:
		return fmt.Sprintf("early drop removes %.0f of %d unfinished handshakes a second: %.1f %% of those that take %v are lost before they are finished",
			f.EarlyDropped, f.HalfOpen, 100*lost, f.roundTrip()), true
	}
	return "early drop and cookies deal with this flood, and SYNPROXY would make every handshake slower (ten times was measured)", false
}

// lostHandshakes is the share of handshakes that early drop ends before the
// client's last word, if its victims are chosen at random.
func (f *SynProxyFacts) lostHandshakes() float64 {
	if f.HalfOpen <= 0 || f.EarlyDropped <= 0 {
		return 0
	}
	return 1 - math.Exp(-f.EarlyDropped*f.roundTrip().Seconds()/float64(f.HalfOpen))
}

func (f *SynProxyFacts) roundTrip() time.Duration {
	if f.RoundTrip > 0 {
		return f.RoundTrip
	}
	return 200 * time.Millisecond
}

func part(n, of int64) float64 {
	if of <= 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// add is the table.
//
// The known recipes catch the client's last word as "ct state invalid", and
// need nf_conntrack_tcp_loose=0 for the whole namespace to make it so. Here it
// is a pure ACK that would begin a flow, so that tcp_loose stays as it is and
// only this port is concerned.
//
// The input chain stands behind those of others, at priority 10: what their
// rules refuse is not answered. Before them it would be, and the connection
// that SYNPROXY then opens comes in by the loopback, which most rules accept.
//
// IPv6 is left out: nft_synproxy looks at its packets with the checksum of
// IPv4, and drops those that no network card has verified (nft_synproxy_do_eval;
// seen on 6.18).
//
// The chain "keep" is never entered. Its rule keeps the kernel's hooks that
// correct sequence numbers and timestamps of connections made through
// SYNPROXY, when the others are gone (nf_synproxy_ipv4_init).
func (f *SynProxyFacts) add() []string {
	proxy := f.statement()
	const flags = "tcp flags & (fin|syn|rst|ack)"
	rules := []string{
		"add table inet " + SynProxyTable,
		fmt.Sprintf("add chain inet %s raw { type filter hook prerouting priority raw; policy accept; }", SynProxyTable),
		fmt.Sprintf("add chain inet %s input { type filter hook input priority filter + 10; policy accept; }", SynProxyTable),
		fmt.Sprintf("add chain inet %s keep", SynProxyTable),
		fmt.Sprintf("add rule inet %s raw meta nfproto ipv4 tcp dport %d %s == syn notrack", SynProxyTable, f.Port, flags),
		fmt.Sprintf("add rule inet %s input meta nfproto ipv4 tcp dport %d ct state untracked %s == syn %s", SynProxyTable, f.Port, flags, proxy),
		fmt.Sprintf("add rule inet %s input meta nfproto ipv4 tcp dport %d ct state new,invalid %s == ack %s", SynProxyTable, f.Port, flags, proxy),
		fmt.Sprintf("add rule inet %s keep meta nfproto ipv4 %s", SynProxyTable, proxy),
	}
	return []string{"nft '" + strings.Join(rules, "; ") + "'"}
}

func (f *SynProxyFacts) statement() string {
	mss := f.MSS
	if mss == 0 {
		mss = 536 // what every path of IPv4 takes
	}
	s := fmt.Sprintf("synproxy mss %d wscale %d", mss, min(f.WindowScale, 14))
	if f.Timestamps {
		s += " timestamp"
	}
	if f.SACK {
		s += " sack-perm"
	}
	return s
}

func (f *SynProxyFacts) risks() []string {
	list := []string{
		"IPv4 only: for IPv6 the kernel's SYNPROXY drops packets whose checksum the network card has not verified",
		fmt.Sprintf("a connection to port %d that exists and has lost its entry is not taken up again", f.Port),
		"every handshake takes the machine's own besides: ten times the latency was measured during a flood",
		"the client is told it is connected before the service has been asked: a port that refuses looks like one that hangs up",
		"connections made through it end if the table is deleted before they have: use the undo, and wait",
	}
	if !f.Timestamps {
		list = append(list, "net.ipv4.tcp_timestamps is 0: connections made through it have neither window scaling nor SACK")
	}
	return list
}
