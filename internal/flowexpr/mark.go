package flowexpr

import (
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Mark is a mark with the mask under which it is compared.
type Mark struct{ Value, Mask uint32 }

// ParseMark reads value or value/mask, each decimal, 0x hexadecimal or 0
// octal, as conntrack(8) does. Bits of the value outside the mask never match
// anything and are an error.
func ParseMark(s string) (Mark, error) {
	v, m, masked := strings.Cut(s, "/")
	value, err := strconv.ParseUint(v, 0, 32)
	if err != nil {
		return Mark{}, &badText{s, "mark, as 0x10 or 0x10/0xff"}
	}
	if !masked {
		return Mark{uint32(value), ^uint32(0)}, nil
	}
	mask, err := strconv.ParseUint(m, 0, 32)
	if err != nil {
		return Mark{}, &badText{s, "mark with a mask, as 0x10/0xff"}
	}
	if value&^mask != 0 {
		return Mark{}, &badText{s, "mark that can match: it has bits outside its mask"}
	}
	return Mark{uint32(value), uint32(mask)}, nil
}

func (m Mark) match() predicate {
	return func(f *ct.Flow, _ *Context) ct.Tri { return ct.TriOf(f.Mark&m.Mask == m.Value) }
}

func (m Mark) expression() string {
	v := "0x" + strconv.FormatUint(uint64(m.Value), 16)
	if m.Mask != ^uint32(0) {
		v += "/0x" + strconv.FormatUint(uint64(m.Mask), 16)
	}
	return "mark == " + v
}
