package flowfmt

import (
	"strconv"

	"github.com/ctwarden/ctwarden/ct"
)

// AppendConntrack appends a flow as "conntrack -L -o extended" of
// conntrack-tools 1.4.7 prints it, the end of the line included.
func (c *Context) AppendConntrack(b []byte, f *ct.Flow) []byte {
	if f.Orig.Is4() {
		b = append(b, "ipv4     2 "...)
	} else {
		b = append(b, "ipv6     10 "...)
	}
	start := len(b)
	b = append(b, protoName(f.Orig.Proto)...)
	b = pad(b, start, 9)
	b = appendUint(b, "", f.Orig.Proto)
	if f.Has(ct.HasTimeout) {
		b = appendUint(b, "", f.TimeoutSeconds)
	}
	if f.Has(ct.HasProtoInfo) && f.Orig.Proto.HasState() {
		b = appendText(b, "", stateName(f))
	}
	b = appendTuple(b, &f.Orig)
	if f.ZoneOrig != 0 {
		b = appendUint(b, "zone-orig=", f.ZoneOrig)
	}
	b = appendCounters(b, f, f.OrigCounters)
	if !f.Replied() {
		b = append(b, "[UNREPLIED] "...)
	}
	b = appendTuple(b, &f.Reply)
	if f.ZoneReply != 0 {
		b = appendUint(b, "zone-reply=", f.ZoneReply)
	}
	b = appendCounters(b, f, f.ReplyCounters)
	b = append(b, fate(f.Status)...)
	b = c.appendRest(b, f)
	b[len(b)-1] = '\n'
	return b
}

// fate is what conntrack shows of the entry's standing.
func fate(s ct.Status) string {
	switch {
	case s.Has(ct.StatusHWOffload):
		return "[HW_OFFLOAD] "
	case s.Has(ct.StatusOffload):
		return "[OFFLOAD] "
	case s.Has(ct.StatusAssured):
		return "[ASSURED] "
	}
	return ""
}

func (c *Context) appendRest(b []byte, f *ct.Flow) []byte {
	if f.Has(ct.HasMark) {
		b = appendUint(b, "mark=", f.Mark)
	}
	if f.Has(ct.HasSecCtx) {
		b = appendText(b, "secctx=", f.SecCtx)
	}
	if f.Has(ct.HasZone) {
		b = appendUint(b, "zone=", f.Zone)
	}
	if f.Has(ct.HasTimestamp) {
		stop := c.NowNanos
		if f.StopNanos != 0 {
			stop = f.StopNanos
		}
		b = appendUint(b, "delta-time=", uint64(stop/1e9-f.StartNanos/1e9))
	}
	if f.Has(ct.HasHelper) {
		b = appendText(b, "helper=", f.Helper)
	}
	if f.Has(ct.HasUse) {
		b = appendUint(b, "use=", f.Use)
	}
	return b
}

// protoName is libnetfilter_conntrack's proto2str.
func protoName(p ct.Proto) string {
	switch p {
	case ct.TCP, ct.UDP, ct.UDPLite, ct.SCTP, ct.DCCP, ct.GRE, ct.ICMP, ct.ICMPv6:
		return p.String()
	}
	return "unknown"
}

// stateName is what libnetfilter_conntrack prints, which takes a state it does
// not know for NONE.
func stateName(f *ct.Flow) string {
	if n := ct.StateName(f.Orig.Proto, f.State); n != "" {
		return n
	}
	return "NONE"
}

func appendCounters(b []byte, f *ct.Flow, c ct.DirCounters) []byte {
	if !f.Has(ct.HasCounters) {
		return b
	}
	b = appendUint(b, "packets=", c.Packets)
	return appendUint(b, "bytes=", c.Bytes)
}

func appendTuple(b []byte, t *ct.Tuple) []byte {
	b = append(b, "src="...)
	b = AppendAddr(b, t.Src)
	b = append(b, " dst="...)
	b = AppendAddr(b, t.Dst)
	b = append(b, ' ')
	switch {
	case t.Proto.HasPorts():
		b = appendUint(b, "sport=", t.SrcPort)
		b = appendUint(b, "dport=", t.DstPort)
	case t.Proto.IsICMP():
		b = appendUint(b, "type=", t.ICMPType)
		b = appendUint(b, "code=", t.ICMPCode)
		b = appendUint(b, "id=", t.ICMPID)
	case t.Proto == ct.GRE:
		b = append(b, "srckey=0x"...)
		b = strconv.AppendUint(b, uint64(t.SrcPort), 16)
		b = append(b, " dstkey=0x"...)
		b = strconv.AppendUint(b, uint64(t.DstPort), 16)
		b = append(b, ' ')
	}
	return b
}
