package ctnl

import (
	"encoding/binary"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

const (
	recentLen  = 256
	recentBits = 12
)

// recent remembers the last entries of a dump, to find those that come again.
// When the entry at which the kernel broke off is gone as it resumes, it sends
// that entry's bucket anew, from its beginning; a bucket is much shorter than
// this memory (from 5.15 on the kernel caps it at 80).
type recent struct {
	keys [recentLen]uint64
	next int
	// marks counts the remembered keys by some of their bits, which saves
	// looking through them for all but a few.
	marks [1 << recentBits]uint16
}

// seen reports whether an entry is among the last, and remembers it.
func (r *recent) seen(f *ct.Flow) bool {
	key := recentKey(f)
	mark := &r.marks[slot(key)]
	if *mark > 0 {
		for _, k := range r.keys {
			if k == key {
				return true
			}
		}
	}
	if old := r.keys[r.next]; old != 0 {
		r.marks[slot(old)]--
	}
	r.keys[r.next] = key
	*mark++
	r.next = (r.next + 1) % recentLen
	return false
}

func slot(key uint64) uint64 { return key * 0x9e3779b97f4a7c15 >> (64 - recentBits) }

// recentKey mixes the id, itself a keyed hash, with the tuple: in a table of
// millions some ids occur twice. It is never 0.
func recentKey(f *ct.Flow) uint64 {
	t := &f.Orig
	key := uint64(f.ID)<<32 | uint64(t.SrcPort)<<16 | uint64(t.DstPort)
	key ^= uint64(t.ICMPID)<<16 | uint64(t.ICMPType)<<8 | uint64(t.Proto)
	key += low64(t.Src)*0x9e3779b97f4a7c15 + low64(t.Dst)*0xc2b2ae3d27d4eb4f
	return key | 1<<63
}

// low64 returns the lower half of an address, for IPv4 all of it.
func low64(a netip.Addr) uint64 {
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[8:])
}
