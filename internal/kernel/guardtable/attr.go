package guardtable

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

var (
	host = binary.NativeEndian
	wire = binary.BigEndian
)

const (
	headerLen = 16
	nfgenLen  = 4
	attrLen   = 4
)

// attrs is a row of netlink attributes: built by its methods that return the
// longer row, read by those that return values.
type attrs []byte

func (a attrs) bytes(typ uint16, v []byte) attrs {
	a = host.AppendUint16(a, uint16(attrLen+len(v)))
	a = host.AppendUint16(a, typ)
	a = append(a, v...)
	return append(a, make([]byte, (4-len(v)&3)&3)...)
}

func (a attrs) u8(typ uint16, v uint8) attrs      { return a.bytes(typ, []byte{v}) }
func (a attrs) u32(typ uint16, v uint32) attrs    { return a.bytes(typ, wire.AppendUint32(nil, v)) }
func (a attrs) u64(typ uint16, v uint64) attrs    { return a.bytes(typ, wire.AppendUint64(nil, v)) }
func (a attrs) text(typ uint16, s string) attrs   { return a.bytes(typ, append([]byte(s), 0)) }
func (a attrs) nest(typ uint16, in ...byte) attrs { return a.bytes(typ|unix.NLA_F_NESTED, in) }

// all calls yield with the type and payload of each attribute, and ends at the
// first that does not hold together.
func (a attrs) all(yield func(typ uint16, v attrs) bool) {
	for len(a) >= attrLen {
		n := int(host.Uint16(a))
		if n < attrLen || n > len(a) {
			return
		}
		const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
		if !yield(host.Uint16(a[2:])&^flags, a[attrLen:n:n]) {
			return
		}
		a = a[min(len(a), (n+3)&^3):]
	}
}

// get returns the first attribute of a type, or nil.
func (a attrs) get(typ uint16) attrs {
	for t, v := range a.all {
		if t == typ {
			return v
		}
	}
	return nil
}

// number reads an attribute of four or eight bytes.
func (a attrs) number(typ uint16) (uint64, bool) {
	switch v := a.get(typ); len(v) {
	case 4:
		return uint64(wire.Uint32(v)), true
	case 8:
		return wire.Uint64(v), true
	}
	return 0, false
}

// string reads a text attribute, without its final zero.
func (a attrs) string(typ uint16) string {
	v := a.get(typ)
	for i, c := range v {
		if c == 0 {
			return string(v[:i])
		}
	}
	return string(v)
}
