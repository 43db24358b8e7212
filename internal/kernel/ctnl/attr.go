package ctnl

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed is the error for a message that breaks netlink's own rules:
// lengths that leave the message, or an entry without a tuple.
var ErrMalformed = errors.New("malformed ctnetlink message")

var host = binary.NativeEndian

// attr is one netlink attribute: its type without the flag bits, and payload.
type attr struct {
	typ uint16
	val []byte
}

// attrs is a run of attributes.
type attrs []byte

// next takes the first attribute off. more is false at the end, and where the
// rest is no attribute: intact tells the two apart.
func (b attrs) next() (a attr, rest attrs, more bool) {
	if len(b) < attrLen {
		return attr{}, b, false
	}
	n := int(host.Uint16(b))
	if n < attrLen || n > len(b) {
		return attr{}, b, false
	}
	a = attr{typ: host.Uint16(b[2:4]) & typeMask, val: b[attrLen:n]}
	return a, b[min((n+3)&^3, len(b)):], true
}

// all yields every attribute; a form of next for where speed does not matter.
func (b attrs) all(yield func(attr) bool) {
	for {
		a, rest, more := b.next()
		if !more || !yield(a) {
			return
		}
		b = rest
	}
}

// intact reports whether next stopped because everything was read. Fewer bytes
// than a header are padding.
func (b attrs) intact() bool { return len(b) < attrLen }

func (a attr) u8() (uint8, bool) {
	if len(a.val) != 1 {
		return 0, false
	}
	return a.val[0], true
}

func (a attr) u16() (uint16, bool) {
	if len(a.val) != 2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(a.val), true
}

func (a attr) u32() (uint32, bool) {
	if len(a.val) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(a.val), true
}

func (a attr) u64() (uint64, bool) {
	if len(a.val) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(a.val), true
}
