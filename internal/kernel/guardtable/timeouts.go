package guardtable

import (
	"errors"
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
)

// ErrRange is returned for a timeout, a limit or a source that must not be set.
var ErrRange = errors.New("out of range")

// maxTimeout is what a kernel with 1,000 ticks a second takes: INT_MAX/HZ.
const maxTimeout = 2147483

// reached are the protocols whose timeouts our objects can set. The kernel
// takes others as well, but nft(8) cannot list what it does not know.
var reached = [...]struct {
	proto ct.Proto
	name  string
}{{ct.TCP, "tcp"}, {ct.UDP, "udp"}, {ct.ICMP, "icmp"}, {ct.ICMPv6, "icmpv6"}}

// Reaches reports whether SetTimeouts can set a timeout: those of TCP, UDP,
// ICMP and ICMPv6. The generic timeout cannot be reached by an object, as
// objects go by protocol number.
func Reaches(k ct.TimeoutKey) bool {
	for _, r := range reached {
		for _, is := range ctnl.PolicyKeys(r.proto) {
			if is == k && k != ct.NumTimeouts {
				return true
			}
		}
	}
	return false
}

// SetTimeouts gives flows that begin from now on, to, from and through the
// machine, these timeouts in seconds, 1 to 2,147,483; with none set, and after
// Close, all flows follow the namespace's own again, each from its next packet.
// Flows that exist keep what they have. Timeouts that [Reaches] denies are an
// error.
//
// What is not set for a protocol is copied from the namespace's timeouts when
// a set of timeouts is first seen, and later writes to the sysctls do not reach
// those flows. While timeouts are set one after the other, flows keep those
// they began with.
//
// It takes the place of a policy that somebody else's rules have given a flow:
// not to be used where [nft.Rules] tells of any.
func (t *Table) SetTimeouts(set ct.Timeouts) error {
	want, err := policiesOf(&set)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.can.policies && want != (policies{}) {
		return fmt.Errorf("set timeouts of new flows: %w", ErrUnsupported)
	}
	if err := t.change(func(d *desired) { d.timeouts = want }); err != nil {
		return fmt.Errorf("set timeouts of new flows: %w", err)
	}
	return nil
}

// policies are the timeouts of each protocol reached, as the kernel takes
// them; "" where none is set.
type policies [len(reached)]string

func policiesOf(set *ct.Timeouts) (p policies, err error) {
	for k := range ct.NumTimeouts {
		v, ok := set.Get(k)
		if ok && !Reaches(k) {
			return p, fmt.Errorf("%w: %s cannot be set for new flows alone", ErrRange, k)
		}
		if ok && (v < 1 || v > maxTimeout) {
			return p, fmt.Errorf("%w: %s of %d s, want 1 to %d", ErrRange, k, v, maxTimeout)
		}
	}
	for i, r := range reached {
		var data attrs
		for typ, k := range ctnl.PolicyKeys(r.proto) {
			if v, ok := get(set, k); ok {
				data = data.u32(uint16(typ), uint32(v))
			}
		}
		p[i] = string(data)
	}
	return p, nil
}

func get(set *ct.Timeouts, k ct.TimeoutKey) (int32, bool) {
	if k == ct.NumTimeouts {
		return 0, false
	}
	return set.Get(k)
}

// probePolicies sets one timeout of each protocol.
func probePolicies() policies {
	var set ct.Timeouts
	for _, k := range []ct.TimeoutKey{ct.TimeoutTCPSynSent, ct.TimeoutUDP, ct.TimeoutICMP, ct.TimeoutICMPv6} {
		set.Set(k, 30)
	}
	p, _ := policiesOf(&set)
	return p
}

// keptObjects bounds how many objects of a protocol are kept while timeouts
// are set.
const keptObjects = 8

// timeoutState are the timeout objects that the kernel holds. An object cannot
// be changed. Those that are no longer given to new flows are kept, because
// their flows would go back to the namespace's long timeouts without them, and
// because the kernel walks all entries to remove one (nf_ct_untimeout).
type timeoutState struct {
	given   policies
	objects [len(reached)][]timeoutObject // the newest last
	serial  int
}

type timeoutObject struct{ name, data string }

const (
	chainTimeoutsIn, chainTimeoutsOut = "timeouts_in", "timeouts_out"
	// After tracking, which stands at -200, and before everything that is
	// there by custom.
	priorityTimeouts = -150
)

var timeoutChains = [...]struct {
	name string
	hook hook
}{{chainTimeoutsIn, hook{hookPrerouting, priorityTimeouts}}, {chainTimeoutsOut, hook{hookOutput, priorityTimeouts}}}

func (s timeoutState) plan(p parts, want policies) timeoutState {
	if want == s.given {
		return s
	}
	none := policies{}
	next := timeoutState{given: want, serial: s.serial}
	for _, c := range timeoutChains {
		if s.given != none {
			p.emptyChain(c.name)
		}
		if want == none {
			p.deleteChain(c.name)
		}
	}
	var names [len(reached)]string
	for i := range reached {
		names[i] = next.keep(p, i, s.objects[i], want == none)
	}
	if want == none {
		return next
	}
	for _, c := range timeoutChains {
		if s.given == none {
			h := c.hook
			p.newChain(c.name, &h)
		}
		p.newRule(c.name, rule(nil).notNew().accept(), "flows that exist")
		for i, name := range names {
			if name != "" {
				p.newRule(c.name, rule(nil).object(objTimeout, name), "new flows of "+reached[i].name)
			}
		}
	}
	return next
}

// keep removes and adds the objects of one protocol and returns the name of
// the one that new flows get, "" for none.
func (s *timeoutState) keep(p parts, i int, had []timeoutObject, none bool) (name string) {
	want := s.given[i]
	var kept []timeoutObject
	for _, o := range had {
		if o.data == want {
			name = o.name
		}
	}
	excess := len(had) - keptObjects
	for _, o := range had {
		if none || excess > 0 && o.name != name {
			p.deleteTimeouts(o.name)
			excess--
			continue
		}
		kept = append(kept, o)
	}
	if want != "" && name == "" {
		s.serial++
		name = fmt.Sprintf("%s_%d", reached[i].name, s.serial)
		p.newTimeouts(name, uint8(reached[i].proto), attrs(want))
		kept = append(kept, timeoutObject{name, want})
	}
	s.objects[i] = kept
	return name
}
