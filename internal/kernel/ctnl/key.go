package ctnl

import (
	"fmt"
	"iter"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

// Key names one entry for a change or a deletion. Keys come from entries that
// were read, by KeyOf, and from nowhere else: so each holds a valid tuple and
// an id, and a deletion made from one can never be the message without a
// tuple that empties the table. The zero Key is refused everywhere.
//
// It takes 56 bytes and holds no pointers, for evictions collect many.
type Key struct {
	src, dst         [16]byte // 4 of them for IPv4, in front
	id               uint32
	status           ct.Status
	srcPort, dstPort uint16
	icmpID           uint16
	zone             uint16 // of both directions
	zoneOrig         uint16 // of the original direction alone
	icmpType         uint8
	icmpCode         uint8
	proto            ct.Proto
	kind             keyKind
}

type keyKind uint8

const (
	keyed4 keyKind = iota + 1
	keyed6
)

// KeyOf returns the key of an entry that was read. It fails for a Flow that
// was not, one without id or tuple.
func KeyOf(f *ct.Flow) (Key, error) {
	if !f.Orig.IsValid() || !f.Has(ct.HasID) {
		return Key{}, fmt.Errorf("entry %q has no tuple or no id to be named by", f.Orig)
	}
	return keyOf(f), nil
}

// keyOf also makes keys that have no id, which must not leave this package.
func keyOf(f *ct.Flow) Key {
	k := Key{id: f.ID, status: f.Status, zone: f.Zone, zoneOrig: f.ZoneOrig,
		srcPort: f.Orig.SrcPort, dstPort: f.Orig.DstPort, proto: f.Orig.Proto,
		icmpID: f.Orig.ICMPID, icmpType: f.Orig.ICMPType, icmpCode: f.Orig.ICMPCode}
	if f.Orig.Is4() {
		src, dst := f.Orig.Src.As4(), f.Orig.Dst.As4()
		copy(k.src[:], src[:])
		copy(k.dst[:], dst[:])
		k.kind = keyed4
	} else {
		k.src, k.dst = f.Orig.Src.As16(), f.Orig.Dst.As16()
		k.kind = keyed6
	}
	return k
}

// Orig returns the entry's original tuple, the zero tuple for the zero Key.
func (k *Key) Orig() ct.Tuple {
	t := ct.Tuple{Proto: k.proto, SrcPort: k.srcPort, DstPort: k.dstPort,
		ICMPID: k.icmpID, ICMPType: k.icmpType, ICMPCode: k.icmpCode}
	switch k.kind {
	case keyed4:
		t.Src, t.Dst = netip.AddrFrom4([4]byte(k.src[:4])), netip.AddrFrom4([4]byte(k.dst[:4]))
	case keyed6:
		t.Src, t.Dst = netip.AddrFrom16(k.src), netip.AddrFrom16(k.dst)
	}
	return t
}

// ID returns the entry's id.
func (k *Key) ID() uint32 { return k.id }

// valid is false for the zero Key alone.
func (k *Key) valid() bool { return k.kind != 0 }

// Keys is a list of keys that grows without moving what it has, which at
// hundreds of thousands costs more than to read them. The zero value is empty.
type Keys struct {
	chunks [][]Key
	n      int
}

const keyChunk = 4096

// Add appends the key of an entry that was read.
func (l *Keys) Add(f *ct.Flow) error {
	k, err := KeyOf(f)
	if err != nil {
		return err
	}
	last := len(l.chunks) - 1
	if last < 0 || len(l.chunks[last]) == keyChunk {
		l.chunks = append(l.chunks, make([]Key, 0, keyChunk))
		last++
	}
	l.chunks[last] = append(l.chunks[last], k)
	l.n++
	return nil
}

// Len returns how many keys there are.
func (l *Keys) Len() int { return l.n }

// All yields the keys in the order in which they were added.
func (l *Keys) All() iter.Seq[Key] {
	return func(yield func(Key) bool) {
		for _, c := range l.chunks {
			for _, k := range c {
				if !yield(k) {
					return
				}
			}
		}
	}
}
