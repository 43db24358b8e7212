package census

import (
	"math"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

// kind is one way to group entries.
type kind struct {
	counts *heavy
	of     func(*record) key // the group of a record
	peer   func(*record) key // who stands on the other side
	name   func(*ct.Heavy, key)
	into   *[]ct.Heavy
	ports  bool // groups of ports, where the port itself tells nothing
}

func source(r *record) key         { return r.src }
func destination(r *record) key    { return r.dst }
func sourceNet(r *record) key      { return r.src.network() }
func destinationNet(r *record) key { return r.dst.network() }

// port groups by protocol and destination port. Entries without ports make a
// group of key{}, that no port has.
func port(r *record) key {
	if !r.proto.HasPorts() {
		return key{}
	}
	return portKey(r.proto, r.port)
}

func asAddr(h *ct.Heavy, k key) {
	a := k.addr()
	h.Prefix = netip.PrefixFrom(a, a.BitLen())
}

func asNet(h *ct.Heavy, k key) {
	bits := 64
	if k.is4() {
		bits = 24
	}
	h.Prefix = netip.PrefixFrom(k.addr(), bits)
}

func asPort(h *ct.Heavy, k key) { h.Proto, h.Port = ct.Proto(k.lo>>16), uint16(k.lo) }

// heavyHitters fills in the heavy hitters of every kind.
func (c *Census) heavyHitters(r *ct.Census) {
	for _, k := range []kind{
		{&c.sources, source, destination, asAddr, &r.Sources, false},
		{&c.destinations, destination, source, asAddr, &r.Destinations, false},
		{&c.ports, port, source, asPort, &r.Ports, true},
		{&c.sourceNets, sourceNet, destination, asNet, &r.SourcePrefixes, false},
		{&c.destinationNets, destinationNet, source, asNet, &r.DestinationPrefixes, false},
	} {
		if c.opts.SourcesOnly && k.into != &r.Sources {
			continue
		}
		*k.into = c.describe(k)
		if c.entries > 0 && !c.sample.complete() {
			r.HeavyError = max(r.HeavyError, float64(k.counts.taken)/float64(c.entries))
		}
	}
}

// makeup is how the sampled entries of one group are made up.
type makeup struct {
	n, replied, assured, halfOpen uint64

	ports map[key]uint64
	peers map[key]struct{}
}

func (c *Census) describe(k kind) []ct.Heavy {
	top := k.counts.top(c.opts.Top)
	groups := make(map[key]*makeup, len(top))
	all := make([]makeup, len(top))
	for i, s := range top {
		m := &all[i]
		if !c.opts.SourcesOnly {
			m.ports, m.peers = make(map[key]uint64), make(map[key]struct{})
		}
		groups[s.key] = m
	}
	for i := range c.sample.records {
		r := &c.sample.records[i]
		if m := groups[k.of(r)]; m != nil {
			m.add(r, k.peer(r))
		}
	}
	list := make([]ct.Heavy, len(top))
	for i, s := range top {
		h, m := &list[i], groups[s.key]
		k.name(h, s.key)
		h.Entries, h.Error = s.n, min(k.counts.taken, s.n)
		if c.sample.complete() {
			h.Entries, h.Error = m.n, 0
		}
		m.tell(h, k.ports)
	}
	return list
}

func (m *makeup) add(r *record, peer key) {
	m.n++
	if r.flags&isReplied != 0 {
		m.replied++
	}
	if r.flags&isAssured != 0 {
		m.assured++
	}
	if r.flags&isHalfOpen != 0 {
		m.halfOpen++
	}
	if m.peers == nil {
		return
	}
	if r.proto.HasPorts() {
		m.ports[portKey(r.proto, r.port)]++
	}
	m.peers[peer] = struct{}{}
}

// mainShare is the least share of a port that is worth a word.
const mainShare = 0.1

// tell scales the sample up to the group's entries.
func (m *makeup) tell(h *ct.Heavy, ports bool) {
	if m.n == 0 {
		return
	}
	scale := func(n uint64) uint64 {
		return uint64(math.Round(float64(n) / float64(m.n) * float64(h.Entries)))
	}
	h.Replied, h.Assured, h.HalfOpen = scale(m.replied), scale(m.assured), scale(m.halfOpen)
	h.Unreplied = h.Entries - h.Replied
	if m.peers == nil {
		return
	}
	h.DistinctPeers = population(uint64(len(m.peers)), m.n, h.Entries)
	if ports {
		return
	}
	h.DistinctPorts = population(uint64(len(m.ports)), m.n, h.Entries)
	var best key
	var most uint64
	for k, n := range m.ports {
		if n > most || n == most && k.lo < best.lo {
			best, most = k, n
		}
	}
	if share := float64(most) / float64(m.n); share >= mainShare {
		asMain(h, best, share)
	}
}

func asMain(h *ct.Heavy, k key, share float64) {
	h.MainProto, h.MainPort, h.MainPortShare = ct.Proto(k.lo>>16), uint16(k.lo), share
}

// population estimates how many different values stand behind all entries if n
// of them, chosen at random, showed d: the number for which d is what to
// expect, were all values equally frequent. It is exact if n is all, and never
// above all.
func population(d, n, all uint64) uint64 {
	if n >= all || d == 0 {
		return d
	}
	if d >= n {
		return all
	}
	seen := func(total float64) float64 { return total * -math.Expm1(float64(n)*math.Log1p(-1/total)) }
	lo, hi := float64(d), float64(all)
	if seen(hi) <= float64(d) {
		return all
	}
	for range 60 {
		if mid := (lo + hi) / 2; seen(mid) < float64(d) {
			lo = mid
		} else {
			hi = mid
		}
	}
	return uint64(math.Round(hi))
}
