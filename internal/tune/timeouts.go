package tune

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// keepaliveFloor is what an idle TCP connection must be left: Linux sends its
// first keepalive after 7200 s (tcp_keepalive_time), and RFC 5382 REQ-5 asks
// 2 hours 4 minutes of a NAT.
const keepaliveFloor = 7440

// worthShare is the part of the table that a class must hold for a shorter
// timeout to be worth its risk.
const worthShare = 0.05

// leakShare is the part of max that connections idle beyond a proposal must
// hold to be worth collecting while the table is not tight.
const leakShare = 0.02

// advice is what a timeout could be lowered to, and what stands against it.
type advice struct {
	key    ct.TimeoutKey
	actsOn string
	// to returns the proposal in seconds for a role; 0 leaves the timeout.
	to   func(b *builder) int32
	risk string
	keep string // why it stays where there is no proposal
}

func flat(seconds int32) func(*builder) int32 {
	return func(*builder) int32 { return seconds }
}

func never(*builder) int32 { return 0 }

// adviceTable follows the order of the kernel's timeouts. On gateways the
// floors stop nearly all of it.
var adviceTable = []advice{
	{ct.TimeoutTCPSynSent, "SYN_SENT: a SYN nobody has answered", flat(30),
		"a peer that answers a SYN after more than 30 s is refused; the client's next SYN starts afresh", ""},
	{ct.TimeoutTCPSynRecv, "SYN_RECV: a handshake without its last ACK", flat(30),
		"clients whose round trips and losses exceed 30 s must start again", ""},
	{ct.TimeoutTCPEstablished, "ESTABLISHED without traffic", established,
		"connections idle for longer lose their entry: translated ones break for good, others are picked up again if tcp_loose is 1 and the rules accept a packet in mid-stream", ""},
	{ct.TimeoutTCPFinWait, "FIN_WAIT: one side has closed, the other not answered", flat(60),
		"a connection closed on one side and silent on the other for a minute is cut", ""},
	{ct.TimeoutTCPCloseWait, "CLOSE_WAIT: half closed", never, "",
		"half-closed connections still carry data one way; a shorter timeout cuts them"},
	{ct.TimeoutTCPLastAck, "LAST_ACK", never, "", "30 s covers the retransmissions of the last FIN and holds few entries"},
	{ct.TimeoutTCPTimeWait, "TIME_WAIT: closed on both sides", flat(30),
		"a segment or FIN retransmitted more than 30 s after the end is invalid to the rules; nobody waits for it", ""},
	{ct.TimeoutTCPClose, "CLOSE: after a reset", never, "", "already short"},
	{ct.TimeoutTCPMaxRetrans, "any state while the same packet is repeated, or the window is closed", never, "",
		"it is what a busy connection lives by during a short outage"},
	{ct.TimeoutTCPUnacknowledged, "any state while data is unacknowledged", never, "",
		"running transfers always carry it: lowering it cuts the busiest connections during a short outage"},
	{ct.TimeoutUDP, "UDP without a lasting exchange", udpPlain,
		"answers that take longer find no entry", ""},
	{ct.TimeoutUDPStream, "UDP streams", udpStream,
		"peers that are silent for longer between packets lose their entry, and their port behind NAT", ""},
	{ct.TimeoutICMP, "ICMP echo and the like", flat(10), "answers slower than 10 s are refused", ""},
	{ct.TimeoutICMPv6, "ICMPv6 echo", flat(10), "answers slower than 10 s are refused", ""},
	{ct.TimeoutGeneric, "protocols without a tracker of their own (ESP, AH, OSPF, …)", flat(120),
		"tunnels silent for two minutes without keepalives must be opened from the inside again", ""},
	{ct.TimeoutGRE, "GRE before an answer", never, "", "copied into an entry when it is made; existing tunnels would not follow"},
	{ct.TimeoutGREStream, "GRE streams", never, "", "copied into an entry when it is made; existing tunnels would not follow"},
	{ct.TimeoutSCTPClosed, "SCTP CLOSED", never, "", "already short"},
	{ct.TimeoutSCTPCookieWait, "SCTP COOKIE_WAIT", never, "", "already short"},
	{ct.TimeoutSCTPCookieEchoed, "SCTP COOKIE_ECHOED", never, "", "already short"},
	{ct.TimeoutSCTPEstablished, "SCTP ESTABLISHED", sctpEstablished,
		"associations without heartbeats that are idle for longer lose their entry", ""},
	{ct.TimeoutSCTPShutdownSent, "SCTP SHUTDOWN_SENT", never, "", "already short"},
	{ct.TimeoutSCTPShutdownRecd, "SCTP SHUTDOWN_RECD", never, "", "already short"},
	{ct.TimeoutSCTPShutdownAckSent, "SCTP SHUTDOWN_ACK_SENT", never, "", "already short"},
	{ct.TimeoutSCTPHeartbeatSent, "SCTP heartbeats on a second path", never, "", "multihoming depends on it"},
	{ct.TimeoutSCTPHeartbeatAcked, "SCTP heartbeats answered", never, "", "multihoming depends on it"},
	{ct.TimeoutDCCPRequest, "DCCP REQUEST", never, "", "too few flows to matter"},
	{ct.TimeoutDCCPRespond, "DCCP RESPOND", never, "", "too few flows to matter"},
	{ct.TimeoutDCCPPartOpen, "DCCP PARTOPEN", never, "", "too few flows to matter"},
	{ct.TimeoutDCCPOpen, "DCCP OPEN", never, "", "too few flows to matter"},
	{ct.TimeoutDCCPCloseReq, "DCCP CLOSEREQ", never, "", "too few flows to matter"},
	{ct.TimeoutDCCPClosing, "DCCP CLOSING", never, "", "too few flows to matter"},
	{ct.TimeoutDCCPTimeWait, "DCCP TIMEWAIT", never, "", "too few flows to matter"},
	{ct.TimeoutUDPLite, "UDP-Lite without a lasting exchange", never, "", "too few flows to matter"},
	{ct.TimeoutUDPLiteStream, "UDP-Lite streams", never, "", "too few flows to matter"},
}

func established(b *builder) int32 {
	if k := b.o.KeepIdle; k > 0 {
		return max(keepaliveFloor, seconds(k+k/20))
	}
	t := int32(86400)
	if b.s.Knobs.TCPKeepaliveTime.Known {
		// First probe, nine unanswered probes of 75 s, and a margin.
		t = max(t, clampSeconds(b.s.Knobs.TCPKeepaliveTime.N+9*75+60))
	}
	return t
}

func udpPlain(b *builder) int32 {
	if b.p.Role == RoleDNS {
		return 15 // resolvers give up on a server well before
	}
	return 0
}

func udpStream(b *builder) int32 {
	switch b.p.Role {
	case RoleDNS:
		return 30
	case RoleGame, RoleBalancer:
		return 0
	}
	return 120
}

func sctpEstablished(b *builder) int32 {
	if b.s.Version.AtLeast(6, 1) {
		return 0
	}
	return 86400
}

func seconds(d time.Duration) int32 { return clampSeconds(int64(d / time.Second)) }

// MaxTimeout is what every kernel takes: INT_MAX jiffies at 1000 Hz.
const MaxTimeout = 2147483 * time.Second

// clampSeconds stays within what every kernel takes.
func clampSeconds(s int64) int32 { return int32(min(max(s, 1), int64(MaxTimeout/time.Second))) }

// floors are the least values in seconds.
type floors [ct.NumTimeouts]int32

func floorsFor(r Role, s *ct.Snapshot) floors {
	var f floors
	f[ct.TimeoutTCPSynSent], f[ct.TimeoutTCPSynRecv] = 15, 15
	f[ct.TimeoutTCPEstablished] = keepaliveFloor
	f[ct.TimeoutUDP], f[ct.TimeoutUDPStream] = 10, 30
	if r != RoleGateway && s.Tracking.NAT != ct.Unknown {
		return f
	}
	// RFC 5382 REQ-5, RFC 4787 REQ-5, RFC 5508 REQ-2. Where the kernel's default
	// is lower already it is not lowered further.
	for _, k := range []ct.TimeoutKey{ct.TimeoutTCPSynSent, ct.TimeoutTCPSynRecv, ct.TimeoutTCPFinWait,
		ct.TimeoutTCPCloseWait, ct.TimeoutTCPLastAck, ct.TimeoutTCPTimeWait} {
		f[k] = 240
	}
	f[ct.TimeoutUDP], f[ct.TimeoutUDPStream] = 120, 120
	f[ct.TimeoutICMP], f[ct.TimeoutICMPv6] = 60, 60
	return f
}

// timeouts decides every timeout that the kernel has, and leaves the outcome
// in b.planned.
func (b *builder) timeouts() {
	defaults := ct.DefaultTimeouts(b.s.Version)
	for i := range adviceTable {
		a := &adviceTable[i]
		now, ok := b.s.Timeouts.Get(a.key)
		if !ok {
			continue
		}
		if std, has := defaults.Get(a.key); has && b.broken(a.key, now, std) {
			b.repair(a, now, std)
			continue
		}
		b.lower(a, now)
	}
}

// broken reports a value that ends flows that live: none or negative, or too
// short for a default keepalive.
func (b *builder) broken(k ct.TimeoutKey, now, std int32) bool {
	if now <= 0 {
		return std > 0
	}
	return k == ct.TimeoutTCPEstablished && now < b.establishedFloor()
}

// establishedFloor takes a faster keepalive of this machine as proof of a
// lower need only where the machine itself is an end of the connections.
func (b *builder) establishedFloor() int32 {
	if k := b.o.KeepIdle; k > 0 {
		return seconds(k)
	}
	if t := b.s.Knobs.TCPKeepaliveTime; t.Known && !b.p.Role.translates() {
		return min(7200, clampSeconds(t.N))
	}
	return 7200
}

func (b *builder) repair(a *advice, now, std int32) {
	to, why := std, fmt.Sprintf("%d ends each flow at its next packet", now)
	if now > 0 {
		to = max(keepaliveFloor, b.establishedFloor())
		if k := b.o.KeepIdle; k > 0 {
			why = fmt.Sprintf("%s is less than the %s that an idle connection must live: idle sessions lose their entry", span(now), span(seconds(k)))
		} else {
			why = fmt.Sprintf("%s is less than the 7200 s after which TCP first probes an idle connection: idle sessions lose their entry", span(now))
		}
	}
	b.planned.Set(a.key, to)
	b.add(Item{Key: TimeoutSetting(a.key), From: itoa(now), To: itoa(to), ActsOn: a.actsOn, Why: why,
		Risk: "entries live longer, so more of them stand in the table"})
}

func (b *builder) lower(a *advice, now int32) {
	key := TimeoutSetting(a.key)
	to := a.to(b)
	if to == 0 {
		why := a.keep
		if why == "" {
			why = "right for a " + string(b.p.Role)
		}
		b.keep(key, itoa(now), why)
		return
	}
	floor := b.floors[a.key]
	if to < floor {
		to = floor
	}
	switch share, known := b.share(a.key); {
	case now <= to && to == floor && now <= floor:
		b.keep(key, itoa(now), b.floorReason(a.key))
	case now <= to:
		b.keep(key, itoa(now), "no higher than proposed")
	case !known:
		b.keep(key, itoa(now), "how many entries wait for them could not be seen")
	case !b.tight && !b.idleLeak(a.key, to):
		b.keep(key, itoa(now), "the table has room enough: nothing to gain")
	case share < worthShare && !b.idleLeak(a.key, to):
		b.keep(key, itoa(now), "their entries are less than "+percent(worthShare)+" of the table: nothing to gain")
	default:
		b.planned.Set(a.key, to)
		b.add(Item{Key: key, From: itoa(now), To: itoa(to), ActsOn: a.actsOn,
			Why:  b.whyLower(a.key, share, now, to),
			Risk: a.risk})
	}
}

func (b *builder) floorReason(k ct.TimeoutKey) string {
	floor := b.floors[k]
	if floor >= 60 && b.p.Role == RoleGateway && k != ct.TimeoutTCPEstablished {
		return "the RFCs ask this of a NAT or more (transitory 240 s, UDP 120 s, ICMP 60 s): not shortened further"
	}
	return "at its floor of " + span(floor)
}

// idleLeak reports whether enough connections have been idle for longer than a
// proposal to make it worth while: they are what five days collect.
func (b *builder) idleLeak(k ct.TimeoutKey, to int32) bool {
	if k != ct.TimeoutTCPEstablished || b.s.Census == nil {
		return false
	}
	var over float64
	for _, c := range b.s.Census.Classes {
		if classTimeout(c.ClassKey) == k {
			over += idleBeyond(c, float64(to))
		}
	}
	return b.scaled(uint64(over)) >= leakShare*float64(b.s.Limits.Max.N)
}

func (b *builder) whyLower(k ct.TimeoutKey, share float64, now, to int32) string {
	if k == ct.TimeoutTCPEstablished {
		return fmt.Sprintf("%s of the table is established; a connection that vanished without a word stays %s, and early drop never evicts it", percent(share), span(now))
	}
	if b.blind {
		return fmt.Sprintf("short connections, as %.0f a second mostly are, wait for it when they are over; after %s instead of %s there are about %.0f %% fewer",
			b.o.PeakNew, span(to), span(now), 100*(1-float64(to)/float64(now)))
	}
	return fmt.Sprintf("%s of the table waits for this timeout; after %s instead of %s there are about %.0f %% fewer",
		percent(share), span(to), span(now), 100*(1-float64(to)/float64(now)))
}

// share is the part of the table governed by a timeout, 0 to 1.
func (b *builder) share(k ct.TimeoutKey) (share float64, known bool) {
	c := b.s.Census
	if b.blind && k == ct.TimeoutTCPTimeWait {
		return 1, true // what blindDemand takes every flow for
	}
	if c == nil {
		return 0, false
	}
	return c.Share(c.Sum(func(ck ct.ClassKey) bool { return classTimeout(ck) == k })), true
}

// classTimeout is the timeout that a class of entries waits for, NumTimeouts
// if there is none.
func classTimeout(c ct.ClassKey) ct.TimeoutKey {
	var st ct.Status
	if c.Assured {
		st = ct.StatusAssured
	}
	k, ok := ct.StateTimeout(c.Proto, c.State, st)
	if !ok {
		return ct.NumTimeouts
	}
	return k
}

// idleBeyond estimates how many entries of a class have been idle for more
// than some seconds, between the bounds that were counted in proportion to the
// logarithm of time.
func idleBeyond(c ct.Class, s float64) float64 {
	if s < 1 {
		return float64(c.Entries)
	}
	prevT, prevN := 1.0, float64(c.IdleKnown)
	for i, step := range ct.IdleSteps {
		t, n := step.Seconds(), float64(c.IdleOver[i])
		if s <= t {
			part := math.Log(s/prevT) / math.Log(t/prevT)
			return prevN + (n-prevN)*part
		}
		prevT, prevN = t, n
	}
	return prevN
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }

func percent(share float64) string {
	if share > 0 && share < 0.01 {
		return "less than 1 %"
	}
	return fmt.Sprintf("%.0f %%", share*100)
}

// span prints seconds as a person says them.
func span(s int32) string {
	switch {
	case s >= 2*86400 && s%86400 == 0:
		return fmt.Sprintf("%d days", s/86400)
	case s == 86400:
		return "a day"
	case s >= 2*3600 && s%3600 == 0:
		return fmt.Sprintf("%d hours", s/3600)
	}
	return fmt.Sprintf("%d s", s)
}
