package guardtable

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/guard"
)

const (
	// MaxSources is how many sources can be limited at once.
	MaxSources = 16384
	// MaxLengths is how many different prefix lengths they may have: each
	// costs every packet that begins a flow a look at one more set.
	MaxLengths = 16
	// maxSeconds bounds how long a source is limited without being named anew.
	maxSeconds = 86400
)

// ErrTooMany is returned for more sources than MaxSources, or prefix lengths
// than MaxLengths.
var ErrTooMany = errors.New("too many sources")

// Limit replaces the sources that are limited, in one transaction; with none
// nobody is. A source is forgotten by the kernel after l.Seconds, 1 to 86,400.
//
// Without l.PerSource, bare SYNs of the sources are dropped before tracking,
// and UDP and echo requests that begin a flow after it; other protocols are
// not. With it, the packets that begin a flow are dropped, all after tracking,
// once the source has that many entries begun since it was first counted;
// counts go on from one call to the next while l.PerSource stays the same. A
// prefix is counted as one. It returns ErrUnsupported where [Table.Counts]
// says no.
//
// Which sources must never be limited is the caller's to know. A prefix of
// length 0 is refused.
func (t *Table) Limit(l guard.Limit) error {
	m, err := membersOf(&l)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if m != nil && (!t.can.admission || m.perSource > 0 && !t.counts()) {
		return fmt.Errorf("limit sources: %w", ErrUnsupported)
	}
	if err := t.change(func(d *desired) { d.limit = m }); err != nil {
		return fmt.Errorf("limit sources: %w", err)
	}
	return nil
}

// members are the limited sources, as the kernel takes them.
type members struct {
	sets      map[setKey][][]byte
	seconds   uint32
	perSource uint32
}

// membersOf sorts the sources of a limit, nil for none.
func membersOf(l *guard.Limit) (*members, error) {
	if len(l.Sources) == 0 {
		return nil, nil
	}
	if len(l.Sources) > MaxSources {
		return nil, fmt.Errorf("%w: %d, at most %d can be limited", ErrTooMany, len(l.Sources), MaxSources)
	}
	if l.Seconds < 1 || l.Seconds > maxSeconds {
		return nil, fmt.Errorf("%w: a limit for %d s, want 1 to %d", ErrRange, l.Seconds, maxSeconds)
	}
	if l.PerSource < 0 || l.PerSource > 1<<30 {
		return nil, fmt.Errorf("%w: %d entries a source", ErrRange, l.PerSource)
	}
	seen := make(map[netip.Prefix]bool, len(l.Sources))
	m := &members{sets: make(map[setKey][][]byte), seconds: l.Seconds, perSource: uint32(l.PerSource)}
	for _, p := range l.Sources {
		q, err := plain(p)
		if err != nil {
			return nil, err
		}
		if seen[q] {
			continue
		}
		seen[q] = true
		k := setKey{q.Addr().Is6(), q.Bits()}
		m.sets[k] = append(m.sets[k], q.Addr().AsSlice())
	}
	if len(m.sets) > MaxLengths {
		return nil, fmt.Errorf("%w: %d different prefix lengths, at most %d", ErrTooMany, len(m.sets), MaxLengths)
	}
	return m, nil
}

// plain cuts a prefix to its length, and makes IPv4 of IPv4 in IPv6.
func plain(p netip.Prefix) (netip.Prefix, error) {
	if p.IsValid() && p.Addr().Is4In6() && p.Bits() > 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if !p.IsValid() || p.Bits() == 0 || p.Addr().Is4In6() {
		return p, fmt.Errorf("%w: source %v cannot be limited", ErrRange, p)
	}
	return netip.PrefixFrom(p.Addr().WithZone(""), p.Bits()).Masked(), nil
}

// probeMembers are one source of each kind, without and with a count.
func probeMembers() (limit, counted *members) {
	l := guard.Limit{Seconds: 1, Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"),
		netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}}
	limit, _ = membersOf(&l)
	l.PerSource = 1
	counted, _ = membersOf(&l)
	return limit, counted
}

// limitState is what of a limit the kernel holds.
type limitState struct {
	by     *members
	sets   []setKey // of by, in order
	counts []string // names of sets that count
}

const (
	chainSYN, chainNew, chainRefuse = "syn", "new", "refuse"
	counterName                     = "refused"
	// Before tracking, and before tables "raw" that may want to say what is
	// tracked.
	prioritySYN = -310
	// After tracking and before our timeouts.
	priorityNew = -160

	dhcpFirst, dhcpLast   = 67, 68
	dhcp6First, dhcp6Last = 546, 547
)

func (s limitState) plan(p parts, want *members) limitState {
	if s.by == want {
		return s
	}
	s.clear(p, want)
	if want == nil {
		return limitState{}
	}
	next := limitState{by: want, sets: order(want)}
	if want.perSource == 0 && !s.has(chainSYN) {
		p.newChain(chainSYN, &hook{hookPrerouting, prioritySYN})
	}
	if s.by == nil {
		p.newChain(chainNew, &hook{hookPrerouting, priorityNew})
		p.newChain(chainRefuse, nil)
	}
	for _, k := range next.sets {
		p.newSet(k.String(), k, len(want.sets[k]), want.seconds)
		p.fillSet(k.String(), want.sets[k])
		next.refuse(p, k, s.counts)
	}
	next.hooks(p)
	return next
}

// clear removes what a limit has made, but for what the next one needs.
func (s limitState) clear(p parts, want *members) {
	for _, c := range []string{chainSYN, chainNew, chainRefuse} {
		if s.has(c) {
			p.emptyChain(c)
		}
	}
	for _, k := range s.sets {
		p.deleteSet(k.String())
	}
	for _, name := range s.counts {
		if want == nil || !slices.ContainsFunc(order(want), func(k setKey) bool { return want.countSet(k) == name }) {
			p.deleteSet(name)
		}
	}
	for _, c := range []string{chainSYN, chainNew, chainRefuse} {
		if s.has(c) && (want == nil || c == chainSYN && want.perSource > 0) {
			p.deleteChain(c)
		}
	}
}

func (s limitState) has(chain string) bool {
	return s.by != nil && (chain != chainSYN || s.by.perSource == 0)
}

// countSet names the set that counts the entries of sources.
func (m *members) countSet(k setKey) string {
	if m.perSource == 0 {
		return ""
	}
	return fmt.Sprintf("count_%s_%d", k, m.perSource)
}

// refuse adds the rule that drops packets of one set's sources.
func (s *limitState) refuse(p parts, k setKey, had []string) {
	r := rule(nil).source(k).lookup(k.String())
	if name := s.by.countSet(k); name != "" {
		if !slices.Contains(had, name) {
			p.newSet(name, k, MaxSources, 0)
		}
		s.counts = append(s.counts, name)
		r = r.countOver(name, s.by.perSource)
	}
	p.newRule(chainRefuse, r.object(objCounter, counterName).drop(), "sources "+k.String())
}

// hooks adds the rules of the base chains.
func (s *limitState) hooks(p parts) {
	free := func(chain string) {
		p.newRule(chain, rule(nil).loopback().accept(), "loopback")
	}
	if s.by.perSource == 0 {
		free(chainSYN)
		p.newRule(chainSYN, rule(nil).bareSYN().jump(chainRefuse), "SYNs")
	}
	p.newRule(chainNew, rule(nil).notNew().accept(), "flows that exist")
	p.newRule(chainNew, rule(nil).confirmed().accept(), "flows that nobody has answered")
	free(chainNew)
	p.newRule(chainNew, rule(nil).udpTo(dhcpFirst, dhcpLast).accept(), "DHCP")
	p.newRule(chainNew, rule(nil).udpTo(dhcp6First, dhcp6Last).accept(), "DHCPv6")
	if s.by.perSource > 0 {
		p.newRule(chainNew, rule(nil).bareSYN().jump(chainRefuse), "SYNs")
	}
	p.newRule(chainNew, rule(nil).proto(unix.IPPROTO_UDP).jump(chainRefuse), "UDP")
	p.newRule(chainNew, rule(nil).icmpType(unix.IPPROTO_ICMP, 8).jump(chainRefuse), "echo requests")
	p.newRule(chainNew, rule(nil).icmpType(unix.IPPROTO_ICMPV6, 128).jump(chainRefuse), "echo requests of IPv6")
}

func order(m *members) []setKey {
	return slices.SortedFunc(maps.Keys(m.sets), func(a, b setKey) int {
		switch {
		case a.v6 != b.v6 && b.v6:
			return -1
		case a.v6 != b.v6:
			return 1
		}
		return b.bits - a.bits // the longest first
	})
}
