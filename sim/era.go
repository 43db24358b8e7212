package sim

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
)

// Era is a span of kernels that track alike. The zero value is no era; take
// one from [Eras], [EraByName] or [EraFor].
type Era struct {
	// Name is "6.18" and the like, or "latest".
	Name string
	// From is the first kernel of the era.
	From ct.KernelVersion
	// Confirmed: the model was compared with such a kernel in the laboratory.
	// If not, the era's rules are from source: read, not measured.
	Confirmed bool

	rules rules
}

// Label returns the name, with "(from source)" where no kernel confirmed it.
func (e Era) Label() string {
	if e.Confirmed {
		return e.Name
	}
	return e.Name + " (from source)"
}

// Timeouts returns the timeouts that a new namespace starts from.
func (e Era) Timeouts() ct.Timeouts {
	t := ct.DefaultTimeouts(e.From)
	if e.rules.sctp == sctpPaths && !e.From.AtLeast(6, 1) {
		// The rework of SCTP reached the 5.15 branch with its timeouts.
		t.Set(ct.TimeoutSCTPEstablished, 210)
		t.Set(ct.TimeoutSCTPShutdownSent, 3)
		t.Set(ct.TimeoutSCTPShutdownRecd, 3)
		t.Unset(ct.TimeoutSCTPHeartbeatAcked)
	}
	return t
}

// DefaultBuckets and DefaultMax are what a host of more than 4 GiB gets.
func (e Era) DefaultBuckets() int {
	if e.From.AtLeast(5, 15) {
		return 262144
	}
	return 65536
}

// DefaultMax returns the default of nf_conntrack_max on more than 4 GiB.
func (e Era) DefaultMax() int { return 262144 }

type gcKind uint8

const (
	gcSlices   gcKind = iota // 4.12: 1/128 of the buckets at a time, faster while much expires
	gcPasses                 // 5.15.0, and measured on late 5.10: a pass every 120 s
	gcAdaptive               // 5.19: a pass every 1 to 60 s, from the mean of what is left
)

type sctpKind uint8

const (
	sctpHeartbeatAcked sctpKind = iota // 4.4: a state of its own for secondary paths
	sctpPaths                          // 6.1, and late in the branches of 5.10 and 5.15: secondary paths become ESTABLISHED
)

// rules is all that differs between eras. The comments name the first kernel
// in which a rule is true.
type rules struct {
	// Core.
	minChain, spanChain uint32 // limit of a chain: min + [0, span); no limit if zero
	natClash            bool   // 5.7: a loser with NAT becomes a short-lived reply-only entry
	clashGREGeneric     bool   // GRE resolves clashes too
	clashICMP           bool   // 7.0: and so do ICMP and ICMPv6
	clashReverse        bool   // 6.12: two new flows that are each other's reply merge
	reopenIsInvalid     bool   // up to 5.13, not late in 5.10: reopening a TCP entry raises the counter invalid
	evictBuckets        int    // how many buckets early drop searches

	natSeeksAnywhere bool // 5.0 to 6.7: the search for a destination port begins anywhere in its range too
	natEvictsClosing bool // 5.17: the last attempts at a port take it from closing flows

	// Garbage collection.
	gc        gcKind
	gcInitial int64 // phantom entries of 60 s that start the mean

	// Logging.
	logNetns bool // 6.15: other namespaces are named

	// TCP.
	tcp                *tcpTable
	windowSlack        uint32 // how many bytes the upper bound is off; 0 in every kernel
	retransSlack       uint8  // likewise for the count of retransmissions
	synRetransmitKeeps bool   // 5.14, and late in 5.10: an unreplied SYN's retransmission does not refresh
	rstClosing         bool   // 5.14: RST needs no check in closing states
	rstReused          bool   // 5.14: seq 0, and an ignored SYN, are reasons to check the window instead
	ignoreInvalidRST   bool   // 5.14: the sysctl exists
	reinitSyn          bool   // 5.17, 5.15.24: a newer SYN or SYN/ACK starts its side afresh
	keepLiberal        bool   // 5.17, 5.15.24, 5.10.103: SYN options do not clear the liberal flag
	windowIgnore       bool   // 6.1: some window failures are ignored instead of invalid
	cutInvalidClose    bool   // 6.1: invalid FIN or RST from both sides shorten the timeout
	rstFromPeer        bool   // measured on late 6.1 and 6.18.44: RST answers an ignored SYN of the other side only
	rstKeptUnacked     bool   // measured on 6.12.117 and 7.3.4, not on 6.18.44: an RST that keeps the state caps at unacknowledged
	challengeRST       bool   // 6.1: RST answering an ignored challenge ACK in SYN_SENT

	// UDP.
	udpStreamDelay  bool // 5.0: the stream timeout needs two seconds of life
	udpAssuredDelay bool // 5.17, and late in 5.10 and 5.15: and so does ASSURED

	// Others.
	sctp             sctpKind
	sctpRepeatedInit bool // measured on late 5.10, 6.1 and 6.18.44: an INIT with the known tag is no new beginning
	dccp             bool // up to 6.14
	udplite          bool // up to 6.19; generic in 7.3
	icmp6Reroute     bool // 5.13: ICMPv6 redirects relate to the inner flow
	chainCounter     bool // 5.15: chaintoolong
	clashCounter     bool // 5.10: clash_resolve
}

// eras are in order. Each is the one before it with its changes, so that a
// rule is written where it first holds.
var eras = buildEras()

func buildEras() []Era {
	r := rules{
		evictBuckets:    8, // 4.14.177 and 4.19.95 and later
		gc:              gcSlices,
		reopenIsInvalid: true,
		dccp:            true,
		udplite:         true,
		tcp:             &tcpNext,
	}
	var list []Era
	add := func(name string, from ct.KernelVersion, confirmed bool) {
		list = append(list, Era{Name: name, From: from, Confirmed: confirmed, rules: r})
	}
	add("4.19", ct.KernelVersion{Major: 4, Minor: 19, Patch: 95}, false)

	r.udpStreamDelay = true
	r.natClash = true
	r.clashCounter = true
	r.keepLiberal = true
	r.sctp = sctpPaths
	r.synRetransmitKeeps = true
	r.udpAssuredDelay = true
	r.sctpRepeatedInit = true
	r.rstFromPeer = true
	r.reopenIsInvalid = false
	r.natSeeksAnywhere = true
	r.gc = gcPasses
	add("5.10", ct.KernelVersion{Major: 5, Minor: 10, Patch: 240}, true)

	r.minChain, r.spanChain = 8, 24
	r.chainCounter = true
	r.clashGREGeneric = true
	r.gc = gcAdaptive
	r.gcInitial = 100
	r.rstClosing = true
	r.rstReused = true
	r.ignoreInvalidRST = true
	r.reinitSyn = true
	r.icmp6Reroute = true
	add("5.15", ct.KernelVersion{Major: 5, Minor: 15, Patch: 100}, false)

	r.minChain, r.spanChain = 50, 30
	r.natEvictsClosing = true
	r.windowIgnore = true
	r.cutInvalidClose = true
	r.challengeRST = true
	add("6.1", ct.KernelVersion{Major: 6, Minor: 1, Patch: 55}, true)

	r.clashReverse = true
	r.rstKeptUnacked = true
	r.natSeeksAnywhere = false
	add("6.12", ct.KernelVersion{Major: 6, Minor: 12, Patch: 117}, true)

	r.dccp = false
	r.rstKeptUnacked = false
	r.logNetns = true
	add("6.18", ct.KernelVersion{Major: 6, Minor: 18, Patch: 44}, true)

	r.udplite = false
	r.rstKeptUnacked = true
	r.clashICMP = true
	add("latest", ct.KernelVersion{Major: 7}, true)
	return list
}

// Eras returns all eras, oldest first; the last is "latest".
func Eras() []Era { return append([]Era(nil), eras...) }

// Latest returns the newest era.
func Latest() Era { return eras[len(eras)-1] }

// tracks reports whether the era has a tracker of its own for a protocol.
func (r *rules) tracks(p ct.Proto) bool {
	switch p {
	case ct.DCCP:
		return r.dccp
	case ct.UDPLite:
		return r.udplite
	case ct.TCP, ct.UDP, ct.ICMP, ct.ICMPv6, ct.SCTP, ct.GRE:
		return true
	}
	return false
}

// EraByName finds an era by its name.
func EraByName(name string) (Era, error) {
	for _, e := range eras {
		if e.Name == name {
			return e, nil
		}
	}
	return Era{}, fmt.Errorf("unknown kernel era %q: have 4.19, 5.10, 5.15, 6.1, 6.12, 6.18 and latest", name)
}

// EraFor returns the last era that begins at or before v, and the oldest for
// kernels before all of them.
func EraFor(v ct.KernelVersion) Era {
	best := eras[0]
	for _, e := range eras {
		if v.AtLeast(e.From.Major, e.From.Minor) {
			best = e
		}
	}
	return best
}
