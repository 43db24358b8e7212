package simulate

import (
	"math"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// thinned makes the table smaller with the traffic: fill, the length of chains
// and the odds of finding a victim stay what they are, and so does the share of
// the table that one pass of garbage collection covers.
func thinned(c sim.Config, scale float64) sim.Config {
	if scale >= 1 {
		return c
	}
	c.Scale = scale
	if c.Max > 0 {
		c.Max = max(int(math.Round(float64(c.Max)*scale)), 1)
	}
	c.Buckets = max(int(math.Round(float64(c.Buckets)*scale)), 1)
	return c
}

// enlarge turns the figures of a thinned run, whose table held at most most
// entries, into those of all the traffic.
func (r *Result) enlarge(scale float64, most int) {
	ints := []*int{&r.Peak, &r.P50, &r.P95, &r.P99}
	counts := []*uint64{&r.Packets, &r.Refused, &r.Invalid, &r.Lost, &r.EarlyDrop, &r.LegitDrop, &r.GCEvicted}
	for i := range r.Points {
		p := &r.Points[i]
		ints = append(ints, &p.Count)
		counts = append(counts, &p.Refused, &p.Early)
		for j := range p.States {
			ints = append(ints, &p.States[j])
		}
	}
	for i := range r.Classes {
		c := &r.Classes[i]
		counts = append(counts, &c.RefusedPackets, &c.EarlyDropped, &c.Started, &c.Answered, &c.GaveUp,
			&c.Broken, &c.Ended, &c.Outcome.Packets, &c.Outcome.Refused)
	}
	for _, p := range ints {
		if *p == most && most > 0 {
			*p = r.Max // full is full, though the size was rounded
			continue
		}
		*p = int(math.Round(float64(*p) / scale))
	}
	for _, p := range counts {
		*p = uint64(math.Round(float64(*p) / scale))
	}
	r.Counters = enlargedCounters(r.Counters, scale)
}

// enlargedCounters multiplies the counters, which wrap as the kernel's do.
func enlargedCounters(c ct.Counters, scale float64) ct.Counters {
	for _, p := range []*uint32{&c.Found, &c.Invalid, &c.Insert, &c.InsertFailed, &c.Drop, &c.EarlyDrop,
		&c.Error, &c.SearchRestart, &c.ClashResolve, &c.ChainTooLong} {
		*p = uint32(uint64(math.Round(float64(*p) / scale)))
	}
	return c
}
