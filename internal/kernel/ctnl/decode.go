package ctnl

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

// Unknown is an attribute that this package does not know, or whose payload
// has a size that it does not expect.
type Unknown struct {
	// Parent is the type of the attribute it was found in, enum ctattr_type,
	// or 0 at the top.
	Parent uint16
	// Type is the attribute's own type, without flags.
	Type uint16
	// Payload is valid until the callback returns.
	Payload []byte
}

// decoder turns messages into flows. Its zero value is ready.
type decoder struct {
	unknown func(*ct.Flow, Unknown)
	names   interner
	general bool // for tests: do without the shortcuts of shape.go
}

// entry decodes the attributes of one entry into f, all of which it sets. The
// fields of parts that the message lacks are zero, and absent from f.Fields.
func (d *decoder) entry(b attrs, f *ct.Flow) error {
	reset(f)
	for {
		if !d.general {
			b = usual(b, f)
		}
		a, rest, more := b.next()
		if !more {
			break
		}
		b = rest
		if !word(a, f) && !d.attr(a, f) {
			d.other(f, 0, a)
		}
	}
	if !b.intact() {
		return fmt.Errorf("%w: attributes do not fill it", ErrMalformed)
	}
	if !f.Orig.IsValid() {
		return fmt.Errorf("%w: entry without original tuple", ErrMalformed)
	}
	return nil
}

// reset clears what the last decoding set. Going by what it set is cheaper than
// clearing all, for the rare parts are the large ones.
func reset(f *ct.Flow) {
	const rare = ct.HasLabels | ct.HasMaster | ct.HasSeqAdj | ct.HasSecCtx | ct.HasHelper | ct.HasEventTime
	if f.Fields&rare != 0 {
		*f = ct.Flow{}
		return
	}
	if f.Fields&ct.HasCounters != 0 {
		f.OrigCounters, f.ReplyCounters = ct.DirCounters{}, ct.DirCounters{}
	}
	if f.Fields&ct.HasTimestamp != 0 {
		f.StartNanos, f.StopNanos = 0, 0
	}
	f.Orig, f.Reply = ct.Tuple{}, ct.Tuple{}
	f.Status, f.State, f.Fields = 0, 0, 0
	f.TimeoutSeconds, f.Mark, f.ID, f.Use = 0, 0, 0, 0
	f.Zone, f.ZoneOrig, f.ZoneReply = 0, 0, 0
	f.TCP, f.SCTP, f.DCCP = ct.TCPInfo{}, ct.SCTPInfo{}, ct.DCCPInfo{}
	f.SynProxy = ct.SynProxy{}
}

func (d *decoder) other(f *ct.Flow, parent uint16, a attr) {
	f.Fields |= ct.HasUnknown
	if d.unknown != nil {
		d.unknown(f, Unknown{Parent: parent, Type: a.typ, Payload: a.val})
	}
}

// word decodes the attributes of one 32-bit number, half of all there are.
func word(a attr, f *ct.Flow) bool {
	v, ok := a.u32()
	if !ok {
		return false
	}
	switch a.typ {
	case ctaStatus:
		f.Status = ct.Status(v)
	case ctaTimeout:
		f.TimeoutSeconds = v
		f.Fields |= ct.HasTimeout
	case ctaMark:
		f.Mark = v
		f.Fields |= ct.HasMark
	case ctaID:
		f.ID = v
		f.Fields |= ct.HasID
	case ctaUse:
		f.Use = v
		f.Fields |= ct.HasUse
	default:
		return false
	}
	return true
}

// attr decodes one attribute at the top and reports whether it knew it.
func (d *decoder) attr(a attr, f *ct.Flow) bool {
	switch a.typ {
	case ctaTupleOrig:
		return d.tuple(a, f, &f.Orig, &f.ZoneOrig)
	case ctaTupleReply:
		return d.tuple(a, f, &f.Reply, &f.ZoneReply)
	case ctaProtoInfo:
		return d.protoInfo(a, f)
	case ctaZone:
		v, ok := a.u16()
		if ok {
			f.Zone = v
			f.Fields |= ct.HasZone
		}
		return ok
	}
	return d.rareAttr(a, f)
}

// rareAttr decodes the attributes that few entries have.
func (d *decoder) rareAttr(a attr, f *ct.Flow) bool {
	switch a.typ {
	case ctaCountersOrig:
		d.counters(a, f, &f.OrigCounters)
	case ctaCountersReply:
		d.counters(a, f, &f.ReplyCounters)
	case ctaTimestamp:
		d.timestamp(a, f)
	case ctaTimestampEvent:
		v, ok := a.u64()
		if !ok {
			return false
		}
		f.EventNanos = int64(v)
		f.Fields |= ct.HasEventTime
	case ctaTupleMaster:
		var zone uint16
		f.Fields |= ct.HasMaster
		return d.tuple(a, f, &f.Master, &zone)
	case ctaLabels:
		if len(a.val) == 0 || len(a.val) > len(f.Labels) {
			return false
		}
		copy(f.Labels[:], a.val)
		f.Fields |= ct.HasLabels
	case ctaSeqAdjOrig:
		d.seqAdj(a, f, &f.SeqAdjOrig)
	case ctaSeqAdjReply:
		d.seqAdj(a, f, &f.SeqAdjReply)
	case ctaSynProxy:
		d.synProxy(a, f)
	case ctaHelp:
		d.name(a, f, ctaHelpName, &f.Helper, ct.HasHelper)
	case ctaSecCtx:
		d.name(a, f, ctaSecCtxName, &f.SecCtx, ct.HasSecCtx)
	default:
		return false
	}
	return true
}

// nest calls known for every attribute inside a, and keeps apart those for
// which it returns false.
func (d *decoder) nest(a attr, f *ct.Flow, known func(attr) bool) {
	in := attrs(a.val)
	for {
		sub, rest, more := in.next()
		if !more {
			return
		}
		in = rest
		if !known(sub) {
			d.other(f, a.typ, sub)
		}
	}
}

func (d *decoder) tuple(a attr, f *ct.Flow, t *ct.Tuple, zone *uint16) bool {
	in := attrs(a.val)
	for {
		sub, rest, more := in.next()
		if !more {
			return true
		}
		in = rest
		ok := false
		switch sub.typ {
		case ctaTupleIP:
			ok = d.tupleIP(sub, f, a.typ, t)
		case ctaTupleProto:
			ok = d.tupleProto(sub, f, a.typ, t)
		case ctaTupleZone:
			*zone, ok = sub.u16()
		}
		if !ok {
			d.other(f, a.typ, sub)
		}
	}
}

func (d *decoder) tupleIP(a attr, f *ct.Flow, parent uint16, t *ct.Tuple) bool {
	in := attrs(a.val)
	for {
		sub, rest, more := in.next()
		if !more {
			return true
		}
		in = rest
		switch {
		case sub.typ == ctaIPv4Src && len(sub.val) == 4:
			t.Src = netip.AddrFrom4([4]byte(sub.val))
		case sub.typ == ctaIPv4Dst && len(sub.val) == 4:
			t.Dst = netip.AddrFrom4([4]byte(sub.val))
		case sub.typ == ctaIPv6Src && len(sub.val) == 16:
			t.Src = netip.AddrFrom16([16]byte(sub.val))
		case sub.typ == ctaIPv6Dst && len(sub.val) == 16:
			t.Dst = netip.AddrFrom16([16]byte(sub.val))
		default:
			d.other(f, parent, sub)
		}
	}
}

func (d *decoder) tupleProto(a attr, f *ct.Flow, parent uint16, t *ct.Tuple) bool {
	in := attrs(a.val)
	for {
		sub, rest, more := in.next()
		if !more {
			return true
		}
		in = rest
		if !protoAttr(sub, t) {
			d.other(f, parent, sub)
		}
	}
}

func protoAttr(a attr, t *ct.Tuple) (ok bool) {
	switch a.typ {
	case ctaProtoNum:
		var n uint8
		n, ok = a.u8()
		t.Proto = ct.Proto(n)
	case ctaProtoSrcPort:
		t.SrcPort, ok = a.u16()
	case ctaProtoDstPort:
		t.DstPort, ok = a.u16()
	case ctaProtoICMPID, ctaProtoICMPv6ID:
		t.ICMPID, ok = a.u16()
	case ctaProtoICMPType, ctaProtoICMPv6Type:
		t.ICMPType, ok = a.u8()
	case ctaProtoICMPCode, ctaProtoICMPv6Code:
		t.ICMPCode, ok = a.u8()
	}
	return ok
}

func (d *decoder) protoInfo(a attr, f *ct.Flow) bool {
	in := attrs(a.val)
	for {
		sub, rest, more := in.next()
		if !more {
			return true
		}
		in = rest
		var known func(attr, *ct.Flow) bool
		switch sub.typ {
		case ctaProtoInfoTCP:
			known = tcpAttr
		case ctaProtoInfoSCTP:
			known = sctpAttr
		case ctaProtoInfoDCCP:
			known = dccpAttr
		default:
			d.other(f, a.typ, sub)
			continue
		}
		f.Fields |= ct.HasProtoInfo
		state := attrs(sub.val)
		for {
			s, rest, more := state.next()
			if !more {
				break
			}
			state = rest
			if !known(s, f) {
				d.other(f, a.typ, s)
			}
		}
	}
}

func stateAttr(a attr, f *ct.Flow) bool {
	v, ok := a.u8()
	f.State = ct.State(v)
	return ok
}

func tcpAttr(a attr, f *ct.Flow) (ok bool) {
	switch a.typ {
	case ctaTCPState:
		return stateAttr(a, f)
	case ctaTCPWScaleOrig:
		f.TCP.WScaleOrig, ok = a.u8()
	case ctaTCPWScaleReply:
		f.TCP.WScaleReply, ok = a.u8()
	case ctaTCPFlagsOrig:
		f.TCP.FlagsOrig, ok = tcpFlags(a)
	case ctaTCPFlagsReply:
		f.TCP.FlagsReply, ok = tcpFlags(a)
	}
	return ok
}

// tcpFlags reads struct nf_ct_tcp_flags: flags, then a mask that is zero in
// what the kernel sends.
func tcpFlags(a attr) (uint8, bool) {
	if len(a.val) != 2 {
		return 0, false
	}
	return a.val[0], true
}

func sctpAttr(a attr, f *ct.Flow) (ok bool) {
	switch a.typ {
	case ctaSCTPState:
		return stateAttr(a, f)
	case ctaSCTPVTagOrig:
		f.SCTP.VTagOrig, ok = a.u32()
	case ctaSCTPVTagReply:
		f.SCTP.VTagReply, ok = a.u32()
	}
	return ok
}

func dccpAttr(a attr, f *ct.Flow) (ok bool) {
	switch a.typ {
	case ctaDCCPState:
		return stateAttr(a, f)
	case ctaDCCPRole:
		f.DCCP.Role, ok = a.u8()
	case ctaDCCPSeq:
		f.DCCP.HandshakeSeq, ok = a.u64()
	case ctaDCCPPad:
		ok = true
	}
	return ok
}

func (d *decoder) counters(a attr, f *ct.Flow, c *ct.DirCounters) {
	f.Fields |= ct.HasCounters
	d.nest(a, f, func(s attr) (ok bool) {
		switch s.typ {
		case ctaCountersPackets:
			c.Packets, ok = s.u64()
		case ctaCountersBytes:
			c.Bytes, ok = s.u64()
		case ctaCounters32Packets:
			var v uint32
			v, ok = s.u32()
			c.Packets = uint64(v)
		case ctaCounters32Bytes:
			var v uint32
			v, ok = s.u32()
			c.Bytes = uint64(v)
		case ctaCountersPad:
			ok = true
		}
		return ok
	})
}

func (d *decoder) timestamp(a attr, f *ct.Flow) {
	f.Fields |= ct.HasTimestamp
	d.nest(a, f, func(s attr) bool {
		v, ok := s.u64()
		switch s.typ {
		case ctaTimestampStart:
			f.StartNanos = int64(v)
		case ctaTimestampStop:
			f.StopNanos = int64(v)
		case ctaTimestampPad:
			return true
		default:
			return false
		}
		return ok
	})
}

func (d *decoder) seqAdj(a attr, f *ct.Flow, s *ct.SeqAdj) {
	f.Fields |= ct.HasSeqAdj
	d.nest(a, f, func(sub attr) (ok bool) {
		switch sub.typ {
		case ctaSeqAdjCorrectionPos:
			s.CorrectionPos, ok = sub.u32()
		case ctaSeqAdjOffsetBefore:
			s.OffsetBefore, ok = sub.u32()
		case ctaSeqAdjOffsetAfter:
			s.OffsetAfter, ok = sub.u32()
		}
		return ok
	})
}

func (d *decoder) synProxy(a attr, f *ct.Flow) {
	f.Fields |= ct.HasSynProxy
	d.nest(a, f, func(s attr) (ok bool) {
		switch s.typ {
		case ctaSynProxyISN:
			f.SynProxy.ISN, ok = s.u32()
		case ctaSynProxyITS:
			f.SynProxy.ITS, ok = s.u32()
		case ctaSynProxyTSOff:
			f.SynProxy.TSOff, ok = s.u32()
		}
		return ok
	})
}

// name decodes an attribute that wraps one string. Whatever else it holds (the
// private data of a helper) is kept apart.
func (d *decoder) name(a attr, f *ct.Flow, typ uint16, s *string, has ct.Fields) {
	d.nest(a, f, func(sub attr) bool {
		if sub.typ != typ {
			return false
		}
		*s = d.names.get(bytes.TrimRight(sub.val, "\x00"))
		f.Fields |= has
		return true
	})
}

// interner returns the same string for the same bytes, so that a table full of
// flows with the same helper costs one string.
type interner struct{ known map[string]string }

const maxInterned = 256

func (n *interner) get(b []byte) string {
	if s, ok := n.known[string(b)]; ok {
		return s
	}
	if n.known == nil || len(n.known) >= maxInterned {
		n.known = make(map[string]string)
	}
	s := string(b)
	n.known[s] = s
	return s
}
