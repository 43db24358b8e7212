package diagnose

import "github.com/ctwarden/ctwarden/ct"

const (
	mib = 1 << 20
	gib = 1 << 30
)

// kernelMax is the limit that a kernel chooses for itself at load, by its
// version and the machine's memory (nf_conntrack_init_start), 0 if unknown.
// Vendor kernels may choose otherwise.
func kernelMax(v ct.KernelVersion, ram int64) int64 {
	if ram <= 0 {
		return 0
	}
	small := max(ram/16384/bucketBytes, 32)
	switch {
	case v.IsZero() || v.AtLeast(5, 15):
		if ram > 4*gib {
			return 262144
		}
		if ram > gib {
			return 65536
		}
		return max(small, 1024)
	case v.AtLeast(4, 1) && ram > 4*gib:
		return 4 * 65536
	case ram > gib:
		return 4 * 16384
	}
	return 4 * small
}

// entryBytes is what one entry costs: its slab object, measured where the slab
// could be read, and the least extension block.
func (f *facts) entryBytes() int64 {
	object := f.s.Memory.SlabObjectBytes.Or(objectBytes)
	if object < minObjectBytes || object > maxObjectBytes {
		object = objectBytes
	}
	return object + extensionBytes
}

// tableBytes prices a full table.
func (f *facts) tableBytes(maxEntries, buckets int64) int64 {
	return maxEntries*f.entryBytes() + buckets*bucketBytes
}

// ceiling is the largest max that this machine's memory bears: a tenth of
// RAM, and half of what is available beyond today's entries. 0 if unknown.
func (f *facts) ceiling() int64 {
	m := f.s.Memory
	if !m.TotalBytes.Known {
		return 0
	}
	room := int64(float64(m.TotalBytes.N) * memoryAdvice)
	if m.AvailableBytes.Known {
		room = min(room, m.AvailableBytes.N/2+f.peak*f.entryBytes())
	}
	return room / (f.entryBytes() + bucketBytes)
}

// size is a pair of limits that fit each other.
type size struct{ max, buckets int64 }

// wanted is the size to go to: twice the entries there are, at least what the
// kernel itself would choose and what the buckets already suit, within memory.
// ok is false where no raise is possible or worth it.
func (f *facts) wanted() (size, bool) {
	l := f.s.Limits
	if !l.Max.Known || l.Max.N <= 0 {
		return size{}, false
	}
	want := max(2*f.peak, kernelMax(f.s.Version, f.s.Memory.TotalBytes.Or(0)), l.Buckets.Or(0))
	if c := f.ceiling(); c > 0 {
		want = min(want, c)
	}
	want = want / 1024 * 1024
	if want < l.Max.N+l.Max.N/10 {
		return size{}, false
	}
	return size{want, f.bucketsFor(want)}, true
}

// bucketsFor keeps today's buckets where they suit: a resize stalls the
// machine. Kernels from 5.15 on limit the length of chains and have one bucket
// an entry by default; before, four entries shared one.
func (f *facts) bucketsFor(maxEntries int64) int64 {
	per := int64(1)
	if v := f.s.Version; !v.IsZero() && !v.AtLeast(5, 15) {
		per = 4
	}
	b := f.s.Limits.Buckets.Or(0)
	if b*per*2 >= maxEntries {
		return b
	}
	const slotsPerPage = 512
	return (maxEntries/per + slotsPerPage - 1) / slotsPerPage * slotsPerPage
}
