package tune

import (
	"github.com/ctwarden/ctwarden/ct"
)

// Survival is how a table stands a flood of one kind, before and after.
type Survival struct {
	Flood         string  `json:"flood"`
	RatePerSecond float64 `json:"rate_per_second"`
	Before        Stand   `json:"before"`
	After         Stand   `json:"after"`
}

// Stand is the outcome of a flood for one setting.
type Stand struct {
	// FullAfterSeconds is when the table is full; nil if it never is.
	FullAfterSeconds *float64 `json:"full_after_seconds"`
	// Unlimited is set where max is 0: it takes memory until there is none.
	Unlimited bool `json:"unlimited,omitempty"`
	// FillPeak is the share of max that it reaches, at most 1.
	FillPeak float64 `json:"fill_peak"`
	// Admitted are the odds of a new flow once the table is full, 0 to 1.
	Admitted float64 `json:"admitted_when_full"`
}

// survival sets floods of the asked rate on top of today's entries.
func (b *builder) survival() {
	if b.s.Limits.Max.N <= 0 && b.max <= 0 {
		return
	}
	for _, f := range []struct {
		name    string
		timeout ct.TimeoutKey
		assured bool
	}{
		{"SYNs that are answered and never completed", ct.TimeoutTCPSynRecv, false},
		{"SYNs or scans that nobody answers", ct.TimeoutTCPSynSent, false},
		{"UDP that nobody answers", ct.TimeoutUDP, false},
		{"completed handshakes, then silence", ct.TimeoutTCPEstablished, true},
	} {
		was, ok := b.s.Timeouts.Get(f.timeout)
		if !ok {
			continue
		}
		will, _ := b.planned.Get(f.timeout)
		b.p.Survival = append(b.p.Survival, Survival{Flood: f.name, RatePerSecond: b.o.FloodRate,
			Before: b.stand(b.s.Limits.Max.N, b.s.Limits.Buckets.N, was, f.assured),
			After:  b.stand(b.max, b.buckets, will, f.assured)})
	}
}

func (b *builder) stand(limit, buckets int64, timeout int32, assured bool) Stand {
	base := float64(b.s.Limits.Count.Or(0))
	rate := b.o.FloodRate
	if limit <= 0 { // no limit: never full, until memory is
		return Stand{Unlimited: true, Admitted: 1}
	}
	free := max(float64(limit)-base, 0)
	if load := rate * float64(max(timeout, 0)); load <= free {
		return Stand{FillPeak: (base + load) / float64(limit), Admitted: 1}
	}
	at := free / rate
	disposable := b.disposableNow() * base
	if !assured {
		disposable += free
	}
	return Stand{FullAfterSeconds: &at, FillPeak: 1,
		Admitted: ct.EarlyDropOdds(b.s.Version, disposable/float64(limit), limit, buckets)}
}

// disposableNow is the share of today's entries that early drop may evict.
func (b *builder) disposableNow() float64 {
	c := b.s.Census
	if c == nil || c.Entries == 0 {
		return 0.1
	}
	return c.Share(c.Sum(func(k ct.ClassKey) bool { return !k.Assured }))
}
