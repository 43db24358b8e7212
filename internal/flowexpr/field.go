package flowexpr

import (
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

// kind is the type of a field.
type kind uint8

const (
	kindBool kind = iota
	kindNumber
	kindDuration // nanoseconds
	kindAddr
	kindProto
	kindState
	kindFamily
	kindText
	kindStatus // a set of bits with names
	kindLabels // a set of bits with numbers
)

var kindNames = [...]string{"true or false", "number", "duration", "address", "protocol",
	"state", "family", "text", "set of status bits", "set of label bits"}

func (k kind) String() string { return kindNames[k] }

type (
	numFunc  func(f *ct.Flow, c *Context) (int64, bool)
	addrFunc func(f *ct.Flow) *netip.Addr
	textFunc func(f *ct.Flow) (string, bool)
)

// Field describes one name of the language.
type Field struct {
	Name string
	Doc  string
	kind kind

	flag func(f *ct.Flow) bool
	num  numFunc
	addr addrFunc
	text textFunc
}

// Type returns the kind of value in words.
func (f *Field) Type() string { return f.kind.String() }

// Numeric reports whether the field has a number that flows can be sorted by;
// durations are in nanoseconds.
func (f *Field) Numeric() bool { return f.num != nil }

// Number returns that number, and false where the flow has none.
func (f *Field) Number(fl *ct.Flow, c *Context) (int64, bool) { return f.num(fl, c) }

// FindField finds a field by name.
func FindField(name string) (*Field, bool) {
	f, ok := fieldIndex[name]
	return f, ok
}

// Fields lists the names of the language in the order of the documentation.
func Fields() []Field { return fields }

var fieldIndex = func() map[string]*Field {
	m := make(map[string]*Field, len(fields))
	for i := range fields {
		m[fields[i].Name] = &fields[i]
	}
	return m
}()

var fields = []Field{
	{Name: "family", kind: kindFamily, Doc: `"ipv4" or "ipv6"`},
	{Name: "proto", kind: kindProto, Doc: `protocol by name or number: "tcp", "udp", 47`},
	{Name: "state", kind: kindState, Doc: `"SYN_SENT", "ESTABLISHED" and so on; TCP, SCTP and DCCP only, unknown while offloaded`},
	{Name: "src", kind: kindAddr, Doc: "source address of the original direction", addr: func(f *ct.Flow) *netip.Addr { return &f.Orig.Src }},
	{Name: "dst", kind: kindAddr, Doc: "destination address of the original direction", addr: func(f *ct.Flow) *netip.Addr { return &f.Orig.Dst }},
	{Name: "reply_src", kind: kindAddr, Doc: "source address of the reply direction: where it really goes under DNAT", addr: func(f *ct.Flow) *netip.Addr { return &f.Reply.Src }},
	{Name: "reply_dst", kind: kindAddr, Doc: "destination address of the reply direction: the translated source under SNAT", addr: func(f *ct.Flow) *netip.Addr { return &f.Reply.Dst }},
	port("sport", "source port of the original direction", func(f *ct.Flow) (*ct.Tuple, uint16) { return &f.Orig, f.Orig.SrcPort }),
	port("dport", "destination port of the original direction", func(f *ct.Flow) (*ct.Tuple, uint16) { return &f.Orig, f.Orig.DstPort }),
	port("reply_sport", "source port of the reply direction", func(f *ct.Flow) (*ct.Tuple, uint16) { return &f.Reply, f.Reply.SrcPort }),
	port("reply_dport", "destination port of the reply direction", func(f *ct.Flow) (*ct.Tuple, uint16) { return &f.Reply, f.Reply.DstPort }),
	icmp("icmp_type", "type of the original direction, ICMP and ICMPv6 only", func(t *ct.Tuple) int64 { return int64(t.ICMPType) }),
	icmp("icmp_code", "code, ICMP and ICMPv6 only", func(t *ct.Tuple) int64 { return int64(t.ICMPCode) }),
	icmp("icmp_id", "identifier, ICMP and ICMPv6 only", func(t *ct.Tuple) int64 { return int64(t.ICMPID) }),
	greKey("gre_srckey", "key of the original direction (PPTP call id), GRE only", func(t *ct.Tuple) uint16 { return t.SrcPort }),
	greKey("gre_dstkey", "key of the reply direction, GRE only", func(t *ct.Tuple) uint16 { return t.DstPort }),

	flag("nat", "addresses or ports are translated", func(f *ct.Flow) bool { return f.NAT() }),
	bit("src_nat", "the source is translated", ct.StatusSrcNAT),
	bit("dst_nat", "the destination is translated", ct.StatusDstNAT),
	bit("assured", "early drop spares it", ct.StatusAssured),
	bit("replied", "packets were seen both ways", ct.StatusSeenReply),
	flag("unreplied", "packets were seen one way only", func(f *ct.Flow) bool { return !f.Replied() }),
	flag("offloaded", "a flow table carries the packets", (*ct.Flow).Offloaded),
	bit("expected", "a helper's expectation let it in", ct.StatusExpected),
	bit("dying", "it is on its way out", ct.StatusDying),
	{Name: "status", kind: kindStatus, Doc: `the status bits by name: "ASSURED" in status, "FIXED_TIMEOUT" in status`},

	{Name: "timeout", kind: kindDuration, Doc: "what remains of the timeout; unknown while offloaded", num: func(f *ct.Flow, _ *Context) (int64, bool) {
		return int64(f.Timeout()), f.Has(ct.HasTimeout)
	}},
	{Name: "idle_min", kind: kindDuration, Doc: "the least time since its last packet; often unknown", num: idleMin},
	{Name: "age", kind: kindDuration, Doc: "time since its first packet; needs nf_conntrack_timestamp", num: age},

	number("mark", "the conntrack mark, 0 if unset; with a mask: mark == 0x10/0xff", func(f *ct.Flow) (int64, bool) { return int64(f.Mark), true }),
	number("zone", "the zone of both directions, else of the original one, else 0", func(f *ct.Flow) (int64, bool) { return int64(Zone(f)), true }),
	number("orig_zone", "the zone of the original direction, 0 if none", func(f *ct.Flow) (int64, bool) { return int64(f.Zone | f.ZoneOrig), true }),
	number("reply_zone", "the zone of the reply direction, 0 if none", func(f *ct.Flow) (int64, bool) { return int64(f.Zone | f.ZoneReply), true }),
	number("id", "the kernel's id of the entry", func(f *ct.Flow) (int64, bool) { return int64(f.ID), f.Has(ct.HasID) }),
	number("use", "references the kernel holds", func(f *ct.Flow) (int64, bool) { return int64(f.Use), f.Has(ct.HasUse) }),
	{Name: "labels", kind: kindLabels, Doc: "the label bits by number: 3 in labels"},
	{Name: "helper", kind: kindText, Doc: `name of the helper, as "ftp"; "" if none`, text: func(f *ct.Flow) (string, bool) { return f.Helper, true }},
	{Name: "secctx", kind: kindText, Doc: "security context", text: func(f *ct.Flow) (string, bool) { return f.SecCtx, f.Has(ct.HasSecCtx) }},

	counter("packets", "packets both ways; needs nf_conntrack_acct", func(f *ct.Flow) uint64 { return f.OrigCounters.Packets + f.ReplyCounters.Packets }),
	counter("bytes", "bytes both ways; needs nf_conntrack_acct", func(f *ct.Flow) uint64 { return f.OrigCounters.Bytes + f.ReplyCounters.Bytes }),
	counter("orig_packets", "packets of the original direction", func(f *ct.Flow) uint64 { return f.OrigCounters.Packets }),
	counter("orig_bytes", "bytes of the original direction", func(f *ct.Flow) uint64 { return f.OrigCounters.Bytes }),
	counter("reply_packets", "packets of the reply direction", func(f *ct.Flow) uint64 { return f.ReplyCounters.Packets }),
	counter("reply_bytes", "bytes of the reply direction", func(f *ct.Flow) uint64 { return f.ReplyCounters.Bytes }),

	flag("has_master", "another entry's helper expected it", func(f *ct.Flow) bool { return f.Has(ct.HasMaster) }),
	flag("seq_adjusted", "a helper changed sequence numbers", func(f *ct.Flow) bool { return f.Has(ct.HasSeqAdj) || f.Status.Any(ct.StatusSeqAdjust) }),
	flag("synproxied", "SYNPROXY answered the handshake", func(f *ct.Flow) bool { return f.SynProxy != ct.SynProxy{} }),
}

// Zone is the zone in which a flow's original tuple is looked up.
func Zone(f *ct.Flow) uint16 {
	if f.Has(ct.HasZone) {
		return f.Zone
	}
	return f.ZoneOrig
}

// idleMin is the least idle time under the timeouts in force and all former
// ones. Timeouts too small for what is left cannot have been in force.
func idleMin(f *ct.Flow, c *Context) (int64, bool) {
	if c.Timeouts == nil {
		return 0, false
	}
	least, known := ct.IdleMin(f, c.Timeouts)
	for i := range c.Former {
		if d, ok := ct.IdleMin(f, &c.Former[i]); ok && (!known || d < least) {
			least, known = d, true
		}
	}
	return int64(least), known
}

func age(f *ct.Flow, c *Context) (int64, bool) {
	return c.NowNanos - f.StartNanos, f.Has(ct.HasTimestamp) && f.StartNanos > 0
}

func flag(name, doc string, fn func(*ct.Flow) bool) Field {
	return Field{Name: name, Doc: doc, kind: kindBool, flag: fn}
}

func bit(name, doc string, b ct.Status) Field {
	return flag(name, doc, func(f *ct.Flow) bool { return f.Status&b != 0 })
}

func number(name, doc string, fn func(*ct.Flow) (int64, bool)) Field {
	return Field{Name: name, Doc: doc, kind: kindNumber,
		num: func(f *ct.Flow, _ *Context) (int64, bool) { return fn(f) }}
}

func port(name, doc string, fn func(*ct.Flow) (*ct.Tuple, uint16)) Field {
	return number(name, doc+"; unknown for protocols without ports", func(f *ct.Flow) (int64, bool) {
		t, p := fn(f)
		return int64(p), t.Proto.HasPorts()
	})
}

func icmp(name, doc string, fn func(*ct.Tuple) int64) Field {
	return number(name, doc, func(f *ct.Flow) (int64, bool) {
		return fn(&f.Orig), f.Orig.Proto.IsICMP()
	})
}

func greKey(name, doc string, fn func(*ct.Tuple) uint16) Field {
	return number(name, doc, func(f *ct.Flow) (int64, bool) {
		return int64(fn(&f.Orig)), f.Orig.Proto == ct.GRE
	})
}

func counter(name, doc string, fn func(*ct.Flow) uint64) Field {
	return number(name, doc, func(f *ct.Flow) (int64, bool) {
		return int64(min(fn(f), 1<<63-1)), f.Has(ct.HasCounters)
	})
}
