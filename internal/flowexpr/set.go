package flowexpr

import (
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/ctwarden/ctwarden/ct"
)

// in compiles membership: in a prefix, a range, a list, or a set field.
func (c *compiler) in(n *ast.BinaryNode) (predicate, error) {
	l, err := c.operand(n.Left)
	if err != nil {
		return nil, err
	}
	if id, ok := n.Right.(*ast.IdentifierNode); ok {
		return c.inField(n, l, id)
	}
	if l.literal {
		return nil, c.q.fault(n.Left, "the left side of in must be a field here")
	}
	var s set
	if err := c.addMember(&s, l, n.Right, true); err != nil {
		return nil, err
	}
	return s.match(l), nil
}

// inField compiles "ASSURED" in status and 3 in labels.
func (c *compiler) inField(n *ast.BinaryNode, l *operand, id *ast.IdentifierNode) (predicate, error) {
	f, err := c.field(id)
	if err != nil {
		return nil, err
	}
	switch {
	case f.kind == kindStatus && l.isText():
		b, ok := ct.ParseStatus(l.text)
		if !ok {
			return nil, c.q.fault(n.Left, "unknown status bit %q", l.text)
		}
		return statusHas(b), nil
	case f.kind == kindLabels && l.literal && l.kind == kindNumber:
		if l.n < 0 || l.n > 127 {
			return nil, c.q.fault(n.Left, "a label is 0 to 127")
		}
		return hasLabel(int(l.n)), nil
	}
	return nil, c.q.fault(n, "cannot look for this in %s, a %s", f.Name, f.Type())
}

func statusHas(b ct.Status) predicate {
	return func(f *ct.Flow, _ *Context) ct.Tri { return ct.TriOf(f.Status&b == b) }
}

func hasLabel(bit int) predicate {
	at, mask := bit/8, byte(1)<<(bit%8)
	return func(f *ct.Flow, _ *Context) ct.Tri { return ct.TriOf(f.Labels[at]&mask != 0) }
}

// set gathers the members of an "in" of one kind.
type set struct {
	prefixes  []netip.Prefix
	addrs     map[netip.Addr]struct{}
	intervals [][2]int64
	texts     []string
	protos    [4]uint64
	states    stateSet
	families  [2]bool // IPv4, IPv6
}

// stateSet holds, for each protocol with states, a bit a state.
type stateSet struct{ tcp, sctp, dccp uint16 }

func (s stateSet) of(p ct.Proto) uint16 {
	switch p {
	case ct.TCP:
		return s.tcp
	case ct.SCTP:
		return s.sctp
	}
	return s.dccp
}

// parseStates finds every state of that name.
func parseStates(name string) (s stateSet, ok bool) {
	name = strings.ToUpper(name)
	for p, bits := range map[ct.Proto]*uint16{ct.TCP: &s.tcp, ct.SCTP: &s.sctp, ct.DCCP: &s.dccp} {
		if st, found := ct.ParseState(p, name); found {
			*bits |= 1 << st
			ok = true
		}
	}
	return s, ok
}

func (s *stateSet) add(o stateSet) { s.tcp |= o.tcp; s.sctp |= o.sctp; s.dccp |= o.dccp }

func (c *compiler) addMember(s *set, l *operand, n ast.Node, outer bool) error {
	switch n := n.(type) {
	case *ast.ArrayNode:
		if !outer {
			return c.q.fault(n, "a list in a list")
		}
		if len(n.Nodes) == 0 {
			return c.q.fault(n, "the list is empty")
		}
		for _, e := range n.Nodes {
			if err := c.addMember(s, l, e, false); err != nil {
				return err
			}
		}
		return nil
	case *ast.BinaryNode:
		if n.Operator == ".." {
			return c.addRange(s, l, n)
		}
	}
	r, err := c.operand(n)
	if err != nil {
		return err
	}
	if !r.literal {
		return c.q.fault(n, "members of a list are fixed values")
	}
	if r.isText() {
		return c.addText(s, l, r)
	}
	return c.addNumber(s, l, r.node, r.n, r.n)
}

func (c *compiler) addRange(s *set, l *operand, n *ast.BinaryNode) error {
	lo, err := c.operand(n.Left)
	if err != nil {
		return err
	}
	hi, err := c.operand(n.Right)
	if err != nil {
		return err
	}
	for _, o := range []*operand{lo, hi} {
		if o.isText() {
			if err := c.asNumber(l, o); err != nil {
				return err
			}
		}
		if !o.literal {
			return c.q.fault(n, "the ends of a range are fixed values")
		}
		if l.kind == kindDuration && o.kind != kindDuration {
			return c.q.fault(n, "durations carry a unit, as 90s or 1h")
		}
	}
	if lo.n > hi.n {
		return c.q.fault(n, "the range is empty: its end is below its beginning")
	}
	return c.addNumber(s, l, n, lo.n, hi.n)
}

func (c *compiler) addNumber(s *set, l *operand, n ast.Node, lo, hi int64) error {
	switch l.kind {
	case kindNumber, kindDuration:
		if _, single := n.(*ast.IntegerNode); single && l.kind == kindDuration {
			return c.q.fault(n, "durations carry a unit, as 90s or 1h")
		}
		s.intervals = append(s.intervals, [2]int64{lo, hi})
		return nil
	case kindProto:
		if lo < 0 || hi > 255 {
			return c.q.fault(n, "a protocol number is 0 to 255")
		}
		for p := lo; p <= hi; p++ {
			s.protos[p/64] |= 1 << (p % 64)
		}
		return nil
	}
	return c.q.fault(n, "a number stands where a %s is needed", l.kind)
}

func (c *compiler) addText(s *set, l, r *operand) error {
	switch l.kind {
	case kindNumber, kindDuration:
		if err := c.asNumber(l, r); err != nil {
			return err
		}
		s.intervals = append(s.intervals, [2]int64{r.n, r.n})
	case kindText:
		s.texts = append(s.texts, r.text)
	case kindAddr:
		p, err := ParsePrefix(r.text)
		if err != nil {
			return c.q.fault(r.node, "%v", err)
		}
		s.addPrefix(p)
	case kindProto:
		p, ok := ct.ParseProto(strings.ToLower(r.text))
		if !ok {
			return c.q.fault(r.node, "unknown protocol %q", r.text)
		}
		s.protos[p/64] |= 1 << (p % 64)
	case kindState:
		st, ok := parseStates(r.text)
		if !ok {
			return c.q.fault(r.node, "unknown state %q", r.text)
		}
		s.states.add(st)
	case kindFamily:
		switch r.text {
		case "ipv4":
			s.families[0] = true
		case "ipv6":
			s.families[1] = true
		default:
			return c.q.fault(r.node, `the family is "ipv4" or "ipv6"`)
		}
	default:
		return c.q.fault(r.node, "%s cannot stand before in with this", l.field.Name)
	}
	return nil
}

// ParsePrefix reads an address or a prefix; bits beyond the mask are cleared.
func ParsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, &badText{s, "prefix, as 10.0.0.0/8 or 2001:db8::/32"}
		}
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, &badText{s, "address or prefix"}
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

type badText struct{ text, want string }

func (e *badText) Error() string { return strconv.Quote(e.text) + " is no " + e.want }

// fewAddrs is how many single addresses are compared one by one; more go into
// a map.
const fewAddrs = 8

func (s *set) addPrefix(p netip.Prefix) {
	if !p.IsSingleIP() {
		s.prefixes = append(s.prefixes, p)
		return
	}
	if s.addrs == nil {
		s.addrs = make(map[netip.Addr]struct{})
	}
	s.addrs[p.Addr()] = struct{}{}
}

// match compiles membership of a field in the set.
func (s *set) match(l *operand) predicate {
	switch l.kind {
	case kindNumber, kindDuration:
		return matchIntervals(l.num, s.intervals)
	case kindAddr:
		return s.matchAddr(l.field.addr)
	case kindProto:
		return s.matchProto()
	case kindState:
		return matchStates(s.states)
	case kindFamily:
		v4, v6 := ct.TriOf(s.families[0]), ct.TriOf(s.families[1])
		return func(f *ct.Flow, _ *Context) ct.Tri {
			if f.Orig.Is4() {
				return v4
			}
			return v6
		}
	}
	get, texts := l.field.text, s.texts
	return func(f *ct.Flow, _ *Context) ct.Tri {
		t, ok := get(f)
		if !ok {
			return ct.Unknown
		}
		return ct.TriOf(slices.Contains(texts, t))
	}
}

func matchStates(s stateSet) predicate {
	return func(f *ct.Flow, _ *Context) ct.Tri {
		if !f.Has(ct.HasProtoInfo) || !f.Orig.Proto.HasState() {
			return ct.Unknown
		}
		return ct.TriOf(s.of(f.Orig.Proto)&(1<<f.State) != 0)
	}
}

func protoIs(p ct.Proto) predicate {
	return func(f *ct.Flow, _ *Context) ct.Tri { return ct.TriOf(f.Orig.Proto == p) }
}

func (s *set) matchProto() predicate {
	one, n := ct.Proto(0), 0
	for p := range 256 {
		if s.protos[p/64]&(1<<(p%64)) != 0 {
			one, n = ct.Proto(p), n+1
		}
	}
	if n == 1 {
		return protoIs(one)
	}
	protos := s.protos
	return func(f *ct.Flow, _ *Context) ct.Tri {
		p := f.Orig.Proto
		return ct.TriOf(protos[p/64]&(1<<(p%64)) != 0)
	}
}

// matchIntervals looks an interval up by bisection: they are sorted and joined
// first.
func matchIntervals(get numFunc, iv [][2]int64) predicate {
	slices.SortFunc(iv, func(a, b [2]int64) int {
		switch {
		case a[0] < b[0]:
			return -1
		case a[0] > b[0]:
			return 1
		}
		return 0
	})
	joined := iv[:1]
	for _, i := range iv[1:] {
		last := &joined[len(joined)-1]
		if last[1] == math.MaxInt64 || i[0] <= last[1]+1 {
			last[1] = max(last[1], i[1])
		} else {
			joined = append(joined, i)
		}
	}
	if len(joined) == 1 {
		return within(get, joined[0][0], joined[0][1])
	}
	return func(f *ct.Flow, c *Context) ct.Tri {
		v, ok := get(f, c)
		if !ok {
			return ct.Unknown
		}
		lo, hi := 0, len(joined)
		for lo < hi {
			if m := (lo + hi) / 2; joined[m][1] < v {
				lo = m + 1
			} else {
				hi = m
			}
		}
		return ct.TriOf(lo < len(joined) && joined[lo][0] <= v)
	}
}

func (s *set) matchAddr(get addrFunc) predicate {
	prefixes := s.prefixes
	if len(prefixes) == 1 && len(s.addrs) == 0 {
		p := prefixes[0]
		return func(f *ct.Flow, _ *Context) ct.Tri {
			a := get(f)
			if !a.IsValid() {
				return ct.Unknown
			}
			return ct.TriOf(p.Contains(*a))
		}
	}
	if len(s.addrs) <= fewAddrs {
		return matchFew(get, prefixes, s.addrs)
	}
	addrs := s.addrs
	return func(f *ct.Flow, _ *Context) ct.Tri {
		a := get(f)
		if !a.IsValid() {
			return ct.Unknown
		}
		_, ok := addrs[*a]
		return ct.TriOf(ok || containsAny(prefixes, *a))
	}
}

func matchFew(get addrFunc, prefixes []netip.Prefix, m map[netip.Addr]struct{}) predicate {
	var few []netip.Addr
	for a := range m {
		few = append(few, a)
	}
	return func(f *ct.Flow, _ *Context) ct.Tri {
		a := get(f)
		if !a.IsValid() {
			return ct.Unknown
		}
		return ct.TriOf(slices.Contains(few, *a) || containsAny(prefixes, *a))
	}
}

func containsAny(ps []netip.Prefix, a netip.Addr) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
