package journal

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

// A side file is sideMagic and then records, each with its own length in
// front, so that a later version may append fields and a half-written end is
// seen. Numbers are big-endian. Binary, because several hundred thousand
// entries are written while a full table waits for relief.
const sideMagic = "ctwarden entries 1\n"

// Lengths of what follows a record's length byte, by family.
const (
	sideFixed = 1 + 1 + 1 + 4*4 + 3*2
	sideLen4  = sideFixed + 2*(2*4+4)
	sideLen6  = sideFixed + 2*(2*16+4)
)

var errSide = errors.New("not a side file of this version")

func appendSide(b []byte, e *SideEntry) []byte {
	six, n := byte(0), sideLen4
	if !e.Orig.Is4() {
		six, n = 1, sideLen6
	}
	b = append(b, byte(n), six, byte(e.Orig.Proto), byte(e.State))
	put32, put16 := binary.BigEndian.AppendUint32, binary.BigEndian.AppendUint16
	for _, v := range [...]uint32{uint32(e.Status), e.ID, e.Mark, e.TimeoutSeconds} {
		b = put32(b, v)
	}
	for _, v := range [...]uint16{e.Zone, e.ZoneOrig, e.ZoneReply} {
		b = put16(b, v)
	}
	return appendSideTuple(appendSideTuple(b, &e.Orig), &e.Reply)
}

func appendSideTuple(b []byte, t *ct.Tuple) []byte {
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

// parseSide reads a side file; a half-written end is passed over.
func parseSide(b []byte) ([]SideEntry, error) {
	if len(b) < len(sideMagic) || string(b[:len(sideMagic)]) != sideMagic {
		return nil, errSide
	}
	b = b[len(sideMagic):]
	var all []SideEntry
	for len(b) > 0 && len(b) > int(b[0]) {
		rec := b[1 : 1+int(b[0])]
		b = b[1+len(rec):]
		e, ok := parseSideEntry(rec)
		if !ok {
			return all, errSide
		}
		all = append(all, e)
	}
	return all, nil
}

func parseSideEntry(b []byte) (e SideEntry, ok bool) {
	if len(b) < sideLen4 || b[0] > 1 || b[0] == 1 && len(b) < sideLen6 {
		return e, false
	}
	get32 := func(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	get16 := func(at int) uint16 { return binary.BigEndian.Uint16(b[at:]) }
	proto := ct.Proto(b[1])
	e = SideEntry{State: ct.State(b[2]), Status: ct.Status(get32(3)), ID: get32(7), Mark: get32(11),
		TimeoutSeconds: get32(15), Zone: get16(19), ZoneOrig: get16(21), ZoneReply: get16(23)}
	size := 4
	if b[0] == 1 {
		size = 16
	}
	e.Orig = parseSideTuple(b[sideFixed:], size, proto)
	e.Reply = parseSideTuple(b[sideFixed+2*size+4:], size, proto)
	return e, true
}

func parseSideTuple(b []byte, size int, p ct.Proto) ct.Tuple {
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
