// Package census tells what the table is made of, from its entries as they
// pass: how many of each class, who and what holds most of them, how many
// different sources there are. It needs the same few megabytes for a hundred
// entries as for a hundred million, and allocates nothing while they pass.
//
// It is deterministic: the same entries in the same order with the same seed
// give the same result.
package census

import (
	"cmp"
	"math"
	"slices"

	"github.com/ctwarden/ctwarden/ct"
)

// Options of a census. The zero value works.
type Options struct {
	// Timeouts are those in force, for lower bounds of idle times. Nil leaves
	// idle times unknown, as they must be where timeout policies may apply.
	Timeouts *ct.Timeouts
	// Former are further timeouts that entries may carry: those from before a
	// change, or of rules whose timeouts are known.
	Former []ct.Timeouts
	// Seed keys the hashes and the choice of the sample. On a machine that
	// others can send packets to it must not be guessable.
	Seed uint64
	// Top is how many heavy hitters of each kind are told, 0 for 20.
	Top int
	// Sample is how many entries are kept to tell what heavy hitters are made
	// of, 0 for 20,000. Up to that many entries, everything said of heavy
	// hitters is exact.
	Sample int
	// SourcesOnly leaves out all heavy hitters but sources, and of those the
	// peers and ports: for who reads the table several times a second.
	SourcesOnly bool
}

const (
	defaultTop    = 20
	defaultSample = 20000
)

// Census is a running census. It is not safe for concurrent use.
type Census struct {
	opts    Options
	hash    hasher
	classes [256]*[classesPerProto]class
	zones   [1 << 16 / 64]uint64

	entries, v4, offloaded, expiring uint64

	sources, destinations, ports, sourceNets, destinationNets heavy
	distinctSources, distinctDestinations                     distinct
	sample                                                    sample
}

// New starts a census.
func New(o Options) *Census {
	o.Top = cmp.Or(o.Top, defaultTop)
	o.Sample = cmp.Or(o.Sample, defaultSample)
	h := newHasher(o.Seed)
	return &Census{
		opts: o, hash: h,
		sources: newHeavy(h), destinations: newHeavy(h), ports: newHeavy(h),
		sourceNets: newHeavy(h), destinationNets: newHeavy(h),
		distinctSources: newDistinct(), distinctDestinations: newDistinct(),
		sample: newSample(o.Sample, o.Seed),
	}
}

// Add counts one entry. It keeps nothing of f.
func (c *Census) Add(f *ct.Flow) {
	c.entries++
	c.count(f)
	src, dst := addrKey(f.Orig.Src), addrKey(f.Orig.Dst)
	if src.is4() {
		c.v4++
	}
	sum := c.hash.sum(src)
	c.sources.add(src, sum)
	c.distinctSources.add(sum)
	sum = c.hash.sum(dst)
	c.destinations.add(dst, sum)
	c.distinctDestinations.add(sum)
	net := src.network()
	c.sourceNets.add(net, c.hash.sum(net))
	net = dst.network()
	c.destinationNets.add(net, c.hash.sum(net))
	if f.Orig.Proto.HasPorts() {
		p := portKey(f.Orig.Proto, f.Orig.DstPort)
		c.ports.add(p, c.hash.sum(p))
	}
	if i := c.sample.place(); i >= 0 {
		c.sample.records[i] = record{src: src, dst: dst, port: f.Orig.DstPort, proto: f.Orig.Proto, flags: flagsOf(f)}
	}
}

func flagsOf(f *ct.Flow) uint8 {
	var b uint8
	if f.Replied() {
		b |= isReplied
	}
	if f.Assured() {
		b |= isAssured
	}
	if f.Orig.Proto == ct.TCP && f.Has(ct.HasProtoInfo) &&
		(f.State == ct.TCPSynSent || f.State == ct.TCPSynRecv || f.State == ct.TCPSynSent2) {
		b |= isHalfOpen
	}
	return b
}

// Result tells what was counted. The census can go on afterwards. Complete,
// Short and the counts before and after are the caller's to fill in.
func (c *Census) Result() *ct.Census {
	r := &ct.Census{
		Entries: c.entries, V4: c.v4, V6: c.entries - c.v4,
		Offloaded: c.offloaded, Expiring: c.expiring,
		Zones: c.zoneCount(), Classes: c.classList(),
	}
	c.heavyHitters(r)
	r.DistinctSources, r.SingleUseSources = c.distinctSources.estimate()
	r.DistinctDestinations, _ = c.distinctDestinations.estimate()
	return r
}

// SampleError is the 95 % half-width, 0 to 1, of a share of one half that was
// told from n of all entries. It is 0 if n is all.
func SampleError(n, all uint64) float64 {
	if n == 0 {
		return 1
	}
	if n >= all {
		return 0
	}
	left := float64(all-n) / float64(max(all-1, 1))
	return 1.96 * 0.5 / math.Sqrt(float64(n)) * math.Sqrt(left)
}

func sortClasses(list []ct.Class) {
	slices.SortFunc(list, func(a, b ct.Class) int {
		return cmp.Or(cmp.Compare(b.Entries, a.Entries), compareKeys(a.ClassKey, b.ClassKey))
	})
}

func sortRates(list []ct.ClassRate) {
	slices.SortFunc(list, func(a, b ct.ClassRate) int {
		return cmp.Or(cmp.Compare(b.PerSecond, a.PerSecond), compareKeys(a.ClassKey, b.ClassKey))
	})
}

func compareKeys(a, b ct.ClassKey) int {
	return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.State, b.State),
		compareBool(a.Assured, b.Assured), compareBool(a.Replied, b.Replied), compareBool(a.NAT, b.NAT))
}

func compareBool(a, b bool) int {
	if a == b {
		return 0
	}
	return order(a)
}
