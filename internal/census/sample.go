package census

import (
	"math"

	"github.com/ctwarden/ctwarden/ct"
)

// sample keeps a uniform choice of the entries that passed, all of them while
// they fit: Li's algorithm L. From it the make-up of the heavy hitters is told.
type sample struct {
	records []record // its capacity is the size of the sample
	seen    uint64
	chance  splitmix
	w       float64
	next    uint64 // the number of the entry that comes in next
}

// record is what is kept of an entry.
type record struct {
	src, dst key
	port     uint16 // original destination port
	proto    ct.Proto
	flags    uint8
}

// Flags of a record.
const (
	isReplied = 1 << iota
	isAssured
	isHalfOpen
)

func newSample(size int, seed uint64) sample {
	return sample{records: make([]record, 0, size), chance: splitmix(seed), w: 1}
}

// complete reports whether no entry was left out.
func (s *sample) complete() bool { return s.seen == uint64(len(s.records)) }

// place says where the next entry goes, -1 for nowhere.
func (s *sample) place() int {
	s.seen++
	if n := len(s.records); n < cap(s.records) {
		s.records = s.records[:n+1]
		if n+1 == cap(s.records) {
			s.skip()
		}
		return n
	}
	if s.seen != s.next {
		return -1
	}
	s.skip()
	return int(s.chance.next() % uint64(cap(s.records)))
}

func (s *sample) skip() {
	s.w *= math.Exp(math.Log(s.chance.unit()) / float64(cap(s.records)))
	gap := math.Floor(math.Log(s.chance.unit()) / math.Log1p(-s.w))
	if !(gap >= 0 && gap < 1<<62) {
		gap = 1 << 62
	}
	s.next = s.seen + uint64(gap) + 1
}
