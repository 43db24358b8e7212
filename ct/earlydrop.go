package ct

import "math"

// EarlyDropOdds returns the probability, 0 to 1, that a new flow is admitted
// into a full table because the kernel's early drop finds an entry to evict.
//
// unassured is the share of entries that are not ASSURED, 0 to 1; count and
// buckets are the entries and the hash buckets. Every entry stands in two
// buckets, and early_drop (nf_conntrack_core.c) looks at eight consecutive
// ones from 4.20, at one from 4.7 to 4.19, where a scaling slip makes all eight
// looks hit the same bucket, and at as many as it takes to meet eight entries
// before that. With few entries for many buckets it mostly looks at empty
// ones, and refuses although nearly every entry is disposable.
func EarlyDropOdds(v KernelVersion, unassured float64, count, buckets int64) float64 {
	if unassured <= 0 || count <= 0 || buckets <= 0 {
		return 0
	}
	unassured = math.Min(unassured, 1)
	if !v.IsZero() && !v.AtLeast(4, 7) {
		return 1 - math.Pow(1-unassured, 8)
	}
	looks := 8.0
	if !v.IsZero() && !v.AtLeast(4, 20) {
		looks = 1
	}
	hit := math.Min(looks/float64(buckets), 1)
	return 1 - math.Pow(1-hit, 2*unassured*float64(count))
}
