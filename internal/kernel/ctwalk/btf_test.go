package ctwalk

import (
	"bytes"
	"strings"
	"testing"
)

// btfText composes a section of types: structures with members, and what they are
// made of.
type btfText struct {
	types, names []byte
	offsets      map[string]uint32
}

func (b *btfText) name(s string) uint32 {
	if s == "" {
		return 0
	}
	if b.offsets == nil {
		b.offsets = make(map[string]uint32)
		b.names = []byte{0}
	}
	if at, ok := b.offsets[s]; ok {
		return at
	}
	at := uint32(len(b.names))
	b.offsets[s] = at
	b.names = append(append(b.names, s...), 0)
	return at
}

func (b *btfText) words(w ...uint32) {
	for _, v := range w {
		b.types = native.AppendUint32(b.types, v)
	}
}

func (b *btfText) bytes() []byte {
	h := native.AppendUint16(nil, btfMagic)
	h = append(h, 1, 0)
	for _, v := range []uint32{btfHeader, 0, uint32(len(b.types)), uint32(len(b.types)), uint32(len(b.names))} {
		h = native.AppendUint32(h, v)
	}
	return append(append(h, b.types...), b.names...)
}

func info(k btfKind, n int) uint32 { return uint32(k)<<24 | uint32(n) }

// example is struct outer { int a; union { struct inner b; int other; }; } with
// typedef'd inner, an enumeration and a function.
func example() []byte {
	var b btfText
	b.words(b.name("int"), info(kindInt, 0), 4, 32)                                                // 1
	b.words(b.name("outer"), info(kindStruct, 2), 24, b.name("a"), 1, 0, 0, 3, 64)                 // 2
	b.words(0, info(kindUnion, 2), 16, b.name("b"), 4, 0, b.name("other"), 1, 0)                   // 3
	b.words(b.name("inner_t"), info(kindTypedef, 0), 5)                                            // 4
	b.words(b.name("inner"), info(kindStruct, 2), 16, b.name("x"), 1, 0, b.name("y"), 1, 32)       // 5
	b.words(b.name("ids"), info(kindEnum, 2), 4, b.name("ID_ONE"), 1, b.name("ID_MINUS"), 1<<32-1) // 6
	b.words(b.name("fn"), info(kindFunc, 0), 1)                                                    // 7
	return b.bytes()
}

func wanted() btfWanted {
	return btfWanted{structures: []string{"outer", "ids", "fn"}, inner: []string{"b"}, members: []string{"a", "y", "other", "ID_ONE", "ID_MINUS"}}
}

func TestBTF(t *testing.T) {
	b, err := readBTF(bytes.NewReader(example()), nil, wanted())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"a": 0, "b": 8, "b.y": 12, "other": 8} {
		if at, ok := b.member("outer", path); !ok || at != want {
			t.Errorf("%s at %d, want %d", path, at, want)
		}
	}
	for _, path := range []string{"y", "c", "b.z", "a.y"} {
		if at, ok := b.member("outer", path); ok {
			t.Errorf("%s at %d", path, at)
		}
	}
	if at, ok := b.member("ids", "ID_MINUS"); !ok || at != -1 || b.structure("outer").size != 24 || b.byName["fn"] != 7 {
		t.Errorf("enumeration %d %v, size %d, function %d", at, ok, b.structure("outer").size, b.byName["fn"])
	}
}

// TestModuleBTF goes on where the kernel's types and names end.
func TestModuleBTF(t *testing.T) {
	kernel := example()
	var m btfText
	first := native.Uint32(kernel[20:]) // the length of the kernel's names
	own := func(s string) uint32 { return first + m.name(s) }
	m.words(own("late"), info(kindStruct, 2), 32, own("inside"), 2, 128, own("end"), 1, 192) // 8, its first member of the kernel's type 2
	w := wanted()
	w.structures, w.inner, w.members = append(w.structures, "late"), append(w.inner, "inside"), append(w.members, "end")
	b, err := readBTF(bytes.NewReader(kernel), bytes.NewReader(m.bytes()), w)
	if err != nil {
		t.Fatal(err)
	}
	if at, ok := b.member("late", "inside.b.y"); !ok || at != 28 || b.byName["late"] != 8 {
		t.Errorf("inside.b.y at %d, %v; late is %d", at, ok, b.byName["late"])
	}
}

func FuzzBTF(f *testing.F) {
	f.Add(example())
	f.Add(example()[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		if types, err := readBTF(bytes.NewReader(b), nil, wanted()); err == nil {
			types.member("outer", "b.y")
		}
	})
}

func TestSymbols(t *testing.T) {
	const text = `ffffffff81f33a40 t __pfx___nf_conntrack_hash_insert
ffffffff83c4c6c0 b nf_conntrack_hash_rnd
ffffffffc0a01000 B nf_conntrack_hash	[nf_conntrack]
ffffffff81000000
ffffffffc0a02000 d nf_conntrack_htable_size	[nf_conntrack]
ffffffffc0a03000 T nf_ct_get_id	[nf_conntrack]
`
	got, err := scanSymbols(strings.NewReader(text), symbolHash, symbolBuckets, symbolID)
	if err != nil || got[symbolHash] != 0xffffffffc0a01000 || got[symbolBuckets] != 0xffffffffc0a02000 || got[symbolID] != 0xffffffffc0a03000 {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := scanSymbols(strings.NewReader("zzz T nf_ct_get_id\n"), symbolID); err == nil {
		t.Error("an address that is no number is taken")
	}
}
