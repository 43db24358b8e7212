package tune

import (
	"fmt"
	"math"
	"slices"

	"github.com/ctwarden/ctwarden/ct"
)

// Demand is how many entries the load needs, by Little's law: what arrives a
// second, times how long it stays.
type Demand struct {
	Count int64 `json:"count"`
	// NewPerSecond are the flows that arrive now, those refused included.
	NewPerSecond     float64 `json:"new_per_second"`
	RefusedPerSecond float64 `json:"refused_per_second"`
	NewFrom          string  `json:"new_from"` // how the rate was found
	PeakNewPerSecond float64 `json:"peak_new_per_second"`
	// PeakBefore and PeakAfter are the entries at that peak with the timeouts
	// of now and of the plan, expired ones that nothing has reaped included.
	PeakBefore float64 `json:"peak_entries_before"`
	PeakAfter  float64 `json:"peak_entries_after"`
	// BurstAfter are the entries when that peak comes all at once: the garbage
	// collector is then still at the slow pace of calm.
	BurstAfter float64 `json:"burst_entries_after"`
	// LagSeconds is how long an expired entry goes on counting at most.
	LagBeforeSeconds float64 `json:"expiry_lag_before_seconds"`
	LagAfterSeconds  float64 `json:"expiry_lag_after_seconds"`
	BytesPerEntry    int64   `json:"bytes_per_entry"`
	BytesFrom        string  `json:"bytes_from"`

	Classes []ClassDemand `json:"classes,omitempty"` // largest first
}

// ClassDemand is the part of one class in the demand.
type ClassDemand struct {
	Class        string  `json:"class"`
	Entries      float64 `json:"entries"`
	NewPerSecond float64 `json:"new_per_second"`
	Timeout      string  `json:"timeout,omitempty"` // what it waits for
	PeakBefore   float64 `json:"peak_before"`
	PeakAfter    float64 `json:"peak_after"`
}

// Sizes of an entry: struct nf_conn is a slab object of 256 bytes on 64-bit
// kernels since 4.7, and any extension takes a block of 128 (NF_CT_EXT_PREALLOC).
const (
	extensionBytes   = 128
	fallbackObject   = 256
	oldObject        = 320
	assumedTimeWaitS = 120
)

// demand computes the load and is called once the timeouts are decided.
func (b *builder) demand() {
	b.p.Demand = Demand{}
	s, d := b.s, &b.p.Demand
	d.Count = s.Limits.Count.Or(0)
	d.BytesPerEntry, d.BytesFrom = b.entryBytes()
	d.NewPerSecond, d.RefusedPerSecond, d.NewFrom = b.arrivals()
	d.PeakNewPerSecond = d.NewPerSecond * PeakFactor
	if b.o.PeakNew > 0 {
		d.PeakNewPerSecond = b.o.PeakNew
	}
	d.LagBeforeSeconds = b.lag(&s.Timeouts)
	d.LagAfterSeconds = b.lag(&b.planned)
	if d.NewPerSecond <= 0 || s.Census == nil || s.Census.Entries == 0 {
		b.blindDemand()
	} else {
		b.classDemand(d.PeakNewPerSecond / b.admitted())
		d.PeakBefore += d.PeakNewPerSecond * d.LagBeforeSeconds
		d.PeakAfter += d.PeakNewPerSecond * d.LagAfterSeconds
	}
	// From calm the first pass may come so late that all that arrived until
	// then still counts; it sets the pace of the next by what it finds.
	d.BurstAfter = max(d.PeakAfter, d.PeakNewPerSecond*b.met(b.slowestPass()))
}

// admitted are the flows a second that the entries in the table stand for: those
// that were refused would have stayed as long.
func (b *builder) admitted() float64 {
	d := &b.p.Demand
	if in := d.NewPerSecond - d.RefusedPerSecond; in > 0 {
		return in
	}
	return d.NewPerSecond
}

// blindDemand knows nothing of the composition: every flow is taken for a
// short TCP connection, whose entry stays for TIME_WAIT.
func (b *builder) blindDemand() {
	d := &b.p.Demand
	stay := func(t *ct.Timeouts) float64 {
		if s, ok := t.Get(ct.TimeoutTCPTimeWait); ok {
			return float64(s)
		}
		return assumedTimeWaitS
	}
	base := float64(d.Count)
	b.blind = b.o.PeakNew > 0
	d.PeakBefore = max(base, d.PeakNewPerSecond*(stay(&b.s.Timeouts)+d.LagBeforeSeconds))
	d.PeakAfter = max(base, d.PeakNewPerSecond*(stay(&b.planned)+d.LagAfterSeconds))
}

// arrivals are the flows that come in a second, refused ones included: counted
// between two readings, or else by Little's law from the entries that only
// wait for their timeout.
func (b *builder) arrivals() (rate, refused float64, from string) {
	r := b.s.Rates
	if r != nil && r.Interval > 0 {
		refused = float64(r.Counters.Drop) / r.Interval.Seconds()
	}
	if r != nil && r.Panel && r.BirthsPerSecond > 0 {
		return r.BirthsPerSecond + refused, refused, "two readings of the table"
	}
	if b.s.Census == nil {
		return refused, refused, "unknown but for what was refused"
	}
	for _, c := range b.s.Census.Classes {
		if t, ok := waitSeconds(&b.s.Timeouts, c.ClassKey); ok && lastStage(c.ClassKey) {
			rate += b.scaled(c.Entries) / t
		}
	}
	return rate + refused, refused, "one reading, by Little's law"
}

// waitSeconds is the timeout that a class waits for; ok is false if it is
// unknown, or ends every flow at once.
func waitSeconds(t *ct.Timeouts, c ct.ClassKey) (s float64, ok bool) {
	k := classTimeout(c)
	if k == ct.NumTimeouts {
		return 0, false
	}
	n, ok := t.Get(k)
	return float64(n), ok && n > 0
}

// scaled turns entries that were read into entries of the whole table.
func (b *builder) scaled(n uint64) float64 {
	c := b.s.Census
	if c.Complete || c.Entries == 0 || !b.s.Limits.Count.Known {
		return float64(n)
	}
	return float64(n) * float64(b.s.Limits.Count.N) / float64(c.Entries)
}

// lastStage reports whether a flow passes this class exactly once and last, so
// that entries / timeout is its rate.
func lastStage(c ct.ClassKey) bool {
	if c.Proto != ct.TCP {
		return c.Proto != ct.SCTP && c.Proto != ct.DCCP
	}
	switch c.State {
	case ct.TCPSynSent, ct.TCPTimeWait, ct.TCPClose:
		return true
	}
	return false
}

// waiting reports whether entries of a class only wait for their timeout, so
// that their number follows it in proportion.
func waiting(c ct.ClassKey) bool {
	switch c.Proto {
	case ct.TCP:
		return c.State != ct.TCPEstablished
	case ct.SCTP:
		return c.State != ct.SCTPEstablished
	case ct.UDP, ct.UDPLite, ct.GRE:
		return !c.Assured
	}
	return true
}

func (b *builder) classDemand(growth float64) {
	d := &b.p.Demand
	births := map[ct.ClassKey]float64{}
	if r := b.s.Rates; r != nil && r.Panel {
		for _, cr := range r.BirthsByClass {
			births[cr.ClassKey] = cr.PerSecond
		}
	}
	for _, c := range b.s.Census.Classes {
		cd := b.oneClass(c, births[c.ClassKey])
		cd.PeakBefore *= growth
		cd.PeakAfter *= growth
		d.PeakBefore += cd.PeakBefore
		d.PeakAfter += cd.PeakAfter
		d.Classes = append(d.Classes, cd)
	}
	slices.SortStableFunc(d.Classes, func(x, y ClassDemand) int {
		switch {
		case x.PeakBefore > y.PeakBefore:
			return -1
		case x.PeakBefore < y.PeakBefore:
			return 1
		}
		return 0
	})
}

// oneClass predicts a class at today's rate, with the timeouts of now and of
// the plan. Where more are born than stand there it has not yet filled up.
func (b *builder) oneClass(c ct.Class, births float64) ClassDemand {
	n := b.scaled(c.Entries)
	cd := ClassDemand{Class: className(c.ClassKey), Entries: n, NewPerSecond: births, PeakBefore: n, PeakAfter: n}
	was, ok := waitSeconds(&b.s.Timeouts, c.ClassKey)
	will, still := waitSeconds(&b.planned, c.ClassKey)
	if !ok || !still {
		return cd
	}
	cd.Timeout = classTimeout(c.ClassKey).String()
	if waiting(c.ClassKey) {
		cd.PeakBefore = max(n, births*was)
		cd.PeakAfter = cd.PeakBefore * will / was
		return cd
	}
	if will < was {
		gone := idleBeyond(c, will) * n / float64(max(c.Entries, 1))
		cd.PeakAfter = max(n-gone, 0)
	}
	return cd
}

func className(c ct.ClassKey) string {
	name := c.Proto.String()
	if s := ct.StateName(c.Proto, c.State); s != "" {
		name += " " + s
	}
	switch {
	case c.Assured:
		name += " assured"
	case !c.Replied:
		name += " unreplied"
	}
	if c.NAT {
		name += " nat"
	}
	return name
}

// lag is for how long, on average over the worst moment, an expired entry goes
// on counting. The garbage collector removes it on its next pass, and before
// that every new flow whose hash falls into one of the two buckets where the
// entry stands: the more flows a bucket sees, the shorter.
func (b *builder) lag(t *ct.Timeouts) float64 {
	return b.met(b.passSeconds(t))
}

// met is the lag where passes are so many seconds apart.
func (b *builder) met(pass float64) float64 {
	buckets := b.s.Limits.Buckets.Or(0)
	if pass == 0 || buckets <= 0 {
		return pass
	}
	met := 2 * b.p.Demand.PeakNewPerSecond / float64(buckets)
	if met*pass < 1e-6 {
		return pass
	}
	return (1 - math.Exp(-met*pass)) / met
}

// slowestPass is the longest time between two passes, which a table at rest
// has.
func (b *builder) slowestPass() float64 {
	switch v := b.s.Version; {
	case !v.IsZero() && !v.AtLeast(5, 15), v.AtLeast(5, 15) && !v.AtLeast(5, 18):
		return b.passSeconds(&b.planned)
	}
	return 60
}

// passSeconds is the time between two passes of gc_worker
// (nf_conntrack_core.c). Before 4.9 each entry had a timer of its own. Up to
// 5.14 a pass took up to 16 s (from 4.10), in 5.15 to 5.17 it comes every 120 s,
// later after the mean of what remains of the timeouts, each taken as at most
// 300 s, together with a hundred times 60 s, and after 60 s at the latest.
func (b *builder) passSeconds(t *ct.Timeouts) float64 {
	v := b.s.Version
	switch {
	case v.IsZero():
		return 60
	case !v.AtLeast(4, 9):
		return 0
	case !v.AtLeast(4, 10):
		return 128
	case !v.AtLeast(5, 15):
		return 16
	case !v.AtLeast(5, 18):
		return 120
	}
	// What other namespaces hold is taken to be long-lived, the slower case.
	other := 2 * float64(max(b.o.OtherEntries, 0))
	sum, n := 100*60+other*300, 100+other
	if b.s.Census != nil {
		for _, c := range b.s.Census.Classes {
			left, ok := waitSeconds(t, c.ClassKey)
			if !ok {
				continue
			}
			entries := b.scaled(c.Entries)
			if was, ok := waitSeconds(&b.s.Timeouts, c.ClassKey); ok && waiting(c.ClassKey) {
				entries *= left / was
			}
			if c.State != ct.TCPEstablished || c.Proto != ct.TCP {
				left /= 2 // spread evenly between full and none
			}
			sum += 2 * entries * min(max(left, 1), 300) // it stands in two buckets
			n += 2 * entries
		}
	}
	return math.Min(math.Max(sum/n, 1), 60)
}

// entryBytes is what one entry takes, from the slab where it could be read.
func (b *builder) entryBytes() (bytes int64, from string) {
	object, from := int64(fallbackObject), "the size on 64-bit kernels"
	if !b.s.Version.IsZero() && !b.s.Version.AtLeast(4, 7) {
		object = oldObject
	}
	if v := b.s.Memory.SlabObjectBytes; v.Known && v.N > 0 {
		object, from = v.N, "the slab"
	}
	if b.hasExtension() {
		return object + extensionBytes, fmt.Sprintf("%s, %d, and a block of %d for extensions", from, object, extensionBytes)
	}
	return object, fmt.Sprintf("%s, %d", from, object)
}

// hasExtension reports whether entries carry an extension block: accounting,
// timestamps, events (mode 2 only while somebody listens) or translation. What
// is not known counts as yes, the dearer case.
func (b *builder) hasExtension() bool {
	k := &b.s.Knobs
	return k.Acct.Or(1) != 0 || k.Timestamp.Or(0) != 0 || k.Events.Or(1) == 1 || b.s.Tracking.NAT != ct.No
}
