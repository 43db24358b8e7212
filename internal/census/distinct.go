package census

// distinct estimates how many different keys a stream has, and how many occur
// just once, by Gibbons' distinct sampling: it follows the keys whose hash
// starts with a number of zero bits, one more each time the table is full. A
// key that is followed now has been followed from its first appearance, so its
// count is exact. The standard error is below 3 %.
type distinct struct {
	slots *[distinctSlots]distinctSlot
	spare *[distinctSlots]distinctSlot
	used  int
	level uint // zero bits asked for
}

type distinctSlot struct {
	sum uint64
	n   uint64
}

const (
	distinctSlots = 4096 // a power of two
	distinctMask  = distinctSlots - 1
	distinctLoad  = distinctSlots / 4 * 3
)

func newDistinct() distinct {
	return distinct{slots: new([distinctSlots]distinctSlot), spare: new([distinctSlots]distinctSlot)}
}

// add counts the key whose hash is sum.
func (d *distinct) add(sum uint64) {
	if !d.follows(sum) {
		return
	}
	for i := sum; ; i++ {
		s := &d.slots[i&distinctMask]
		if s.sum == sum && s.n != 0 {
			s.n++
			return
		}
		if s.n == 0 {
			*s = distinctSlot{sum, 1}
			break
		}
	}
	d.used++
	for d.used > distinctLoad && d.level < 63 {
		d.halve()
	}
}

// follows reports whether the hash starts with level zero bits.
func (d *distinct) follows(sum uint64) bool { return sum>>(64-d.level) == 0 }

func (d *distinct) halve() {
	d.level++
	old := d.slots
	d.slots, d.spare = d.spare, old
	clear(d.slots[:])
	d.used = 0
	for _, s := range old {
		if s.n == 0 || !d.follows(s.sum) {
			continue
		}
		i := s.sum
		for d.slots[i&distinctMask].n != 0 {
			i++
		}
		d.slots[i&distinctMask] = s
		d.used++
	}
}

// estimate returns the number of different keys and of those seen once.
func (d *distinct) estimate() (all, once uint64) {
	for i := range d.slots {
		switch d.slots[i].n {
		case 0:
		case 1:
			once++
			all++
		default:
			all++
		}
	}
	return all << d.level, once << d.level
}
