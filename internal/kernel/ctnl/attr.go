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

// next takes the first attribute off. more is false at the end and where the
// rest is no attribute; intact tells the two apart.
func (b *attrs) next() (a attr, more bool) {
	s := *b
	if len(s) < attrLen {
		return attr{}, false
	}
	n := int(host.Uint16(s))
	if n < attrLen || n > len(s) {
		return attr{}, false
	}
	a.typ = host.Uint16(s[2:]) & typeMask
	a.val = s[attrLen:n:n]
	if n = (n + 3) &^ 3; n > len(s) {
		n = len(s)
	}
	*b = s[n:]
	return a, true
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
