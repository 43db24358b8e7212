package flowfmt

import (
	"strconv"

	"github.com/ctwarden/ctwarden/ct"
)

const csvHeader = "family,proto,state,timeout_seconds,idle_min_seconds," +
	"src,dst,sport,dport,reply_src,reply_dst,reply_sport,reply_dport," +
	"icmp_type,icmp_code,icmp_id,status,mark,zone,orig_zone,reply_zone,id," +
	"orig_packets,orig_bytes,reply_packets,reply_bytes,helper\n"

// AppendCSV appends a line of the columns that [Header] names. What the entry
// lacks is an empty field. Nothing in it needs quotation marks but a helper's
// name, which comes from a rule.
func (c *Context) AppendCSV(b []byte, f *ct.Flow) []byte {
	b = append(b, family(f)...)
	b = append(b, ',')
	b = append(b, f.Orig.Proto.String()...)
	b = append(b, ',')
	b = append(b, f.StateName()...)
	b = csvNumber(b, uint64(f.TimeoutSeconds), f.Has(ct.HasTimeout))
	d, ok := c.idle(f)
	b = csvNumber(b, uint64(d.Seconds()), ok)
	b = csvTuple(b, &f.Orig)
	b = csvTuple(b, &f.Reply)
	icmp := f.Orig.Proto.IsICMP()
	b = csvNumber(b, uint64(f.Orig.ICMPType), icmp)
	b = csvNumber(b, uint64(f.Orig.ICMPCode), icmp)
	b = csvNumber(b, uint64(f.Orig.ICMPID), icmp)
	b = csvNumber(b, uint64(f.Status), true)
	b = csvNumber(b, uint64(f.Mark), f.Has(ct.HasMark))
	b = csvNumber(b, uint64(f.Zone), f.Has(ct.HasZone))
	b = csvNumber(b, uint64(f.ZoneOrig), f.ZoneOrig != 0)
	b = csvNumber(b, uint64(f.ZoneReply), f.ZoneReply != 0)
	b = csvNumber(b, uint64(f.ID), f.Has(ct.HasID))
	counted := f.Has(ct.HasCounters)
	b = csvNumber(b, f.OrigCounters.Packets, counted)
	b = csvNumber(b, f.OrigCounters.Bytes, counted)
	b = csvNumber(b, f.ReplyCounters.Packets, counted)
	b = csvNumber(b, f.ReplyCounters.Bytes, counted)
	b = append(b, ',')
	b = csvText(b, f.Helper)
	return append(b, '\n')
}

func csvTuple(b []byte, t *ct.Tuple) []byte {
	b = append(b, ',')
	b = AppendAddr(b, t.Src)
	b = append(b, ',')
	b = AppendAddr(b, t.Dst)
	ports := t.Proto.HasPorts() || t.Proto == ct.GRE
	b = csvNumber(b, uint64(t.SrcPort), ports)
	return csvNumber(b, uint64(t.DstPort), ports)
}

// csvNumber appends a comma and, if known, the number.
func csvNumber(b []byte, v uint64, known bool) []byte {
	b = append(b, ',')
	if known {
		b = strconv.AppendUint(b, v, 10)
	}
	return b
}

func csvText(b []byte, s string) []byte {
	if s == "" {
		return b
	}
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' {
			b = append(b, '"')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

func family(f *ct.Flow) string {
	if f.Orig.Is4() {
		return "ipv4"
	}
	return "ipv6"
}
