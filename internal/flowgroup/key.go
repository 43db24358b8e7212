// Package flowgroup counts flows by what they have in common, in bounded
// memory.
package flowgroup

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Owners names the local process or container that a flow belongs to, "" where
// it is not local. It is asked once a flow, so it must be quick.
type Owners interface {
	Process(f *ct.Flow) string
	Container(f *ct.Flow) string
}

// part is one field of the key. Each appends itself in a form that tells its
// own end, so that parts in a row cannot run into each other.
type part struct {
	name   string
	append func(b []byte, f *ct.Flow) []byte
	print  func(b []byte) (text string, rest []byte)
	where  string // the field of the selecting language, "" if it has none
}

// By is what flows are grouped by.
type By struct {
	parts []part
	local bool
}

// Names are the fields that may be grouped by, without prefix lengths.
var Names = []string{"src", "dst", "reply_src", "reply_dst", "sport", "dport", "reply_sport",
	"reply_dport", "proto", "state", "family", "zone", "mark", "helper", "process", "container"}

// Where returns the expression of flowexpr that selects a group by its key, and
// false if there is none: for processes and containers, and for what entries
// lack.
func (b *By) Where(key []string) (string, bool) {
	var terms []string
	for i, p := range b.parts {
		if p.where == "" || key[i] == "-" {
			return "", false
		}
		term := p.where + " == " + key[i]
		switch {
		case strings.Contains(key[i], "/"):
			term = p.where + " in " + key[i]
		case quotedFields[p.where]:
			term = p.where + " == " + strconv.Quote(key[i])
		}
		terms = append(terms, term)
	}
	return strings.Join(terms, " && "), true
}

var quotedFields = map[string]bool{"proto": true, "state": true, "family": true, "helper": true}

// NeedsOwners reports whether a field asks for [Owners].
func (b *By) NeedsOwners() bool { return b.local }

// Columns returns the names of the fields as they were given.
func (b *By) Columns() []string {
	var names []string
	for _, p := range b.parts {
		names = append(names, p.name)
	}
	return names
}

// Parse reads a list of fields, "src,dport" or "src/24,proto". An address may
// carry a prefix length for IPv4, and a second one for IPv6, which is 64
// otherwise: "src/24/48". owners may be nil while neither process nor
// container is asked for.
func Parse(list string, owners Owners) (*By, error) {
	by := new(By)
	for name := range strings.SplitSeq(list, ",") {
		p, err := by.parsePart(strings.TrimSpace(name), owners)
		if err != nil {
			return nil, err
		}
		by.parts = append(by.parts, p)
	}
	return by, nil
}

func (b *By) parsePart(name string, owners Owners) (part, error) {
	field, bits, prefixed := strings.Cut(name, "/")
	if at, ok := addresses[field]; ok {
		v4, v6 := 32, 128
		if prefixed {
			var err error
			if v4, v6, err = prefixLengths(bits); err != nil {
				return part{}, fmt.Errorf("%q: %w", name, err)
			}
		}
		return addrPart(name, at, v4, v6), nil
	}
	if prefixed {
		return part{}, fmt.Errorf("%q: only addresses have a prefix length", name)
	}
	switch field {
	case "process", "container":
		b.local = true
		return ownerPart(name, owners), nil
	}
	if p, ok := simple[field]; ok {
		p.name, p.where = name, field
		return p, nil
	}
	return part{}, fmt.Errorf("cannot group by %q: it is one of %s", name, strings.Join(Names, ", "))
}

func prefixLengths(s string) (v4, v6 int, err error) {
	a, b, both := strings.Cut(s, "/")
	v6 = 64
	v4, err = strconv.Atoi(a)
	if err == nil && both {
		v6, err = strconv.Atoi(b)
	}
	if err != nil || v4 < 0 || v4 > 32 || v6 < 0 || v6 > 128 {
		return 0, 0, fmt.Errorf("the prefix lengths are 0 to 32, and 0 to 128 for IPv6")
	}
	return v4, v6, nil
}

var addresses = map[string]func(*ct.Flow) netip.Addr{
	"src":       func(f *ct.Flow) netip.Addr { return f.Orig.Src },
	"dst":       func(f *ct.Flow) netip.Addr { return f.Orig.Dst },
	"reply_src": func(f *ct.Flow) netip.Addr { return f.Reply.Src },
	"reply_dst": func(f *ct.Flow) netip.Addr { return f.Reply.Dst },
}

func addrPart(name string, at func(*ct.Flow) netip.Addr, v4, v6 int) part {
	field, _, _ := strings.Cut(name, "/")
	return part{name: name, where: field,
		append: func(b []byte, f *ct.Flow) []byte {
			a := at(f)
			if a.Is4() {
				raw := a.As4()
				x := binary.BigEndian.Uint32(raw[:])
				b = append(b, 4)
				return binary.BigEndian.AppendUint32(b, x&^(1<<(32-v4)-1))
			}
			if v6 < 128 {
				if p, err := a.Prefix(v6); err == nil {
					a = p.Addr()
				}
			}
			raw := a.As16()
			return append(append(b, 16), raw[:]...)
		},
		print: func(b []byte) (string, []byte) {
			n := int(b[0])
			a, _ := netip.AddrFromSlice(b[1 : 1+n])
			bits := v6
			if n == 4 {
				bits = v4
			}
			if bits == a.BitLen() {
				return a.String(), b[1+n:]
			}
			return netip.PrefixFrom(a, bits).String(), b[1+n:]
		}}
}

// numberPart is a field of fixed width in bytes; absent is printed as "-".
func numberPart(get func(f *ct.Flow) (v uint32, ok bool), format func(uint32) string) part {
	return part{
		append: func(b []byte, f *ct.Flow) []byte {
			v, ok := get(f)
			if !ok {
				return append(b, 0)
			}
			return binary.BigEndian.AppendUint32(append(b, 1), v)
		},
		print: func(b []byte) (string, []byte) {
			if b[0] == 0 {
				return "-", b[1:]
			}
			return format(binary.BigEndian.Uint32(b[1:])), b[5:]
		}}
}

func decimal(v uint32) string { return strconv.FormatUint(uint64(v), 10) }

func portPart(get func(f *ct.Flow) uint16) part {
	return numberPart(func(f *ct.Flow) (uint32, bool) {
		return uint32(get(f)), f.Orig.Proto.HasPorts()
	}, decimal)
}

var simple = map[string]part{
	"sport":       portPart(func(f *ct.Flow) uint16 { return f.Orig.SrcPort }),
	"dport":       portPart(func(f *ct.Flow) uint16 { return f.Orig.DstPort }),
	"reply_sport": portPart(func(f *ct.Flow) uint16 { return f.Reply.SrcPort }),
	"reply_dport": portPart(func(f *ct.Flow) uint16 { return f.Reply.DstPort }),
	"proto": numberPart(func(f *ct.Flow) (uint32, bool) { return uint32(f.Orig.Proto), true },
		func(v uint32) string { return ct.Proto(v).String() }),
	"state": numberPart(func(f *ct.Flow) (uint32, bool) {
		return uint32(f.Orig.Proto)<<8 | uint32(f.State), f.StateName() != ""
	}, func(v uint32) string { return ct.StateName(ct.Proto(v>>8), ct.State(v)) }),
	"family": numberPart(func(f *ct.Flow) (uint32, bool) {
		if f.Orig.Is4() {
			return 4, true
		}
		return 6, true
	}, func(v uint32) string { return "ipv" + decimal(v) }),
	"zone": numberPart(func(f *ct.Flow) (uint32, bool) {
		return uint32(f.Zone | f.ZoneOrig), true
	}, decimal),
	"mark": numberPart(func(f *ct.Flow) (uint32, bool) { return f.Mark, true },
		func(v uint32) string { return "0x" + strconv.FormatUint(uint64(v), 16) }),
	"helper": textPart(func(f *ct.Flow) string { return f.Helper }),
}

func ownerPart(name string, o Owners) part {
	p := textPart(func(f *ct.Flow) string { return o.Process(f) })
	if name == "container" {
		p = textPart(func(f *ct.Flow) string { return o.Container(f) })
	}
	p.name = name
	return p
}

// maxText bounds a text in a key.
const maxText = 200

func textPart(get func(*ct.Flow) string) part {
	return part{
		append: func(b []byte, f *ct.Flow) []byte {
			s := get(f)
			s = s[:min(len(s), maxText)]
			return append(append(b, byte(len(s))), s...)
		},
		print: func(b []byte) (string, []byte) {
			n := int(b[0])
			if n == 0 {
				return "-", b[1:]
			}
			return string(b[1 : 1+n]), b[1+n:]
		}}
}
