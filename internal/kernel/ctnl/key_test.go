package ctnl

import (
	"encoding/binary"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"

	"github.com/ctwarden/ctwarden/ct"
)

// offline returns a batch that collects and never sends.
func offline() *Batch { return (&Conn{fd: -1}).NewBatch() }

func TestDeleteNeedsKey(t *testing.T) {
	b := offline()
	if b.Delete(Key{}) == nil || b.Update(Key{}, Change{TimeoutSeconds: 1}) == nil || len(b.enc.b) != 0 {
		t.Error("a zero key made a message")
	}
	f := randFlow(rand.New(rand.NewPCG(1, 1)))
	f.Fields &^= ct.HasID
	if k, err := KeyOf(&f); err == nil || k != (Key{}) {
		t.Error("an entry without id has a key")
	}
	f.Fields |= ct.HasID
	f.Orig = ct.Tuple{}
	if k, err := KeyOf(&f); err == nil || k != (Key{}) {
		t.Error("an entry without tuple has a key")
	}
	f.Orig.Src = randAddr4(rand.New(rand.NewPCG(1, 1)))
	f.Orig.Dst = randAddr6(rand.New(rand.NewPCG(1, 1)))
	if _, err := KeyOf(&f); err == nil {
		t.Error("a tuple of two families has a key")
	}
}

// TestKeyIsSealed makes sure that no other package can put a Key together.
func TestKeyIsSealed(t *testing.T) {
	typ := reflect.TypeFor[Key]()
	for i := range typ.NumField() {
		if typ.Field(i).IsExported() {
			t.Errorf("field %s is exported", typ.Field(i).Name)
		}
	}
}

// TestOneDeletion makes sure that in this package one function alone begins a
// message of type IPCTNL_MSG_CT_DELETE, and one alone makes a Key.
func TestOneDeletion(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil || len(names) == 0 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	var deletions, keys []string
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					for _, a := range n.Args {
						if id, ok := a.(*ast.Ident); ok && id.Name == "ctDelete" {
							deletions = append(deletions, fn.Name.Name)
						}
					}
				case *ast.CompositeLit:
					if id, ok := n.Type.(*ast.Ident); ok && id.Name == "Key" && len(n.Elts) > 0 {
						keys = append(keys, fn.Name.Name)
					}
				case *ast.AssignStmt:
					for _, l := range n.Lhs {
						if sel, ok := l.(*ast.SelectorExpr); ok && sel.Sel.Name == "kind" && fn.Name.Name != "keyOf" {
							t.Errorf("%s sets the kind of a key", fn.Name.Name)
						}
					}
				}
				return true
			})
		}
	}
	if !reflect.DeepEqual(deletions, []string{"Delete"}) || !reflect.DeepEqual(keys, []string{"keyOf"}) {
		t.Errorf("deletions begun by %q, keys made by %q", deletions, keys)
	}
}

// FuzzDelete reads every produced deletion with a decoder that is not ours:
// it is one request of the right type and length, for a family, with a filled
// original tuple and the id.
func FuzzDelete(f *testing.F) {
	f.Add(uint64(1), uint16(0), uint16(0), uint32(0), []byte{})
	f.Add(uint64(2), uint16(7), uint16(0), uint32(5), []byte{10, 0, 0, 1})
	f.Fuzz(func(t *testing.T, seed uint64, zone, zoneOrig uint16, id uint32, raw []byte) {
		r := rand.New(rand.NewPCG(seed, 9))
		var fl ct.Flow
		if new(decoder).entry(attrs(raw), &fl) != nil {
			fl = randFlow(r)
		}
		fl.Zone, fl.ZoneOrig, fl.ID = zone, zoneOrig, id
		fl.Orig.Proto = ct.Proto(r.Uint32())
		k, err := KeyOf(&fl)
		if err != nil {
			return
		}
		b := offline()
		for range 3 {
			if err := b.Delete(k); err != nil {
				t.Fatal(err)
			}
		}
		for rest := b.enc.b; len(rest) > 0; {
			rest = checkDeletion(t, rest, id, fl.Orig.Is4())
		}
	})
}

func checkDeletion(t *testing.T, b []byte, id uint32, v4 bool) (rest []byte) {
	t.Helper()
	n := binary.NativeEndian.Uint32(b)
	var m netlink.Message
	if err := m.UnmarshalBinary(b[:n]); err != nil {
		t.Fatal(err)
	}
	want := map[bool]byte{true: 2, false: 10}[v4]
	if m.Header.Type != 0x102 || m.Header.Flags&^(netlink.Acknowledge|netlink.Request) != 0 || m.Data[0] != want {
		t.Fatalf("header %+v, family %d", m.Header, m.Data[0])
	}
	top, err := netlink.UnmarshalAttributes(m.Data[4:])
	if err != nil {
		t.Fatal(err)
	}
	tuples, ids := 0, 0
	for _, a := range top {
		switch a.Type &^ netlink.Nested {
		case 1:
			tuples++
			checkTuple(t, a.Data, v4)
		case 12:
			ids++
			if binary.BigEndian.Uint32(a.Data) != id {
				t.Fatalf("id %x", a.Data)
			}
		case 18:
		default:
			t.Fatalf("attribute %d in a deletion", a.Type)
		}
	}
	if tuples != 1 || ids != 1 {
		t.Fatalf("%d tuples, %d ids", tuples, ids)
	}
	return b[n:]
}

func checkTuple(t *testing.T, b []byte, v4 bool) {
	t.Helper()
	parts, err := netlink.UnmarshalAttributes(b)
	if err != nil || len(parts) < 2 {
		t.Fatalf("tuple %x: %v", b, err)
	}
	addrs, err := netlink.UnmarshalAttributes(parts[0].Data)
	size := map[bool]int{true: 4, false: 16}[v4]
	if err != nil || len(addrs) != 2 || len(addrs[0].Data) != size || len(addrs[1].Data) != size {
		t.Fatalf("addresses %v: %v", addrs, err)
	}
	proto, err := netlink.UnmarshalAttributes(parts[1].Data)
	if err != nil || len(proto) == 0 || proto[0].Type != 1 || len(proto[0].Data) != 1 {
		t.Fatalf("protocol %v: %v", proto, err)
	}
}

func TestKeys(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	var l Keys
	var want []Key
	for range 2*keyChunk + 1 {
		f := randFlow(r)
		f.Fields |= ct.HasID
		k, err := KeyOf(&f)
		if err != nil || l.Add(&f) != nil || k.Orig() != f.Orig || k.ID() != f.ID {
			t.Fatalf("%+v: %+v, %v", f, k, err)
		}
		want = append(want, k)
	}
	if l.Add(new(ct.Flow)) == nil || l.Len() != len(want) || !slices.Equal(slices.Collect(l.All()), want) {
		t.Errorf("%d keys of %d", l.Len(), len(want))
	}
}

// TestUpdateNeverCreates looks at the flags of every update.
func TestUpdateNeverCreates(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 1000 {
		f := randFlow(r)
		f.Fields |= ct.HasID
		k, err := KeyOf(&f)
		if err != nil {
			t.Fatal(err)
		}
		b := offline()
		if err := b.Update(k, Change{TimeoutSeconds: 1 + r.Uint32N(100), Mark: r.Uint32(), MarkMask: r.Uint32(), Status: ct.Status(r.Uint32())}); err != nil {
			t.Fatal(err)
		}
		m, rest, err := nextMessage(b.enc.b)
		if err != nil || len(rest) != 0 {
			t.Fatal(err)
		}
		if m.flags != flagRequest || m.body[0] == 0 {
			t.Fatalf("flags %#x, family %d", m.flags, m.body[0])
		}
		var got ct.Flow
		if err := new(decoder).entry(attrs(m.body[4:]), &got); err != nil && f.Zone == 0 {
			t.Fatal(err)
		}
		if got.Orig != f.Orig || got.Zone != f.Zone || got.ZoneOrig != f.ZoneOrig || got.TimeoutSeconds == 0 {
			t.Fatalf("%+v of %+v", got, f)
		}
	}
}
