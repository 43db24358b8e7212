package klog

import (
	"bytes"
	"math"

	"github.com/ctwarden/ctwarden/ct"
)

// event is one recognised message.
type event struct {
	kind       Kind
	times      uint64 // how often syslog says it was printed, at least 1
	netns      uint64
	suppressed uint64
	detail     string
	era        Era
	buckets    ct.Value
	max        ct.Value
	text       []byte // the message; valid until the next read
}

// classify recognises a message of the kernel's, or of the two programs that
// write settings at boot. program is the tag, "" where the format has none.
func classify(program, message []byte) (event, bool) {
	e := event{times: 1, text: message}
	c := &cursor{message}
	if c.repeated(&e) {
		e.text = c.s
	}
	if len(program) > 0 && string(program) != "kernel" {
		ok := isSettingProgram(program) && c.settingNotApplied(&e)
		return e, ok
	}
	for _, match := range matchers {
		t := *c
		if match(&t, &e) {
			return e, true
		}
	}
	return event{}, false
}

var matchers = [...]func(*cursor, *event) bool{
	(*cursor).tableFull, (*cursor).expectTableFull, (*cursor).callbacksSuppressed,
	(*cursor).synFlood, (*cursor).neighbourOverflow, (*cursor).socketMemory,
	(*cursor).invalidPacket, (*cursor).helper, (*cursor).loading,
	(*cursor).settingNotApplied,
}

// repeated reads rsyslog's "message repeated 9 times: [ " up to the bracket.
func (c *cursor) repeated(e *event) bool {
	start := *c
	if c.literal("message repeated ") {
		n, ok := c.number(1, 9)
		if ok && n > 0 && c.literal(" times: [") {
			c.blanks()
			c.kernelStamps(&prefix{})
			c.s = bytes.TrimSuffix(c.s, []byte("]"))
			e.times = uint64(n)
			return true
		}
	}
	*c = start
	return false
}

// rest reports whether what is left is lit, or as much of it as a viewer or a
// short line left; nothing may follow.
func (c *cursor) rest(lit string) bool {
	s := bytes.TrimRight(c.s, " \t\r")
	return len(s) <= len(lit) && string(s) == lit[:len(s)]
}

// tableFull: (ip|nf)_conntrack: (nf_conntrack: )?table full( in netns N)?, dropping packet.?
func (c *cursor) tableFull(e *event) bool {
	if c.literal("ip_conntrack: ") {
		e.era = EraIP
	} else if !c.literal("nf_conntrack: ") {
		return false
	} else if c.literal("nf_conntrack: ") {
		e.era = EraDoubled
	}
	if !c.literal("table full") {
		return false
	}
	if c.literal(" in netns ") {
		if n, ok := c.number(1, 10); ok {
			e.netns, e.era = uint64(n), EraNetns
			if n > math.MaxUint32 {
				return false
			}
		}
	}
	const tail = ", dropping packet"
	if e.era == EraUnknown {
		switch string(bytes.TrimRight(c.s, " \t\r")) {
		case tail:
			e.era = EraPlain
		case tail + ".":
			e.era = EraPeriod
		}
	}
	e.kind = TableFull
	return c.rest(tail+".") || c.rest(" in netns ")
}

func (c *cursor) expectTableFull(e *event) bool {
	e.kind = ExpectTableFull
	return (c.literal("nf_conntrack: ") || c.literal("ip_conntrack: ")) && c.literal("expectation table full")
}

// callbacksSuppressed reads the summary of a limiter. Up to 2.6.31 the shared
// one's name was printk or __ratelimit, the latter for every other one too.
func (c *cursor) callbacksSuppressed(e *event) bool {
	i := bytes.IndexByte(c.s, ':')
	if i <= 0 || i > 64 {
		return false
	}
	name := string(c.s[:i])
	c.s = c.s[i+1:]
	c.blanks()
	n, ok := c.number(1, 10)
	if !ok || n > math.MaxUint32 {
		return false
	}
	e.suppressed = uint64(n)
	switch {
	case name == "printk" && c.literal(" messages suppress"):
		e.kind = Suppressed
		return c.rest("ed.")
	case !c.literal(" callbacks suppresse"):
		return false
	case name == "net_ratelimit" || name == "__ratelimit" || name == "___ratelimit":
		e.kind = Suppressed
	default:
		e.kind, e.detail = SuppressedPrivate, name
	}
	return c.rest("d")
}

// synFlood: (TCP: )*(SLAB: )?[Pp]ossible SYN flooding on port WHERE. WHAT.
func (c *cursor) synFlood(e *event) bool {
	i := bytes.Index(c.s, []byte("ossible SYN flooding on port "))
	if i < 1 || i > 80 || !isMessageStart(c.s[:i]) {
		return false
	}
	c.s = c.s[i+len("ossible SYN flooding on port "):]
	where := c.word()
	if where == nil {
		where = c.s
	}
	e.kind, e.detail = SynFlood, string(bytes.TrimRight(where, ". "))
	return len(e.detail) > 0 && len(e.detail) <= 64
}

// isMessageStart reports whether only words that end in a colon stand before
// the message's first letter, P or p.
func isMessageStart(s []byte) bool {
	if last := s[len(s)-1]; last != 'P' && last != 'p' {
		return false
	}
	for _, w := range bytes.Fields(s[:len(s)-1]) {
		if w[len(w)-1] != ':' {
			return false
		}
	}
	return true
}

// neighbourOverflow: "Neighbour table overflow." with or without "ipv4: ", or
// "neighbour: CACHE: neighbor table overflow!".
func (c *cursor) neighbourOverflow(e *event) bool {
	e.kind = NeighbourOverflow
	if c.literal("neighbour: ") {
		i := bytes.IndexByte(c.s, ':')
		if i <= 0 || i > 64 {
			return false
		}
		e.detail = string(c.s[:i])
		c.s = c.s[i+1:]
		c.blanks()
		return c.literal("neighbor table overflow") && c.rest("!")
	}
	if c.literal("ipv4: ") || c.literal("IPv4: ") {
		e.detail = "arp_cache"
	}
	return c.literal("Neighbour table overflow") && c.rest(".")
}

func (c *cursor) socketMemory(e *event) bool {
	for c.literal("TCP: ") {
	}
	switch {
	case c.literal("too many orphaned sockets"):
		e.kind = OrphanedSockets
		return true
	case c.literal("out of memory -- consider tuning tcp_mem"), c.literal("Out of socket memory"):
		e.kind = SocketMemory
		return true
	}
	return false
}

// invalidPacket: "nf_ct_proto_6: invalid rst IN=…".
func (c *cursor) invalidPacket(e *event) bool {
	if !c.literal("nf_ct_proto_") {
		return false
	}
	n, ok := c.number(1, 3)
	if !ok || n > 255 || !c.literal(":") {
		return false
	}
	e.kind, e.detail = InvalidPacket, ct.Proto(n).String()
	return true
}

// helper: what nf_conntrack_helper.c says.
func (c *cursor) helper(e *event) bool {
	if c.literal("nf_ct_") {
		i := bytes.IndexByte(c.s, ':')
		if i <= 0 || i > 32 {
			return false
		}
		e.kind, e.detail = HelperDrop, string(c.s[:i])
		c.s = c.s[i:]
		return c.literal(": dropping packet: ")
	}
	e.kind = HelperAssignment
	for c.literal("nf_conntrack: ") {
	}
	c.literal("default ")
	return c.literal("automatic helper assignment")
}

// loading: what nf_conntrack_core.c says when the module starts.
func (c *cursor) loading(e *event) bool {
	for c.literal("nf_conntrack: ") {
	}
	if c.literal("falling back to vmalloc") {
		e.kind = BucketsFellBack
		return true
	}
	if !c.literal("nf_conntrack version ") && !c.literal("ip_conntrack version ") {
		return false
	}
	e.kind, e.detail = Loaded, string(c.word())
	if c.literal("(") {
		buckets, ok1 := c.number(1, 12)
		ok2 := c.literal(" buckets, ")
		limit, ok3 := c.number(1, 12)
		if ok1 && ok2 && ok3 && c.literal(" max)") {
			e.buckets, e.max = ct.Known(buckets), ct.Known(limit)
		}
	}
	return true
}

func isSettingProgram(program []byte) bool {
	switch string(program) {
	case "systemd-sysctl", "sysctl", "procps":
		return true
	}
	return false
}

// settingNotApplied: a conntrack key did not exist, or could not be written,
// when the boot's settings were applied.
func (c *cursor) settingNotApplied(e *event) bool {
	e.kind = SettingNotApplied
	c.literal("sysctl: ")
	if c.literal("cannot stat /proc/sys/") {
		return c.conntrackKey(e, ':')
	}
	if i := bytes.Index(c.s, []byte("ouldn't write '")); i < 0 || i > 64 {
		return false
	}
	i := bytes.Index(c.s, []byte("' to '"))
	if i < 0 {
		return false
	}
	c.s = c.s[i+len("' to '"):]
	return c.conntrackKey(e, '\'')
}

// conntrackKey reads a path under /proc/sys up to end and keeps it, dotted, if
// it is one of connection tracking.
func (c *cursor) conntrackKey(e *event, end byte) bool {
	i := bytes.IndexByte(c.s, end)
	if i <= 0 || i > 128 || !bytes.Contains(c.s[:i], []byte("conntrack")) {
		return false
	}
	e.detail = string(bytes.ReplaceAll(c.s[:i], []byte("/"), []byte(".")))
	return true
}
