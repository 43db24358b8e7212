package guard

import (
	"math"
	"slices"

	"github.com/ctwarden/ctwarden/ct"
)

// Ceiling is how high max may go: the configured share of the memory available
// at the start, at the price of an entry with its extensions, divided among
// the namespaces that hold entries, since max applies to each of them.
func Ceiling(c *Config, before, entryBytes, availableBytes int64, busyNamespaces int) int64 {
	if entryBytes <= 0 {
		entryBytes = 400
	}
	n := int64(c.MemoryShare*float64(availableBytes)) / entryBytes / int64(max(busyNamespaces, 1))
	if c.MaxCeiling > 0 {
		n = min(n, c.MaxCeiling)
	}
	return max(n, before)
}

// Refusals a second that early drop may leave: fewRefusals where anything but a
// higher limit would have to help, for users' SYNs are sent again; almostNone
// where the limit can be raised, which harms nobody.
const (
	fewRefusals = 0.1
	almostNone  = 0.005
)

// reserve is how many entries must be free or disposable at the limit so that
// the kernel's early drop keeps refusals a second below a number at a rate of
// new flows: see [ct.EarlyDropOdds]. It is [noReserve] where no number of them
// would do.
func reserve(v ct.KernelVersion, perSecond, refusals float64, limit, buckets int64) int64 {
	if limit <= 0 || buckets <= 0 {
		return 0
	}
	if perSecond <= refusals {
		return 0
	}
	enough := func(n int64) bool {
		return perSecond*(1-ct.EarlyDropOdds(v, float64(n)/float64(limit), limit, buckets)) < refusals
	}
	if !enough(limit) {
		return noReserve
	}
	lo, hi := int64(0), limit
	for lo < hi {
		if mid := (lo + hi) / 2; enough(mid) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// noReserve is more than any limit.
const noReserve = math.MaxInt32

// maxMin is the largest share s for which all demands, each cut to s, fit in
// the capacity: what the small ones leave is shared by the large ones.
func maxMin(demands []int64, capacity int64) int64 {
	d := slices.Clone(demands)
	slices.Sort(d)
	left := capacity
	for i, v := range d {
		n := int64(len(d) - i)
		if v*n >= left {
			return left / n
		}
		left -= v
	}
	return math.MaxInt64
}
