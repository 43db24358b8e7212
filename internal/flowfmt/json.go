package flowfmt

import (
	"strconv"
	"unicode/utf8"

	"github.com/ctwarden/ctwarden/ct"
)

// AppendJSON appends a flow as an object of the schemas ctwarden.list/1 and
// ctwarden.watch/1. What the entry lacks is left out.
func (c *Context) AppendJSON(b []byte, f *ct.Flow) []byte {
	b = append(b, `{"family":"`...)
	b = append(b, family(f)...)
	b = append(b, `","proto":"`...)
	b = append(b, f.Orig.Proto.String()...)
	b = append(b, '"')
	if n := f.StateName(); n != "" {
		b = append(b, `,"state":"`...)
		b = append(b, n...)
		b = append(b, '"')
	}
	b = jsonNumber(b, "timeout_seconds", uint64(f.TimeoutSeconds), f.Has(ct.HasTimeout))
	d, ok := c.idle(f)
	b = jsonNumber(b, "idle_min_seconds", uint64(d.Seconds()), ok)
	b = jsonTuple(b, "orig", &f.Orig)
	b = jsonTuple(b, "reply", &f.Reply)
	b = jsonStatus(b, f.Status)
	b = jsonNumber(b, "mark", uint64(f.Mark), f.Has(ct.HasMark))
	b = jsonNumber(b, "zone", uint64(f.Zone), f.Has(ct.HasZone))
	b = jsonNumber(b, "orig_zone", uint64(f.ZoneOrig), f.ZoneOrig != 0)
	b = jsonNumber(b, "reply_zone", uint64(f.ZoneReply), f.ZoneReply != 0)
	b = jsonNumber(b, "id", uint64(f.ID), f.Has(ct.HasID))
	b = jsonNumber(b, "use", uint64(f.Use), f.Has(ct.HasUse))
	b = c.jsonExtensions(b, f)
	return append(b, '}')
}

func (c *Context) jsonExtensions(b []byte, f *ct.Flow) []byte {
	if f.Has(ct.HasCounters) {
		b = jsonNumber(b, "orig_packets", f.OrigCounters.Packets, true)
		b = jsonNumber(b, "orig_bytes", f.OrigCounters.Bytes, true)
		b = jsonNumber(b, "reply_packets", f.ReplyCounters.Packets, true)
		b = jsonNumber(b, "reply_bytes", f.ReplyCounters.Bytes, true)
	}
	b = jsonNumber(b, "start_nanoseconds", uint64(f.StartNanos), f.Has(ct.HasTimestamp) && f.StartNanos > 0)
	b = jsonNumber(b, "stop_nanoseconds", uint64(f.StopNanos), f.Has(ct.HasTimestamp) && f.StopNanos > 0)
	if f.Has(ct.HasHelper) {
		b = append(b, `,"helper":`...)
		b = appendQuoted(b, f.Helper)
	}
	if f.Has(ct.HasSecCtx) {
		b = append(b, `,"secctx":`...)
		b = appendQuoted(b, f.SecCtx)
	}
	if f.Has(ct.HasMaster) {
		b = jsonTuple(b, "master", &f.Master)
	}
	return jsonLabels(b, &f.Labels)
}

func jsonLabels(b []byte, labels *[16]byte) []byte {
	if *labels == [16]byte{} {
		return b
	}
	b = append(b, `,"labels":[`...)
	for bit := range 128 {
		if labels[bit/8]&(1<<(bit%8)) != 0 {
			b = strconv.AppendInt(b, int64(bit), 10)
			b = append(b, ',')
		}
	}
	b[len(b)-1] = ']'
	return b
}

var statusNames = func() (n [32]string) {
	for i := range n {
		n[i] = ct.Status(1 << i).String()
	}
	return n
}()

func jsonStatus(b []byte, s ct.Status) []byte {
	b = append(b, `,"status":[`...)
	for i, n := range statusNames {
		if s&(1<<i) != 0 && n != "" {
			b = append(b, '"')
			b = append(b, n...)
			b = append(b, `",`...)
		}
	}
	if b[len(b)-1] == ',' {
		b = b[:len(b)-1]
	}
	return append(b, ']')
}

func jsonTuple(b []byte, name string, t *ct.Tuple) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":{"src":"`...)
	b = AppendAddr(b, t.Src)
	b = append(b, `","dst":"`...)
	b = AppendAddr(b, t.Dst)
	b = append(b, '"')
	switch {
	case t.Proto.HasPorts():
		b = jsonNumber(b, "sport", uint64(t.SrcPort), true)
		b = jsonNumber(b, "dport", uint64(t.DstPort), true)
	case t.Proto.IsICMP():
		b = jsonNumber(b, "icmp_type", uint64(t.ICMPType), true)
		b = jsonNumber(b, "icmp_code", uint64(t.ICMPCode), true)
		b = jsonNumber(b, "icmp_id", uint64(t.ICMPID), true)
	case t.Proto == ct.GRE:
		b = jsonNumber(b, "srckey", uint64(t.SrcPort), true)
		b = jsonNumber(b, "dstkey", uint64(t.DstPort), true)
	}
	return append(b, '}')
}

func jsonNumber(b []byte, name string, v uint64, known bool) []byte {
	if !known {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return strconv.AppendUint(b, v, 10)
}

// appendQuoted appends a JSON string; what is not UTF-8 becomes U+FFFD.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20:
			b = append(b, `\u00`...)
			b = append(b, "0123456789abcdef"[r>>4], "0123456789abcdef"[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
