package ctnl

import "hash/maphash"

const (
	recentLen   = 256
	recentSlots = 4096
)

// recent remembers the last entries of a dump, to find those that come again.
// When the entry at which the kernel broke off is gone as it resumes, it sends
// that entry's bucket anew, from its beginning; a bucket is much shorter than
// this memory (from 5.15 on the kernel caps it at 80).
type recent struct {
	seed maphash.Seed
	keys [recentLen]uint64
	next int
	// marks counts the remembered keys by their low bits, which saves looking
	// through them for all but a few.
	marks [recentSlots]uint8
}

// reset forgets everything.
func (r *recent) reset() {
	*r = recent{seed: maphash.MakeSeed()}
}

// seen reports whether an entry, given as its encoded tuple and its id, is
// among the last, and remembers it.
func (r *recent) seen(tuple []byte, id uint32) bool {
	key := maphash.Bytes(r.seed, tuple) ^ uint64(id)<<32 | 1
	mark := &r.marks[key>>1%recentSlots]
	if *mark > 0 {
		for _, k := range r.keys {
			if k == key {
				return true
			}
		}
	}
	if old := r.keys[r.next]; old != 0 {
		r.marks[old>>1%recentSlots]--
	}
	r.keys[r.next] = key
	*mark++ // cannot overflow in use: the sum of all marks is recentLen
	r.next = (r.next + 1) % recentLen
	return false
}
