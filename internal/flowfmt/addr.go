package flowfmt

import (
	"net/netip"
	"strconv"

	"github.com/ctwarden/ctwarden/ct"
)

// AppendAddr appends an address as inet_ntop(3) of the GNU C library writes
// it: as netip does, except that an IPv4-compatible address (::a.b.c.d, more
// than ::1) ends in a dotted quad.
func AppendAddr(b []byte, a netip.Addr) []byte {
	if !a.Is6() || a.Is4In6() {
		return a.AppendTo(b)
	}
	raw := a.As16()
	for _, x := range raw[:12] {
		if x != 0 {
			return a.AppendTo(b)
		}
	}
	if raw[12] == 0 && raw[13] == 0 {
		return a.AppendTo(b)
	}
	b = append(b, "::"...)
	return netip.AddrFrom4([4]byte(raw[12:])).AppendTo(b)
}

// AppendEndpoint appends address and port as people write them, 10.0.0.1:80
// and [2001:db8::1]:80; without ports the address alone.
func AppendEndpoint(b []byte, p ct.Proto, a netip.Addr, port uint16) []byte {
	if !p.HasPorts() {
		return AppendAddr(b, a)
	}
	if a.Is4() {
		b = AppendAddr(b, a)
	} else {
		b = append(b, '[')
		b = AppendAddr(b, a)
		b = append(b, ']')
	}
	b = append(b, ':')
	return strconv.AppendUint(b, uint64(port), 10)
}

func appendUint[T ~uint8 | ~uint16 | ~uint32 | ~uint64](b []byte, name string, v T) []byte {
	b = append(b, name...)
	b = strconv.AppendUint(b, uint64(v), 10)
	return append(b, ' ')
}

func appendText(b []byte, name, v string) []byte {
	b = append(b, name...)
	b = append(b, v...)
	return append(b, ' ')
}

// pad appends spaces until the text that began at start is width wide, and at
// least one.
func pad(b []byte, start, width int) []byte {
	b = append(b, ' ')
	for len(b)-start < width {
		b = append(b, ' ')
	}
	return b
}
