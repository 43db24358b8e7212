package census

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// stream makes n entries of a mixture: heavy and light sources, both families,
// every protocol, translated and not.
func stream(n int, seed uint64, yield func(*ct.Flow)) {
	rng := rand.New(rand.NewPCG(seed, 1))
	zipf := rand.NewZipf(rng, 1.2, 8, 1<<20)
	protos := []ct.Proto{ct.TCP, ct.TCP, ct.TCP, ct.UDP, ct.UDP, ct.ICMP, ct.SCTP, ct.GRE, 50}
	for range n {
		var f ct.Flow
		f.Orig.Proto = protos[rng.IntN(len(protos))]
		f.Orig.Src, f.Orig.Dst = someAddr(uint32(zipf.Uint64())), someAddr(uint32(zipf.Uint64()%97))
		if f.Orig.Src.Is4() != f.Orig.Dst.Is4() {
			f.Orig.Dst = f.Orig.Src.Next()
		}
		if f.Orig.Proto.HasPorts() {
			f.Orig.SrcPort, f.Orig.DstPort = uint16(rng.Uint32()), uint16(zipf.Uint64()%2000)
		}
		f.Reply, _ = f.Orig.Invert()
		if rng.IntN(10) == 0 {
			f.Reply.Dst = netip.MustParseAddr("203.0.113.1")
		}
		f.Fields = ct.HasTimeout | ct.HasZone
		f.TimeoutSeconds = []uint32{0, 1, 20, 119, 299, 300, 400000, 431999, 900000}[rng.IntN(9)]
		f.Status = ct.Status(rng.Uint32()) & (ct.StatusAssured | ct.StatusSeenReply | ct.StatusConfirmed)
		if rng.IntN(50) == 0 {
			f.Status |= ct.StatusOffload
		}
		f.Zone = uint16(rng.IntN(3))
		if f.Orig.Proto.HasState() && rng.IntN(20) > 0 {
			f.Fields |= ct.HasProtoInfo
			f.State = ct.State(rng.IntN(int(ct.NumTCPStates)))
		}
		yield(&f)
	}
}

func someAddr(n uint32) netip.Addr {
	if n%5 == 0 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0, byte(n >> 16), byte(n >> 8), 15: byte(n)})
	}
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

// exact is the census with maps.
type exact struct {
	timeouts              *ct.Timeouts
	classes               map[ct.ClassKey]*ct.Class
	groups                [5]map[key]*exactGroup
	n, v4, offl, expiring uint64
	zones                 map[uint16]bool
}

type exactGroup struct {
	n, replied, assured, halfOpen uint64
	peers                         map[key]bool
}

func (e *exact) add(f *ct.Flow) {
	e.n++
	if f.Orig.Is4() {
		e.v4++
	}
	if f.Offloaded() {
		e.offl++
	}
	if f.TimeoutSeconds <= 1 {
		e.expiring++
	}
	e.zones[f.Zone] = true
	k := ct.ClassKey{Proto: f.Orig.Proto, State: f.State, Assured: f.Assured(), Replied: f.Replied(), NAT: f.NAT()}
	c := e.classes[k]
	if c == nil {
		c = &ct.Class{ClassKey: k}
		e.classes[k] = c
	}
	c.Entries++
	if idle, ok := ct.IdleMin(f, e.timeouts); ok {
		c.IdleKnown++
		for i, s := range ct.IdleSteps {
			if idle >= s {
				c.IdleOver[i]++
			}
		}
	}
	src, dst := addrKey(f.Orig.Src), addrKey(f.Orig.Dst)
	for i, g := range [][2]key{{src, dst}, {dst, src}, {portKey(f.Orig.Proto, f.Orig.DstPort), src},
		{src.network(), dst}, {dst.network(), src}} {
		if i == 2 && !f.Orig.Proto.HasPorts() {
			continue
		}
		e.group(i, g[0], g[1], flagsOf(f))
	}
}

func (e *exact) group(i int, k, peer key, flags uint8) {
	g := e.groups[i][k]
	if g == nil {
		g = &exactGroup{peers: map[key]bool{}}
		e.groups[i][k] = g
	}
	g.n++
	g.peers[peer] = true
	if flags&isReplied != 0 {
		g.replied++
	}
	if flags&isAssured != 0 {
		g.assured++
	}
	if flags&isHalfOpen != 0 {
		g.halfOpen++
	}
}

func keyOfHeavy(i int, h ct.Heavy) key {
	if i == 2 {
		return portKey(h.Proto, h.Port)
	}
	return addrKey(h.Prefix.Addr())
}

func compareWithMaps(t *testing.T, n int, seed uint64) (*ct.Census, *exact) {
	t.Helper()
	timeouts := ct.DefaultTimeouts(ct.KernelVersion{Major: 6, Minor: 18})
	c := New(Options{Timeouts: &timeouts, Seed: seed})
	e := &exact{timeouts: &timeouts, classes: map[ct.ClassKey]*ct.Class{}, zones: map[uint16]bool{}}
	for i := range e.groups {
		e.groups[i] = map[key]*exactGroup{}
	}
	stream(n, seed, func(f *ct.Flow) { c.Add(f); e.add(f) })
	return c.Result(), e
}

func TestAgainstMaps(t *testing.T) {
	for seed, n := range map[uint64]int{1: 300, 2: 20000, 3: 20001, 4: 300000} {
		if testing.Short() && n > 50000 {
			continue
		}
		r, e := compareWithMaps(t, n, seed)
		if r.Entries != e.n || r.V4 != e.v4 || r.V6 != e.n-e.v4 || r.Offloaded != e.offl || r.Zones != len(e.zones) || r.Expiring != e.expiring {
			t.Errorf("n=%d: totals %+v, want %+v", n, r, e)
		}
		for _, c := range r.Classes {
			if want := e.classes[c.ClassKey]; want == nil || *want != c {
				t.Errorf("n=%d: class %+v, want %+v", n, c, want)
			}
		}
		if len(r.Classes) != len(e.classes) {
			t.Errorf("n=%d: %d classes, want %d", n, len(r.Classes), len(e.classes))
		}
		for i, list := range [][]ct.Heavy{r.Sources, r.Destinations, r.Ports, r.SourcePrefixes, r.DestinationPrefixes} {
			checkHeavy(t, n, i, list, e)
		}
		near(t, "distinct sources", r.DistinctSources, uint64(len(e.groups[0])), 0.1)
		near(t, "distinct destinations", r.DistinctDestinations, uint64(len(e.groups[1])), 0.1)
		var once uint64
		for _, g := range e.groups[0] {
			if g.n == 1 {
				once++
			}
		}
		near(t, "single-use sources", r.SingleUseSources, once, 0.1)
		if r.HeavyError > 1.0/700 {
			t.Errorf("n=%d: error bound %v", n, r.HeavyError)
		}
	}
}

func checkHeavy(t *testing.T, n, i int, list []ct.Heavy, e *exact) {
	t.Helper()
	told := map[key]bool{}
	var least uint64 = math.MaxUint64
	for _, h := range list {
		k := keyOfHeavy(i, h)
		told[k] = true
		g := e.groups[i][k]
		if g == nil {
			t.Errorf("n=%d kind %d: %+v is not there at all", n, i, h)
			continue
		}
		if h.Entries < g.n || h.Entries-h.Error > g.n {
			t.Errorf("n=%d kind %d: %d entries, error %d; in truth %d", n, i, h.Entries, h.Error, g.n)
		}
		least = min(least, h.Entries)
		if n <= defaultSample {
			if h.Error != 0 || h.Replied != g.replied || h.Assured != g.assured || h.HalfOpen != g.halfOpen || h.DistinctPeers != uint64(len(g.peers)) {
				t.Errorf("n=%d kind %d: %+v; in truth %+v", n, i, h, g)
			}
		} else if g.n > uint64(n/20) {
			near(t, "replied", h.Replied, g.replied, 0.15)
			near(t, "assured", h.Assured, g.assured, 0.15)
		}
		if h.Replied+h.Unreplied != h.Entries {
			t.Errorf("n=%d kind %d: %+v does not add up", n, i, h)
		}
	}
	for k, g := range e.groups[i] {
		if !told[k] && g.n > least {
			t.Errorf("n=%d kind %d: %v with %d entries left out, the least told has %d", n, i, k, g.n, least)
		}
	}
}

// near allows for the standard error that the sketches state, several times.
func near(t *testing.T, what string, got, want uint64, tolerance float64) {
	t.Helper()
	if diff := math.Abs(float64(got) - float64(want)); diff > tolerance*float64(want)+3 {
		t.Errorf("%s: %d, in truth %d", what, got, want)
	}
}

func TestSameSeedSameResult(t *testing.T) {
	a, _ := compareWithMaps(t, 60000, 9)
	b, _ := compareWithMaps(t, 60000, 9)
	if !reflect.DeepEqual(a, b) {
		t.Error("two runs differ")
	}
}

func TestAddAllocatesNothing(t *testing.T) {
	c := New(Options{})
	var flows []ct.Flow
	stream(5000, 3, func(f *ct.Flow) { flows = append(flows, *f) })
	for i := range flows {
		c.Add(&flows[i])
	}
	i := 0
	if a := testing.AllocsPerRun(20000, func() { c.Add(&flows[i%len(flows)]); i++ }); a != 0 {
		t.Errorf("%v allocations an entry", a)
	}
}

func TestForgedSourcesAreSingleUse(t *testing.T) {
	c := New(Options{Seed: 5})
	rng := rand.New(rand.NewPCG(5, 5))
	const n = 100000
	for range n {
		f := ct.Flow{Orig: ct.Tuple{Proto: ct.TCP, DstPort: 443, Dst: netip.AddrFrom4([4]byte{192, 0, 2, 1})}}
		a := rng.Uint32()
		f.Orig.Src = netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
		c.Add(&f)
	}
	r := c.Result()
	near(t, "distinct", r.DistinctSources, n, 0.08)
	near(t, "single use", r.SingleUseSources, n, 0.08)
	if h := r.Sources[0]; h.Entries > n/700 || h.Entries-h.Error > 4 {
		t.Errorf("a heavy source out of nothing: %+v", h)
	}
	if h := r.Ports[0]; h.Entries != n || h.Port != 443 || h.Error != 0 {
		t.Errorf("port %+v", h)
	}
}

func TestPopulation(t *testing.T) {
	for _, c := range []struct{ d, n, all, lo, hi uint64 }{
		{5, 5, 5, 5, 5}, {0, 10, 100, 0, 0}, {1, 10, 100, 1, 1}, {10, 10, 100, 100, 100},
		{9000, 20000, 200000, 9000, 11000}, {16500, 20000, 200000, 48000, 55000},
	} {
		if got := population(c.d, c.n, c.all); got < c.lo || got > c.hi {
			t.Errorf("population(%d, %d, %d) = %d, want %d to %d", c.d, c.n, c.all, got, c.lo, c.hi)
		}
	}
}

func TestSampleIsUniform(t *testing.T) {
	const size, n, rounds = 50, 1000, 400
	var hits [n]int
	for seed := range uint64(rounds) {
		s := newSample(size, seed)
		var at [size]int
		for i := range n {
			if p := s.place(); p >= 0 {
				at[p] = i
			}
		}
		for _, i := range at {
			hits[i]++
		}
	}
	var low, high int
	for i, h := range hits {
		if i < n/2 {
			low += h
		} else {
			high += h
		}
	}
	if math.Abs(float64(low-high)) > 5*math.Sqrt(size*rounds) {
		t.Errorf("%d choices from the first half, %d from the second", low, high)
	}
}

func TestSampleError(t *testing.T) {
	if e := SampleError(100, 100); e != 0 {
		t.Errorf("all: %v", e)
	}
	if e := SampleError(20000, 1000000); e < 0.006 || e > 0.007 {
		t.Errorf("20,000 of a million: %v", e)
	}
	if e := SampleError(0, 0); e != 1 {
		t.Errorf("nothing: %v", e)
	}
}

func FuzzAgainstMaps(f *testing.F) {
	f.Add(uint16(10), uint64(1))
	f.Add(uint16(25000), uint64(2))
	f.Fuzz(func(t *testing.T, n uint16, seed uint64) { compareWithMaps(t, int(n), seed) })
}

func benchmarkAdd(b *testing.B, flows []ct.Flow) {
	timeouts := ct.DefaultTimeouts(ct.KernelVersion{Major: 6, Minor: 18})
	c := New(Options{Timeouts: &timeouts})
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		c.Add(&flows[i])
		if i++; i == len(flows) {
			i = 0
		}
	}
}

func BenchmarkAddMixed(b *testing.B) {
	var flows []ct.Flow
	stream(1<<15, 3, func(f *ct.Flow) { flows = append(flows, *f) })
	benchmarkAdd(b, flows)
}

func BenchmarkAddForged(b *testing.B) {
	var flows []ct.Flow
	rng := rand.New(rand.NewPCG(5, 5))
	stream(1<<15, 3, func(f *ct.Flow) {
		a := rng.Uint32()
		f.Orig.Src = netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
		f.Orig.Dst = netip.AddrFrom4([4]byte{192, 0, 2, 1})
		f.Reply, _ = f.Orig.Invert()
		flows = append(flows, *f)
	})
	benchmarkAdd(b, flows)
}
