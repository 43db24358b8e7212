// Package flowrec keeps entries of the table in little memory: 50 bytes for an
// IPv4 one, 98 for IPv6, where a [ct.Flow] takes several hundred. It holds what
// names an entry, and what is needed to put it back.
package flowrec

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

// Entry is what is kept of a flow.
type Entry struct {
	Orig, Reply               ct.Tuple
	Zone, ZoneOrig, ZoneReply uint16
	State                     ct.State
	Status                    ct.Status
	ID, Mark                  uint32
	TimeoutSeconds            uint32
}

// Of takes from a flow what is kept.
func Of(f *ct.Flow) Entry {
	return Entry{Orig: f.Orig, Reply: f.Reply, Zone: f.Zone, ZoneOrig: f.ZoneOrig, ZoneReply: f.ZoneReply,
		State: f.State, Status: f.Status, ID: f.ID, Mark: f.Mark, TimeoutSeconds: f.TimeoutSeconds}
}

// Flow returns a flow with what was kept, enough to name the entry to the
// kernel.
func (e *Entry) Flow() ct.Flow {
	f := ct.Flow{Orig: e.Orig, Reply: e.Reply, Zone: e.Zone, ZoneOrig: e.ZoneOrig, ZoneReply: e.ZoneReply,
		State: e.State, Status: e.Status, ID: e.ID, Mark: e.Mark, TimeoutSeconds: e.TimeoutSeconds,
		Fields: ct.HasID | ct.HasTimeout | ct.HasMark}
	if e.Zone != 0 {
		f.Fields |= ct.HasZone
	}
	if e.Orig.Proto.HasState() {
		f.Fields |= ct.HasProtoInfo
	}
	return f
}

// ErrMalformed is the error for bytes that are no records of this version.
var ErrMalformed = errors.New("malformed record of an entry")

// A record has its own length in front, so that a later version may append
// fields and a half-written end is seen. Numbers are big-endian.

// Lengths of what follows a record's length byte, by family.
const (
	fixedLen = 1 + 1 + 1 + 4*4 + 3*2
	len4     = fixedLen + 2*(2*4+4)
	len6     = fixedLen + 2*(2*16+4)
)

// Append appends the record of an entry.
func Append(b []byte, e *Entry) []byte {
	six, n := byte(0), len4
	if !e.Orig.Is4() {
		six, n = 1, len6
	}
	b = append(b, byte(n), six, byte(e.Orig.Proto), byte(e.State))
	put32, put16 := binary.BigEndian.AppendUint32, binary.BigEndian.AppendUint16
	for _, v := range [...]uint32{uint32(e.Status), e.ID, e.Mark, e.TimeoutSeconds} {
		b = put32(b, v)
	}
	for _, v := range [...]uint16{e.Zone, e.ZoneOrig, e.ZoneReply} {
		b = put16(b, v)
	}
	return appendTuple(appendTuple(b, &e.Orig), &e.Reply)
}

func appendTuple(b []byte, t *ct.Tuple) []byte {
	if t.Is4() {
		src, dst := t.Src.As4(), t.Dst.As4()
		b = append(append(b, src[:]...), dst[:]...)
	} else {
		src, dst := t.Src.As16(), t.Dst.As16()
		b = append(append(b, src[:]...), dst[:]...)
	}
	x, y := t.SrcPort, t.DstPort
	if t.Proto.IsICMP() {
		x, y = uint16(t.ICMPType)<<8|uint16(t.ICMPCode), t.ICMPID
	}
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, x), y)
}

// Next reads the first record and returns what follows it. A half-written
// record ends the reading like an empty rest: ok is then false without error.
func Next(b []byte) (e Entry, rest []byte, ok bool, err error) {
	if len(b) == 0 || len(b) <= int(b[0]) {
		return e, nil, false, nil
	}
	rec, rest := b[1:1+int(b[0])], b[1+int(b[0]):]
	if e, ok = parse(rec); !ok {
		return e, nil, false, ErrMalformed
	}
	return e, rest, true, nil
}

func parse(b []byte) (e Entry, ok bool) {
	if len(b) < len4 || b[0] > 1 || b[0] == 1 && len(b) < len6 {
		return e, false
	}
	get32 := func(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	get16 := func(at int) uint16 { return binary.BigEndian.Uint16(b[at:]) }
	proto := ct.Proto(b[1])
	e = Entry{State: ct.State(b[2]), Status: ct.Status(get32(3)), ID: get32(7), Mark: get32(11),
		TimeoutSeconds: get32(15), Zone: get16(19), ZoneOrig: get16(21), ZoneReply: get16(23)}
	size := 4
	if b[0] == 1 {
		size = 16
	}
	e.Orig = parseTuple(b[fixedLen:], size, proto)
	e.Reply = parseTuple(b[fixedLen+2*size+4:], size, proto)
	return e, true
}

func parseTuple(b []byte, size int, p ct.Proto) ct.Tuple {
	t := ct.Tuple{Proto: p}
	t.Src, _ = netip.AddrFromSlice(b[:size])
	t.Dst, _ = netip.AddrFromSlice(b[size : 2*size])
	x, y := binary.BigEndian.Uint16(b[2*size:]), binary.BigEndian.Uint16(b[2*size+2:])
	if p.IsICMP() {
		t.ICMPType, t.ICMPCode, t.ICMPID = uint8(x>>8), uint8(x), y
	} else {
		t.SrcPort, t.DstPort = x, y
	}
	return t
}
