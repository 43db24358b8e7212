package flowfmt

import (
	"strconv"

	"github.com/ctwarden/ctwarden/ct"
)

// Columns of the table: fixed, since the entries are not known beforehand.
const (
	colState  = 8
	colLeft   = colState + 13
	colSource = colLeft + 9
	colDest   = colSource + 22
	colNotes  = colDest + 22

	tableHeader = "PROTO   STATE        LEFT     SOURCE                DESTINATION           NOTES\n"
)

// AppendRow appends a line of the table. Longer addresses push what follows
// them to the right.
func (c *Context) AppendRow(b []byte, f *ct.Flow) []byte {
	at := len(b)
	b = append(b, f.Orig.Proto.String()...)
	b = pad(b, at, colState)
	b = append(b, condition(f)...)
	b = pad(b, at, colLeft)
	if f.Has(ct.HasTimeout) {
		b = AppendSeconds(b, int64(f.TimeoutSeconds))
	} else {
		b = append(b, '-')
	}
	b = pad(b, at, colSource)
	b = AppendEndpoint(b, f.Orig.Proto, f.Orig.Src, f.Orig.SrcPort)
	b = pad(b, at, colDest)
	b = AppendEndpoint(b, f.Orig.Proto, f.Orig.Dst, f.Orig.DstPort)
	b = pad(b, at, colNotes)
	b = c.appendNotes(b, f)
	for b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return append(b, '\n')
}

// condition is the state, or for protocols without one how far they talk.
func condition(f *ct.Flow) string {
	switch {
	case f.Offloaded():
		return "OFFLOADED"
	case f.StateName() != "":
		return f.StateName()
	case !f.Replied():
		return "unreplied"
	case f.Assured():
		return "assured"
	}
	return "replied"
}

func (c *Context) appendNotes(b []byte, f *ct.Flow) []byte {
	if f.Status.Any(ct.StatusSrcNAT) {
		b = append(b, "snat="...)
		b = AppendEndpoint(b, f.Reply.Proto, f.Reply.Dst, f.Reply.DstPort)
		b = append(b, ' ')
	}
	if f.Status.Any(ct.StatusDstNAT) {
		b = append(b, "dnat="...)
		b = AppendEndpoint(b, f.Reply.Proto, f.Reply.Src, f.Reply.SrcPort)
		b = append(b, ' ')
	}
	if !f.Replied() && f.Orig.Proto.HasState() {
		b = append(b, "unreplied "...)
	}
	if f.Mark != 0 {
		b = append(b, "mark=0x"...)
		b = strconv.AppendUint(b, uint64(f.Mark), 16)
		b = append(b, ' ')
	}
	switch {
	case f.Zone != 0:
		b = appendUint(b, "zone=", f.Zone)
	default:
		if f.ZoneOrig != 0 {
			b = appendUint(b, "zone-orig=", f.ZoneOrig)
		}
		if f.ZoneReply != 0 {
			b = appendUint(b, "zone-reply=", f.ZoneReply)
		}
	}
	if f.Has(ct.HasHelper) {
		b = appendText(b, "helper=", f.Helper)
	}
	if f.Has(ct.HasCounters) {
		b = appendUint(b, "bytes=", f.OrigCounters.Bytes+f.ReplyCounters.Bytes)
	}
	if d, ok := c.idle(f); ok && d > 0 {
		b = append(b, "idle>="...)
		b = AppendSeconds(b, int64(d.Seconds()))
		b = append(b, ' ')
	}
	return b
}

// AppendSeconds appends a time in its two largest units: 4d23h, 7m5s.
func AppendSeconds(b []byte, s int64) []byte {
	units := [...]struct {
		seconds int64
		name    byte
	}{{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}}
	for i, u := range units {
		if s < u.seconds && u.name != 's' {
			continue
		}
		b = strconv.AppendInt(b, s/u.seconds, 10)
		b = append(b, u.name)
		if rest := s % u.seconds; i+1 < len(units) && rest >= units[i+1].seconds {
			b = strconv.AppendInt(b, rest/units[i+1].seconds, 10)
			b = append(b, units[i+1].name)
		}
		return b
	}
	return b
}
