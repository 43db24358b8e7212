package simulate

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/workload"
)

// leastShare is the part of a protocol's entries that gives a port a class of
// its own.
const leastShare = 0.05

// Fit writes a workload whose arrivals and lifetimes are those of a live
// table: rates from the births between two readings, lifetimes by Little's
// law. The notes say what could not be told from a table.
func Fit(s *ct.Snapshot, length time.Duration) (*workload.Spec, []string, error) {
	if s.Census == nil || s.Rates == nil || !s.Rates.Panel {
		return nil, nil, fmt.Errorf("%w: two readings of its entries are needed", ErrNoTable)
	}
	f := &fitter{s: s, births: make(map[ct.Proto]float64), silent: make(map[ct.Proto]float64)}
	for _, b := range s.Rates.BirthsByClass {
		f.births[b.Proto] += b.PerSecond
		if !b.Replied {
			f.silent[b.Proto] += b.PerSecond
		}
	}
	spec := &workload.Spec{Version: workload.Version, Seed: 1, Duration: workload.Duration(length),
		Title: fmt.Sprintf("fitted to %s, %s", s.Host, s.Time.UTC().Format(time.RFC3339))}
	fitted := []ct.Proto{ct.TCP, ct.UDP, ct.ICMP}
	for _, p := range fitted {
		spec.Classes = append(spec.Classes, f.classes(p)...)
	}
	if len(spec.Classes) == 0 {
		return nil, nil, fmt.Errorf("%w: no entry was born while it was watched; watch longer", ErrNoTable)
	}
	notes := []string{
		"Addresses are stand-ins: as many sources as the table shows, from 10.0.0.0/8.",
		"Connections that came and went between the readings are not in it: their rate is a lower bound.",
		"How connections pause within their life cannot be told from a table; they exchange something every ten seconds.",
	}
	for _, p := range slices.Sorted(maps.Keys(f.births)) {
		if !slices.Contains(fitted, p) && f.births[p] > 0 {
			notes = append(notes, fmt.Sprintf("%s is left out: %.1f new entries a second.", p, f.births[p]))
		}
	}
	return spec, notes, spec.Validate()
}

// ErrNoTable says that a snapshot does not tell enough of the table.
var ErrNoTable = fmt.Errorf("cannot fit a workload to this reading of the table")

type fitter struct {
	s      *ct.Snapshot
	births map[ct.Proto]float64 // a second
	silent map[ct.Proto]float64 // those of them that nobody answered
}

// scaled is the number of entries in the table for which keep holds.
func (f *fitter) scaled(keep func(ct.ClassKey) bool) float64 {
	c := f.s.Census
	all := float64(f.s.Limits.Count.Or(int64(c.Entries)))
	return c.Share(c.Sum(keep)) * all
}

func (f *fitter) classes(p ct.Proto) []workload.Class {
	births := f.births[p]
	entries := f.scaled(func(k ct.ClassKey) bool { return k.Proto == p })
	if births <= 0 || entries < 1 {
		return nil
	}
	total := 0.0
	type portShare struct {
		port  uint16
		share float64
	}
	var ports []portShare
	protoEntries := float64(f.s.Census.Sum(func(k ct.ClassKey) bool { return k.Proto == p }))
	for _, h := range f.s.Census.Ports {
		if share := float64(h.Entries-min(h.Error, h.Entries)) / protoEntries; h.Proto == p && share >= leastShare {
			ports = append(ports, portShare{h.Port, min(share, 1-total)})
			total += min(share, 1-total)
		}
	}
	slices.SortFunc(ports, func(a, b portShare) int { return cmp.Compare(b.share, a.share) })
	var out []workload.Class
	for _, ps := range ports {
		out = append(out, f.class(p, fmt.Sprintf("%s-%d", p, ps.port), workload.Ports{First: ps.port, Last: ps.port}, ps.share))
	}
	if rest := 1 - total; rest > 0.01 {
		out = append(out, f.class(p, fmt.Sprintf("%s-other", p), workload.Ports{First: 1024, Last: 65535}, rest))
	}
	return out
}

func (f *fitter) class(p ct.Proto, name string, ports workload.Ports, share float64) workload.Class {
	births := f.births[p]
	c := workload.Class{
		Name: name, Ports: ports,
		Arrivals:     workload.Arrivals{Rate: workload.Rate(round(births * share)), Initial: int(share * f.lasting(p))},
		Sources:      netip.MustParsePrefix("10.0.0.0/8"),
		SourceCount:  uint32(min(max(f.s.Census.DistinctSources, 1), 1<<24)),
		Destinations: destinations(f.s.Census.DistinctDestinations),
		RoundTrip:    workload.Duration(20 * time.Millisecond),
	}
	all := f.scaled(func(k ct.ClassKey) bool { return k.Proto == p })
	silent := f.scaled(func(k ct.ClassKey) bool { return k.Proto == p && !k.Replied })
	answered := births - f.silent[p]
	c.Unanswered = round(f.silent[p] / births)
	switch p {
	case ct.TCP:
		c.Kind, c.End = workload.KindTCP, workload.EndFIN
		life := perBirth(f.lasting(p), answered)
		c.Lifetime = workload.Distribution{Shape: workload.Exponential, Mean: workload.Duration(life.Round(time.Millisecond))}
		c.Pause = workload.Distribution{Mean: workload.Duration(10 * time.Second)}
	case ct.UDP:
		c.Kind = workload.KindUDP
		kept, _ := f.s.Timeouts.Get(ct.TimeoutUDP)
		life := perBirth(all-silent, answered) - time.Duration(kept)*time.Second
		if life > time.Second {
			c.Lifetime = workload.Distribution{Shape: workload.Exponential, Mean: workload.Duration(life.Round(time.Millisecond))}
			c.Pause = workload.Distribution{Mean: workload.Duration(5 * time.Second)}
		}
	default:
		c.Kind, c.Ports = workload.KindPing, workload.Ports{}
		c.Arrivals.Initial = 0
	}
	return c
}

// perBirth is how long entries live, by Little's law: of so many with so many
// births a second.
func perBirth(entries, births float64) time.Duration {
	if births <= 0 {
		return 0
	}
	return time.Duration(min(entries/births, 30*24*3600) * float64(time.Second))
}

// destinations is a prefix of about as many addresses: one address has no more
// than 64,512 flows of one source to one port.
func destinations(n uint64) netip.Prefix {
	if n <= 1 {
		return netip.MustParsePrefix("192.0.2.1/32")
	}
	return netip.PrefixFrom(netip.MustParseAddr("100.64.0.0"), 32-min(bits.Len64(n-1), 22))
}

// lasting are the connections that are open now.
func (f *fitter) lasting(p ct.Proto) float64 {
	return f.scaled(func(k ct.ClassKey) bool {
		return k.Proto == p && k.Assured && (p != ct.TCP || k.State == ct.TCPEstablished)
	})
}

func round(x float64) float64 { return math.Round(x*1000) / 1000 }
