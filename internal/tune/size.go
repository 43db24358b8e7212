package tune

import (
	"fmt"
	"strconv"

	"github.com/ctwarden/ctwarden/ct"
)

// burstFill is how full the table may be when the peak comes all at once.
const burstFill = 0.95

// bucketBytes is one head of the hash table (struct hlist_nulls_head).
const bucketBytes = 8

// size decides max and buckets.
func (b *builder) size() {
	b.demand()
	b.max, b.buckets = b.s.Limits.Max.N, b.s.Limits.Buckets.Or(0)
	want, why := b.wantMax()
	if b.hostOnly() {
		b.hostKept(want, why)
		return
	}
	if want != b.max {
		b.raiseMax(want, why)
	} else {
		b.keep(KeyMax, num(b.s.Limits.Max), why)
	}
	b.sizeBuckets()
}

// hostOnly reports whether max and buckets are out of reach from here.
func (b *builder) hostOnly() bool {
	return b.s.Limits.MaxWritable == ct.No || b.s.Netns.Initial == ct.No
}

func (b *builder) hostKept(want int64, why string) {
	if want > b.max {
		why = fmt.Sprintf("the host's: plan there for %d (%s)", want, why)
	} else {
		why = "the host's, and enough: " + why
	}
	b.keep(KeyMax, num(b.s.Limits.Max), why)
	b.keep(KeyBuckets, num(b.s.Limits.Buckets), "the host's: one hash table for all namespaces")
}

// wantMax returns the limit to have and why; the present one if it should stay.
func (b *builder) wantMax() (int64, string) {
	d := &b.p.Demand
	now := b.s.Limits.Max.N
	need := roundMax(int64(max(d.PeakAfter/targetFill, d.BurstAfter/burstFill)))
	ceiling, bound := b.ceiling()
	if now == 0 {
		to := max(need, 65536)
		if ceiling > 0 {
			to = min(to, max(ceiling, d.Count*6/5))
		}
		return to, "0 means no limit: a flood takes memory until the kernel kills processes"
	}
	if bound != "" && now > ceiling {
		b.p.Warnings = append(b.p.Warnings, fmt.Sprintf(
			"a full table of %d entries would take %s, more than %s: it is not lowered by itself; %d would fit",
			now, byteSize(now*d.BytesPerEntry*int64(b.o.BusyNetns)), bound, ceiling))
	}
	switch {
	case need <= now:
		return now, fmt.Sprintf("the planned peak of %.0f entries fills %s of it", d.PeakAfter, percent(d.PeakAfter/float64(now)))
	case bound == "":
		b.p.Warnings = append(b.p.Warnings, "the machine's memory could not be read: max is not raised without its price")
		return now, "memory unknown"
	case ceiling <= now:
		return now, fmt.Sprintf("%d would be needed, but memory allows no more: %s", need, bound)
	case need > ceiling:
		b.p.Warnings = append(b.p.Warnings, fmt.Sprintf(
			"%d entries would be needed at the planned peak, %s allows %d: a higher limit will not carry this load, look at what fills the table", need, bound, ceiling))
		return ceiling, fmt.Sprintf("the planned peak of %.0f entries needs more; this is what %s allows", d.PeakAfter, bound)
	}
	return need, fmt.Sprintf("the planned peak of %.0f entries (%.0f new a second) fills %s of it; it would fill %s of %d",
		d.PeakAfter, d.PeakNewPerSecond, percent(d.PeakAfter/float64(need)), percent(d.PeakAfter/float64(now)), now)
}

// roundMax rounds a limit up to 16,384, so that it looks like a choice, and
// buckets and max stay in a plain ratio.
func roundMax(n int64) int64 {
	const step = 16384
	return (n + step - 1) / step * step
}

// ceiling is the highest limit that memory allows, and the bound in words, ""
// if nothing is known.
func (b *builder) ceiling() (int64, string) {
	m := &b.s.Memory
	perEntry := b.p.Demand.BytesPerEntry * int64(b.o.BusyNetns)
	if !m.TotalBytes.Known || perEntry <= 0 {
		return 0, ""
	}
	budget := int64(b.o.MemoryShare * float64(m.TotalBytes.N))
	bound := fmt.Sprintf("%g %% of memory", b.o.MemoryShare*100)
	if m.AvailableBytes.Known {
		if free := m.AvailableBytes.N/2 + b.p.Demand.Count*b.p.Demand.BytesPerEntry; free < budget {
			budget, bound = free, "half of the available memory"
		}
	}
	return budget / perEntry / 1024 * 1024, bound
}

func (b *builder) raiseMax(to int64, why string) {
	cost := (to - b.max) * b.p.Demand.BytesPerEntry * int64(b.o.BusyNetns)
	if b.max == 0 {
		cost = 0
	}
	b.add(Item{Key: KeyMax, From: num(b.s.Limits.Max), To: strconv.FormatInt(to, 10), ActsOn: "all new flows",
		Why: why, Risk: fmt.Sprintf("up to %s of kernel memory that cannot be reclaimed, once the table is full", byteSize(to*b.p.Demand.BytesPerEntry*int64(b.o.BusyNetns))),
		MemoryBytes: cost, Global: true})
	b.max = to
}

// BucketChoice is one size of the hash table and what it brings.
type BucketChoice struct {
	Buckets     int64   `json:"buckets"`
	MeanChain   float64 `json:"mean_chain"`   // entries met by a lookup that finds nothing, at the planned peak
	FullChain   float64 `json:"full_chain"`   // the same with a full table
	Admitted    float64 `json:"admitted"`     // odds that a full table still admits a new flow, 0 to 1
	MemoryBytes int64   `json:"memory_bytes"` //
	Fits        bool    `json:"fits"`         // within this kernel's chain limit and our bound on lookup cost
	Chosen      bool    `json:"chosen"`
	Present     bool    `json:"present"`
}

// wantOdds is what the chosen size should reach, if the bound on chains lets it.
const wantOdds = 0.95

// sizeBuckets weighs short chains, which want many buckets, against the early
// drop, which looks at eight of them and finds nothing in sparse ones.
func (b *builder) sizeBuckets() {
	if !b.s.Limits.Buckets.Known || b.max <= 0 {
		return
	}
	choices := b.bucketChoices()
	best := pickBuckets(choices)
	present := choices[len(choices)-1]
	choices[best].Chosen = true
	c := choices[best]
	b.p.Buckets = choices
	if c.Present || !worthResize(present, c) {
		for i := range b.p.Buckets {
			b.p.Buckets[i].Chosen = b.p.Buckets[i].Present
		}
		b.keep(KeyBuckets, num(b.s.Limits.Buckets), fmt.Sprintf(
			"a full table gives a mean chain of %.1f and admits a new flow with odds of %s: no gain worth a resize", present.FullChain, odds(present.Admitted)))
		return
	}
	key := KeyBuckets
	if !b.s.Version.IsZero() && !b.s.Version.AtLeast(4, 7) {
		key = KeyHashsize
	}
	stall := float64(b.p.Demand.Count) * 0.5e-3
	b.add(Item{Key: key, From: num(b.s.Limits.Buckets), To: strconv.FormatInt(c.Buckets, 10), ActsOn: "all namespaces: one hash table for the host",
		Why: fmt.Sprintf("full table: mean chain %.1f, was %.1f; odds that early drop finds room %s, were %s (%.0f %% of the entries disposable)",
			c.FullChain, present.FullChain, odds(c.Admitted), odds(present.Admitted), 100*b.disposable()),
		Risk:        fmt.Sprintf("one resize, during which new flows wait for about %.0f ms", max(stall, 1)),
		MemoryBytes: (c.Buckets - b.s.Limits.Buckets.N) * bucketBytes, Global: true})
	b.buckets = c.Buckets
}

func odds(p float64) string {
	if p > 0.995 {
		return "over 99 %"
	}
	return fmt.Sprintf("%.0f %%", p*100)
}

// bucketChoices are max divided by powers of two; the present size is last.
func (b *builder) bucketChoices() []BucketChoice {
	var list []BucketChoice
	now := b.s.Limits.Buckets.N
	for div := int64(1); div <= 16; div *= 2 {
		if n := roundBuckets(b.max / div); n != now && (len(list) == 0 || list[len(list)-1].Buckets != n) {
			list = append(list, b.bucketChoice(n))
		}
	}
	last := b.bucketChoice(now)
	last.Present = true
	return append(list, last)
}

// roundBuckets rounds up as nf_ct_alloc_hashtable does: to whole pages of
// heads, 512 on 64-bit machines with pages of 4 KiB.
func roundBuckets(n int64) int64 { return max((n+511)/512*512, 512) }

func (b *builder) bucketChoice(n int64) BucketChoice {
	c := BucketChoice{Buckets: n, MemoryBytes: n * bucketBytes,
		MeanChain: 2 * b.p.Demand.PeakAfter / float64(n), FullChain: 2 * float64(b.max) / float64(n),
		Admitted: ct.EarlyDropOdds(b.s.Version, b.disposable(), b.max, n)}
	c.Fits = c.FullChain <= b.longestChain()
	return c
}

// longestChain bounds the mean chain of a full table. From 5.15 to 6.0 an insert
// fails at a random limit of 8 to 31 entries, so that a mean of 2 is the most
// that loses practically nothing; from 6.1 the limit is 50 to 79, and the cost
// of a lookup is what bounds.
func (b *builder) longestChain() float64 {
	v := b.s.Version
	if v.AtLeast(5, 15) && !v.AtLeast(6, 1) {
		return 2
	}
	return 8
}

// disposable is the share of a full table that early drop may evict, 0 to 1.
// Where the load itself nearly fills the table it is as seen now; elsewhere
// only a flood fills it, and half of it is taken to be the flood's.
func (b *builder) disposable() float64 {
	c := b.s.Census
	if c == nil || c.Entries < 100 || b.p.Demand.PeakAfter < float64(b.max)/2 {
		return 0.5
	}
	n := c.Sum(func(k ct.ClassKey) bool { return !k.Assured })
	return min(max(c.Share(n), 0.02), 0.5)
}

// pickBuckets takes the largest size that reaches wantOdds, or else the one
// with the best odds among those that fit.
func pickBuckets(list []BucketChoice) int {
	best := -1
	for i, c := range list {
		if !c.Fits {
			continue
		}
		switch {
		case best < 0:
			best = i
		case better(c, list[best]):
			best = i
		}
	}
	if best < 0 { // none fits: the shortest chains
		best = 0
		for i, c := range list {
			if c.FullChain < list[best].FullChain {
				best = i
			}
		}
	}
	return best
}

func better(x, y BucketChoice) bool {
	xOK, yOK := x.Admitted >= wantOdds, y.Admitted >= wantOdds
	switch {
	case xOK && yOK:
		return x.Buckets > y.Buckets && x.FullChain < y.FullChain && y.FullChain > 2
	case xOK != yOK:
		return xOK
	}
	return x.Admitted > y.Admitted
}

// worthResize reports whether a change gains enough for the stall it costs:
// chains that no longer fit, or twice as long, or odds better by a tenth.
func worthResize(now, then BucketChoice) bool {
	if !now.Fits && then.FullChain < now.FullChain {
		return true
	}
	return now.MeanChain >= 2*then.MeanChain && now.MeanChain > 4 || then.Admitted >= now.Admitted+0.1
}

func byteSize(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
