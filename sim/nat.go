package sim

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

// NATKind is what a NAT rule does.
type NATKind uint8

// Kinds of NAT rules. Masquerade is source NAT to the address of the outgoing
// interface, redirect destination NAT to the host itself: both addresses are
// given in the rule.
const (
	SNAT NATKind = iota
	Masquerade
	DNAT
	Redirect
)

// PortRange is a range of ports, both ends included. The zero value is none.
type PortRange struct{ Min, Max uint16 }

// NATRule translates new flows that match it.
type NATRule struct {
	Kind NATKind
	// Match: a zero prefix, protocol or range matches all. Source rules see
	// the destination after destination NAT.
	Src, Dst netip.Prefix
	Proto    ct.Proto
	DstPorts PortRange
	// To is the range of new addresses; ToMax may be left out. Both may be
	// left out where only ports change.
	To, ToMax netip.Addr
	// Ports, if set, is the range for the translated port.
	Ports PortRange
	// Random picks the port at random even where the old one is free: the
	// flags random and fully-random.
	Random bool
	// Persistent gives a client the same address for all destinations.
	Persistent bool
}

func (r *NATRule) validate() error {
	switch {
	case r.Kind > Redirect:
		return fmt.Errorf("unknown kind %d", r.Kind)
	case r.Ports.Max < r.Ports.Min || r.DstPorts.Max < r.DstPorts.Min:
		return errors.New("port range ends before it begins")
	case r.ToMax.IsValid() && (!r.To.IsValid() || r.To.Is4() != r.ToMax.Is4() || r.ToMax.Less(r.To)):
		return fmt.Errorf("address range %v-%v is none", r.To, r.ToMax)
	case !r.To.IsValid() && r.Ports == PortRange{}:
		return errors.New("neither address nor port to translate to")
	}
	return nil
}

func (r *NATRule) source() bool { return r.Kind == SNAT || r.Kind == Masquerade }

func (r *NATRule) matches(k *key) bool {
	if r.Proto != 0 && r.Proto != k.proto() || r.To.IsValid() && r.To.Is4() == k.v6() {
		return false
	}
	if r.Src.IsValid() && !r.Src.Contains(k.src.unpack(k.v6())) {
		return false
	}
	if r.Dst.IsValid() && !r.Dst.Contains(k.dst.unpack(k.v6())) {
		return false
	}
	dport := uint16(k.ports)
	return r.DstPorts == PortRange{} || dport >= r.DstPorts.Min && dport <= r.DstPorts.Max
}

// natRange is struct nf_nat_range2: what a translation may choose from.
type natRange struct {
	mapIPs, mapPorts bool
	min, max         addr
	ports            PortRange
	random           bool
	persistent       bool
}

func (r *NATRule) bounds() natRange {
	n := natRange{ports: r.Ports, mapPorts: r.Ports != PortRange{}, random: r.Random, persistent: r.Persistent}
	if r.To.IsValid() {
		n.mapIPs = true
		n.min = packAddr(r.To)
		n.max = n.min
		if r.ToMax.IsValid() {
			n.max = packAddr(r.ToMax)
		}
	}
	return n
}

func (a addr) less(b addr) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

// natState holds the rules, and the mappings in use by original source, so that
// a source keeps its translated port towards other destinations
// (nf_nat_bysource).
type natState struct {
	on    bool
	rules []NATRule
	heads []int32 // entry numbers
	// choose, set by tests, says which port the kernel chose.
	choose func(orig ct.Tuple, source bool) (port uint16, ok bool)
}

func (n *natState) init(rules []NATRule, buckets int) {
	if rules == nil {
		return
	}
	n.on = true
	n.rules = append([]NATRule(nil), rules...)
	n.heads = make([]int32, buckets)
}

// bySource finds the chain of a source.
func (n *natState) bySource(t *Table, k *key) *int32 {
	s := key{src: k.src, ports: k.ports & 0xffff0000, meta: k.meta}
	return &n.heads[uint64(t.hash(&s))*uint64(len(n.heads))>>32]
}

func (n *natState) remember(t *Table, i int32) {
	e := &t.entries[i]
	if !n.on || !e.has(ct.StatusSrcNAT) {
		return
	}
	s := &t.sides[e.side()]
	head := n.bySource(t, &s.keys[orig])
	s.srcNext = *head
	*head = i
}

func (n *natState) forget(t *Table, i int32) {
	e := &t.entries[i]
	if !n.on || !e.has(ct.StatusSrcNAT) {
		return
	}
	s := &t.sides[e.side()]
	for p := n.bySource(t, &s.keys[orig]); *p != 0; p = &t.sides[t.entries[*p].side()].srcNext {
		if *p == i {
			*p = s.srcNext
			return
		}
	}
}

func (t *Table) natDestination(f *Flight) {
	r := t.key(&t.entries[f.entry], reply)
	cur, _ := r.invert()
	for i := range t.nat.rules {
		if rule := &t.nat.rules[i]; !rule.source() && rule.matches(&cur) {
			t.natSetup(f.entry, rule.bounds(), false)
			return
		}
	}
	t.natSetup(f.entry, natRange{mapIPs: true, min: r.src, max: r.src}, false)
}

func (t *Table) natSource(f *Flight) {
	r := t.key(&t.entries[f.entry], reply)
	cur, _ := r.invert()
	for i := range t.nat.rules {
		if rule := &t.nat.rules[i]; rule.source() && rule.matches(&cur) {
			t.natSetup(f.entry, rule.bounds(), true)
			return
		}
	}
	t.natSetup(f.entry, natRange{mapIPs: true, min: r.dst, max: r.dst}, true)
}

// natSetup translates one end of an unconfirmed flow (nf_nat_setup_info).
func (t *Table) natSetup(i int32, r natRange, source bool) {
	e := &t.entries[i]
	o, back := t.key(e, orig), t.key(e, reply)
	cur, _ := back.invert()
	to := t.natUnique(i, cur, &r, source)
	done, bit := ct.StatusDstNATDone, ct.StatusDstNAT
	if source {
		done, bit = ct.StatusSrcNATDone, ct.StatusSrcNAT
	}
	if to != cur {
		back, _ = to.invert()
		t.setKeys(i, &o, &back)
		e.set(bit)
	}
	e.set(done)
}

// natUnique chooses the translated tuple (get_unique_tuple): as it is, if that
// is allowed and free; as the source is mapped already; or with another address
// and, if need be, another port.
func (t *Table) natUnique(i int32, cur key, r *natRange, source bool) key {
	if source && !r.random {
		if r.holds(&cur, source) {
			if !t.natUsedPlain(i, &cur) {
				return cur
			}
		} else if k, ok := t.natMapping(i, &cur, r); ok && !t.natUsed(i, &k) {
			return k
		}
	}
	k := cur
	r.pickAddr(&k, source, t.natZone(i))
	switch {
	case r.random:
	case r.mapPorts:
		if r.holdsPort(&k, source) && (r.ports.Min == r.ports.Max || !t.natUsed(i, &k)) {
			return k
		}
	case !t.natUsed(i, &k):
		return k
	}
	t.natPort(i, &k, r, source)
	return k
}

func (r *natRange) holds(k *key, source bool) bool {
	if r.mapIPs && (k.src.less(r.min) || r.max.less(k.src)) {
		return false
	}
	return !r.mapPorts || r.holdsPort(k, source)
}

func (r *natRange) holdsPort(k *key, source bool) bool {
	if !natHasPort(k.proto()) {
		return true
	}
	port := uint16(k.ports)
	if source || k.proto().IsICMP() {
		port = uint16(k.ports >> 16)
	}
	return port >= r.ports.Min && port <= r.ports.Max
}

func natHasPort(p ct.Proto) bool {
	return p.IsICMP() || p.HasPorts() && p != ct.DCCP || p == ct.GRE
}

// pickAddr chooses the address: from a range, by a hash that spreads clients
// and keeps each at its address (find_best_ips_proto).
func (r *natRange) pickAddr(k *key, source bool, zone uint16) {
	if !r.mapIPs {
		return
	}
	at := &k.dst
	if source {
		at = &k.src
	}
	if r.min == r.max {
		*at = r.min
		return
	}
	words := 1
	if k.v6() {
		words = 4
	}
	src, dst := natWords(k.src, k.v6()), natWords(k.dst, k.v6())
	lo, hi := natWords(r.min, k.v6()), natWords(r.max, k.v6())
	var out [4]uint32
	seed := bits.ReverseBytes32(dst[words-1]) ^ uint32(zone)
	if r.persistent {
		seed = 0
	}
	j := jhash4(src, seed)
	full := false
	for i := range words {
		first, span := uint32(0), ^uint32(0)
		if !full {
			first, span = lo[i], hi[i]-lo[i]+1
		}
		out[i] = first + uint32(uint64(j)*uint64(span)>>32)
		full = full || out[i] != hi[i]
		if !r.persistent {
			j ^= bits.ReverseBytes32(dst[i])
		}
	}
	if k.v6() {
		*at = addr{uint64(out[0])<<32 | uint64(out[1]), uint64(out[2])<<32 | uint64(out[3])}
	} else {
		*at = addr{lo: uint64(out[0])}
	}
}

// natWords splits an address into 32-bit words, first word first.
func natWords(a addr, v6 bool) [4]uint32 {
	if !v6 {
		return [4]uint32{uint32(a.lo)}
	}
	return [4]uint32{uint32(a.hi >> 32), uint32(a.hi), uint32(a.lo >> 32), uint32(a.lo)}
}

// jhash4 is the kernel's jhash2 (Jenkins' lookup3) over an address as it lies
// in the memory of a little-endian machine.
func jhash4(w [4]uint32, seed uint32) uint32 {
	init := 0xdeadbeef + uint32(len(w))<<2 + seed
	a, b, c := init, init, init
	a += bits.ReverseBytes32(w[0])
	b += bits.ReverseBytes32(w[1])
	c += bits.ReverseBytes32(w[2])
	rot := bits.RotateLeft32
	a -= c
	a ^= rot(c, 4)
	c += b
	b -= a
	b ^= rot(a, 6)
	a += c
	c -= b
	c ^= rot(b, 8)
	b += a
	a -= c
	a ^= rot(c, 16)
	c += b
	b -= a
	b ^= rot(a, 19)
	a += c
	c -= b
	c ^= rot(b, 4)
	b += a

	a += bits.ReverseBytes32(w[3])
	c ^= b
	c -= rot(b, 14)
	a ^= c
	a -= rot(c, 11)
	b ^= a
	b -= rot(a, 25)
	c ^= b
	c -= rot(b, 16)
	a ^= c
	a -= rot(c, 4)
	b ^= a
	b -= rot(a, 14)
	c ^= b
	c -= rot(b, 24)
	return c
}

const (
	natMaxAttempts  = 128
	natHardAttempts = natMaxAttempts / 4 // the last ones may evict closing flows
)

// natPort looks for a free port or identifier, from a random start
// (nf_nat_l4proto_unique_tuple).
func (t *Table) natPort(i int32, k *key, r *natRange, source bool) {
	first, size, ok := r.portSpan(k, source)
	if !ok {
		return
	}
	shift := 0
	if source || k.proto().IsICMP() {
		shift = 16
	}
	off := uint32(0)
	if source || r.random || t.rules.natSeeksAnywhere {
		off = t.natDraw(i, first, source)
	}
	attempts := min(size, natMaxAttempts)
	for {
		for n := range attempts {
			port := first + off%size
			k.ports = k.ports&^(0xffff<<shift) | port<<shift
			if !t.natUsedHarder(i, k, attempts-n) {
				return
			}
			off = uint32(uint16(off + 1))
		}
		if attempts >= size || attempts < 16 {
			return
		}
		attempts /= 2
		off = t.natDraw(i, first, source)
	}
}

// natDraw draws where in a range to begin.
func (t *Table) natDraw(i int32, first uint32, source bool) uint32 {
	if t.nat.choose != nil {
		o := t.key(&t.entries[i], orig)
		if port, ok := t.nat.choose(o.unpack(), source); ok {
			return uint32(port) - first
		}
	}
	return t.uniform(1 << 16)
}

// portSpan is the range from which a port may come: the rule's, or the
// conventional one that the old port lies in.
func (r *natRange) portSpan(k *key, source bool) (first, size uint32, ok bool) {
	p := k.proto()
	switch {
	case !natHasPort(p) || p == ct.GRE:
		return 0, 0, false
	case r.mapPorts:
		return uint32(r.ports.Min), uint32(r.ports.Max) - uint32(r.ports.Min) + 1, true
	case p.IsICMP():
		return 0, 1 << 16, true
	case !source:
		return 0, 0, false
	}
	switch port := k.ports >> 16; {
	case port < 512:
		return 1, 511, true
	case port < 1024:
		return 600, 424, true
	}
	return 1024, 1<<16 - 1024, true
}

// natZone is the zone of an entry, be it for one direction only.
func (t *Table) natZone(i int32) uint16 {
	e := &t.entries[i]
	o, back := t.key(e, orig), t.key(e, reply)
	if z := o.zone(); z != 0 {
		return z
	}
	return back.zone()
}

// natMapping finds how the source of an entry is translated already, towards
// any destination (find_appropriate_src). The zone is that of the original
// direction.
func (t *Table) natMapping(i int32, cur *key, r *natRange) (k key, ok bool) {
	own := t.key(&t.entries[i], orig)
	from := cur.withZone(own.zone())
	for i := *t.nat.bySource(t, &from); i != 0; {
		s := &t.sides[t.entries[i].side()]
		o := &s.keys[orig]
		if o.src == from.src && o.ports>>16 == from.ports>>16 && o.meta == from.meta {
			k, _ = s.keys[reply].invert()
			k.meta = cur.meta
			k.dst, k.ports = cur.dst, k.ports&0xffff0000|cur.ports&0xffff
			if r.holds(&k, true) {
				return k, true
			}
		}
		i = s.srcNext
	}
	return k, false
}

// natUsed reports whether the answers of a tuple already belong to another flow
// (nf_conntrack_tuple_taken). A flow with the same original tuple does not
// count: confirmation deals with it.
func (t *Table) natUsed(i int32, k *key) bool {
	r, _ := k.invert()
	own := t.key(&t.entries[i], orig)
	for l := t.heads[t.bucket(t.hash(&r))]; l != 0; {
		e := &t.entries[l>>1]
		if e.expired(t.jiffies) {
			l = t.reap(l)
			continue
		}
		if t.same(l, &r) && t.key(e, orig) != own {
			t.counters.Found++
			return true
		}
		l = e.next[l&1]
	}
	return false
}

// natUsedPlain is natUsed for a tuple that would stay as it is
// (nf_nat_used_tuple_new): two hosts that speak to each other at the same
// instant are one flow, which confirmation merges.
func (t *Table) natUsedPlain(i int32, k *key) bool {
	if !t.natUsed(i, k) {
		return false
	}
	e := &t.entries[i]
	if !t.rules.clashReverse || !t.allowsClash(k.proto()) || e.has(ct.StatusNAT) {
		return true
	}
	r, _ := k.invert()
	l := t.find(k, t.hash(k), bothWays)
	if l == 0 {
		if l = t.find(&r, t.hash(&r), bothWays); l == 0 {
			return false
		}
	}
	other := &t.entries[l>>1]
	if l&1 == orig || other.has(ct.StatusNAT) {
		return true
	}
	return t.key(other, orig) != t.key(e, reply) || t.key(other, reply) != t.key(e, orig)
}

// natUsedHarder is natUsed for the last attempts at a port for a TCP flow: a
// translated flow in TIME_WAIT or CLOSE with lower sequence numbers gives way
// (nf_nat_used_tuple_harder).
func (t *Table) natUsedHarder(i int32, k *key, left uint32) bool {
	e := &t.entries[i]
	if !t.rules.natEvictsClosing || left > natHardAttempts || k.proto() != ct.TCP || e.state != ss {
		return t.natUsed(i, k)
	}
	r, _ := k.invert()
	l := t.find(&r, t.hash(&r), bothWays)
	if l == 0 {
		return false
	}
	old := &t.entries[l>>1]
	if l&1 == orig || old.state < tw || !old.has(ct.StatusSrcNAT) || old.has(ct.StatusFixedTimeout) ||
		!after(t.tracks[i].seen[orig].end, t.tracks[l>>1].seen[orig].end) {
		return true
	}
	t.destroy(l>>1, CauseNATReuse)
	return false
}
