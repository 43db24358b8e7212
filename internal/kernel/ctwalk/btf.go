package ctwalk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Of the kernel's five megabytes of types some twenty are of use. They are read
// in passes, a block at a time, so that all of it is never in memory
// (Documentation/bpf/btf.rst).

// btfKind is BTF_KIND_*.
type btfKind uint8

const (
	kindInt      btfKind = 1
	kindArray    btfKind = 3
	kindStruct   btfKind = 4
	kindUnion    btfKind = 5
	kindEnum     btfKind = 6
	kindTypedef  btfKind = 8
	kindVolatile btfKind = 9
	kindConst    btfKind = 10
	kindFunc     btfKind = 12
	kindProto    btfKind = 13
	kindVar      btfKind = 14
	kindDatasec  btfKind = 15
	kindDeclTag  btfKind = 17
	kindTypeTag  btfKind = 18
	kindEnum64   btfKind = 19
)

// btfSection is one file of types: the kernel's own or that of a module, which
// goes on counting where the kernel's ends.
type btfSection struct {
	r                  io.ReaderAt
	types, typesLen    int64
	names, namesLen    int64
	firstName, firstID uint32
}

// btfType is a type that was kept.
type btfType struct {
	kind    btfKind
	size    int
	ref     uint32 // of what it is another name for, or of an array's elements
	members []btfMember
}

// btfMember is a member of a structure, at so many bytes, or a constant of an
// enumeration.
type btfMember struct {
	name string
	typ  uint32
	at   int
}

// btfTypes are the types asked for, and what they are made of.
type btfTypes struct {
	sections []btfSection
	names    map[uint32]string // of the words wanted, by offset
	byName   map[string]uint32
	byID     map[uint32]*btfType
	missing  map[uint32]bool
	inner    map[string]bool // members whose own members matter
}

const (
	btfMagic    = 0xeb9f
	btfHeader   = 24
	btfTypeHead = 12
	// btfMost bounds what a header may claim.
	btfMost = 1 << 30
)

var errBTF = errors.New("BTF is malformed")

// btfWanted says what to read: structures and enumerations by name, the names
// of members of which the own members matter, and of all others that matter.
type btfWanted struct{ structures, inner, members []string }

// readBTF reads types of the kernel and, if it has types of its own, of a
// module.
func readBTF(kernel, module io.ReaderAt, want btfWanted) (*btfTypes, error) {
	t := &btfTypes{names: make(map[uint32]string), byName: make(map[string]uint32),
		byID: make(map[uint32]*btfType), missing: make(map[uint32]bool), inner: set(want.inner)}
	structures := set(want.structures)
	words := set(slices.Concat(want.structures, want.inner, want.members))
	nextName, nextID := uint32(0), uint32(1)
	for _, r := range []io.ReaderAt{kernel, module} {
		if r == nil {
			continue
		}
		s := btfSection{r: r, firstName: nextName, firstID: nextID}
		if err := s.header(); err != nil {
			return nil, err
		}
		nextName += uint32(s.namesLen)
		if err := t.readNames(&s, words); err != nil {
			return nil, err
		}
		t.sections = append(t.sections, s)
		last, err := t.pass(&t.sections[len(t.sections)-1], structures)
		if err != nil {
			return nil, err
		}
		nextID = last
	}
	return t, t.complete()
}

func set(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// complete reads what the kept types are made of, until nothing is missing.
func (t *btfTypes) complete() error {
	for len(t.missing) > 0 {
		before := len(t.missing)
		for i := range t.sections {
			if _, err := t.pass(&t.sections[i], nil); err != nil {
				return err
			}
		}
		for id := range t.missing {
			if t.byID[id] != nil {
				delete(t.missing, id)
			}
		}
		if len(t.missing) == before {
			return fmt.Errorf("%w: it refers to types that it does not have", errBTF)
		}
	}
	return nil
}

func (s *btfSection) header() error {
	var h [btfHeader]byte
	if _, err := s.r.ReadAt(h[:], 0); err != nil {
		return fmt.Errorf("read BTF: %w", err)
	}
	if native.Uint16(h[:]) != btfMagic {
		return fmt.Errorf("%w: it does not begin with its magic number", errBTF)
	}
	at := int64(native.Uint32(h[4:]))
	s.types, s.typesLen = at+int64(native.Uint32(h[8:])), int64(native.Uint32(h[12:]))
	s.names, s.namesLen = at+int64(native.Uint32(h[16:])), int64(native.Uint32(h[20:]))
	if s.typesLen > btfMost || s.namesLen > btfMost {
		return fmt.Errorf("%w: %d bytes of types, %d of names", errBTF, s.typesLen, s.namesLen)
	}
	return nil
}

// readNames finds out at which offset each of the words stands.
func (t *btfTypes) readNames(s *btfSection, wanted map[string]bool) error {
	r := bufio.NewReaderSize(io.NewSectionReader(s.r, s.names, s.namesLen), 64<<10)
	at := s.firstName
	for {
		b, err := r.ReadSlice(0)
		if errors.Is(err, io.EOF) {
			return nil
		}
		n := uint32(len(b))
		for errors.Is(err, bufio.ErrBufferFull) { // no name of ours
			b, err = r.ReadSlice(0)
			n += uint32(len(b))
			b = nil
		}
		if err != nil {
			return fmt.Errorf("read BTF: %w", err)
		}
		if len(b) > 1 && wanted[string(b[:len(b)-1])] {
			t.names[at] = string(b[:len(b)-1])
		}
		at += n
	}
}

// pass goes through the types once. It keeps the structures and enumerations
// with the names wanted, and the types that are missing. It returns the id after
// the last.
func (t *btfTypes) pass(s *btfSection, wanted map[string]bool) (uint32, error) {
	r := bufio.NewReaderSize(io.NewSectionReader(s.r, s.types, s.typesLen), 64<<10)
	id := s.firstID
	for left := s.typesLen; left > 0; id++ {
		h, err := r.Peek(btfTypeHead)
		if err != nil {
			return id, fmt.Errorf("read BTF: %w", err)
		}
		name, info, size := native.Uint32(h), native.Uint32(h[4:]), native.Uint32(h[8:])
		kind, n := btfKind(info>>24&0x1f), int(info&0xffff)
		length := btfExtra(kind, n)
		left -= int64(btfTypeHead + length)
		word := t.names[name]
		named := wanted[word] && ((kind == kindStruct || kind == kindUnion || kind == kindEnum) && n > 0 || kind == kindFunc)
		if !t.missing[id] && (!named || t.byName[word] != 0) {
			if _, err := r.Discard(btfTypeHead + length); err != nil {
				return id, fmt.Errorf("read BTF: %w", err)
			}
			continue
		}
		body := make([]byte, btfTypeHead+length)
		if _, err := io.ReadFull(r, body); err != nil {
			return id, fmt.Errorf("read BTF: %w", err)
		}
		if named {
			t.byName[word] = id
		}
		t.keep(id, kind, info>>31 != 0, n, size, body[btfTypeHead:])
	}
	return id, nil
}

// btfExtra is how many bytes follow the head of a type.
func btfExtra(k btfKind, n int) int {
	switch k {
	case kindInt, kindVar, kindDeclTag:
		return 4
	case kindArray:
		return 12
	case kindStruct, kindUnion, kindDatasec, kindEnum64:
		return 12 * n
	case kindEnum, kindProto:
		return 8 * n
	}
	return 0
}

func (t *btfTypes) keep(id uint32, kind btfKind, bitfields bool, n int, size uint32, body []byte) {
	typ := &btfType{kind: kind}
	t.byID[id] = typ
	switch kind {
	case kindStruct, kindUnion:
		typ.size = int(size)
		for b := body; len(b) >= 12 && n > 0; b = b[12:] {
			m := btfMember{name: t.names[native.Uint32(b)], typ: native.Uint32(b[4:])}
			bits := native.Uint32(b[8:])
			if bitfields {
				bits &= 0xffffff
			}
			m.at = int(bits / 8)
			unnamed := native.Uint32(b) == 0
			if !unnamed && m.name == "" {
				continue
			}
			typ.members = append(typ.members, m)
			if unnamed || t.inner[m.name] {
				t.want(m.typ)
			}
		}
	case kindEnum:
		for b := body; len(b) >= 8; b = b[8:] {
			typ.members = append(typ.members, btfMember{name: t.names[native.Uint32(b)], at: int(int32(native.Uint32(b[4:])))})
		}
	case kindArray:
		typ.ref = native.Uint32(body)
		t.want(typ.ref)
	case kindTypedef, kindVolatile, kindConst, kindTypeTag:
		typ.ref = size
		t.want(typ.ref)
	}
}

// want notes a type that is needed and not kept. 0 is void.
func (t *btfTypes) want(id uint32) {
	if id != 0 && t.byID[id] == nil {
		t.missing[id] = true
	}
}

// underlying follows other names and elements of arrays. Types cannot refer to
// themselves that way except in a malformed file.
func (t *btfTypes) underlying(id uint32) *btfType {
	for range 32 {
		typ := t.byID[id]
		if typ == nil || typ.ref == 0 {
			return typ
		}
		id = typ.ref
	}
	return nil
}

// structure finds a structure by name, nil if it is not described.
func (t *btfTypes) structure(name string) *btfType { return t.byID[t.byName[name]] }

// member finds a member by its path, "a.b", through unnamed members too, and
// returns where it is.
func (t *btfTypes) member(structure, path string) (int, bool) {
	in := t.structure(structure)
	at := 0
	for name := range strings.SplitSeq(path, ".") {
		off, typ, ok := t.find(in, name, 0)
		if !ok {
			return 0, false
		}
		at, in = at+off, t.underlying(typ)
	}
	return at, true
}

func (t *btfTypes) find(in *btfType, name string, depth int) (at int, typ uint32, ok bool) {
	if in == nil || depth > 8 {
		return 0, 0, false
	}
	for _, m := range in.members {
		if m.name == name {
			return m.at, m.typ, true
		}
		if m.name != "" {
			continue
		}
		if at, typ, ok := t.find(t.underlying(m.typ), name, depth+1); ok {
			return m.at + at, typ, true
		}
	}
	return 0, 0, false
}

// openBTF opens what the kernel says about itself, and about the module if it
// has one.
func openBTF() (kernel, module *os.File, err error) {
	if kernel, err = os.Open("/sys/kernel/btf/vmlinux"); err != nil {
		return nil, nil, err
	}
	module, _ = os.Open("/sys/kernel/btf/nf_conntrack")
	return kernel, module, nil
}
