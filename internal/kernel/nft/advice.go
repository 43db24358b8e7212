package nft

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Priorities of hooks, enum nf_ip_hook_priorities.
const (
	prioTrack = -200 // NF_IP_PRI_CONNTRACK
	prioNAT   = -100 // NF_IP_PRI_NAT_DST
)

// Hooks of IPv4 and IPv6, enum nf_inet_hooks.
const (
	hookPrerouting = 0
	hookInput      = 1
	hookForward    = 2
	hookOutput     = 3
)

// base is where a base chain stands.
type base struct {
	hook     uint32
	priority int32
}

// adviceKey is what rules have in common that are told of together.
type adviceKey struct {
	kind   ct.RuleKind
	where  string
	family uint8
	base   base
	target bool
	after  bool
	reset  bool
}

// advised is the first rule of its key, and how many there are.
type advised struct {
	rule string
	n    int
}

// advise notes a rule of a base chain if it costs more than it must; after
// tells that a rule before it may have let packets pass.
func (c *collector) advise(where string, b base, t *terms, after bool) {
	k := adviceKey{where: where, family: t.family, base: b}
	switch {
	case t.opaque:
		return
	case t.end == drops && t.couldBeEarlier(b, after):
		k.kind, k.target, k.after = ct.LateDrop, t.target && b.translated(), after
	case t.end == rejects && t.answersAnyone(b):
		k.kind, k.reset = ct.OpenReject, t.reset
	default:
		return
	}
	if a, known := c.advice[k]; known {
		c.advice[k] = advised{a.rule, a.n + 1}
	} else if len(c.advice) < maxKept {
		c.advice[k] = advised{t.rule(), 1}
	}
}

// couldBeEarlier reports whether a drop after tracking could stand before it.
// What stands behind an accept would drop more there than here; only a list of
// sources is worth that thought. A rule for everything is a policy.
func (t *terms) couldBeEarlier(b base, after bool) bool {
	switch {
	case b.priority <= prioTrack, b.hook > hookOutput, t.empty():
		return false
	case after && !t.source:
		return false
	case t.output && b.hook != hookOutput: // the way out is not known yet
		return false
	case t.input && b.hook == hookOutput:
		return false
	}
	return true
}

func (t *terms) answersAnyone(b base) bool {
	return (b.hook == hookInput || b.hook == hookForward) && !t.source && !t.input
}

// translated reports whether destinations may have been translated where the
// chain stands.
func (b base) translated() bool {
	return b.hook == hookInput || b.hook == hookForward || b.priority >= prioNAT
}

// finishAdvice leaves out what looks at destinations that may be translated;
// rules that were not read may do so as well.
func (c *collector) finishAdvice(whole bool) []ct.RuleAdvice {
	var list []ct.RuleAdvice
	for k, a := range c.advice {
		if k.target && (!whole || len(c.nat) > 0) {
			continue
		}
		if k.kind == ct.LateDrop && !c.tracks(k.family) {
			continue
		}
		list = append(list, ct.RuleAdvice{Kind: k.kind, Where: k.where, Hook: hookName(k.base.hook), Priority: k.base.priority,
			Rule: a.rule, More: a.n - 1, AfterAccept: k.after, Reset: k.reset})
	}
	slices.SortFunc(list, func(a, b ct.RuleAdvice) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Where, b.Where), cmp.Compare(a.Rule, b.Rule),
			cmp.Compare(b.More, a.More), cmp.Compare(ct.TriOf(a.AfterAccept), ct.TriOf(b.AfterAccept)))
	})
	return list[:min(len(list), maxTold)]
}

// tracks reports whether a rule that needs tracking may have switched it on for
// a family: those of one family do it for that one alone. Where no rule did,
// something else may have, for both.
func (c *collector) tracks(family uint8) bool {
	other := []string{"nft ip6 ", "ip6tables "}
	switch family {
	case family4:
	case family6:
		other = []string{"nft ip ", "iptables "}
	default:
		return true
	}
	isOther := func(user string) bool {
		return slices.ContainsFunc(other, func(p string) bool { return strings.HasPrefix(user, p) })
	}
	for user := range c.users {
		if !isOther(user) {
			return true
		}
	}
	return len(c.users) == 0
}

func hookName(n uint32) string {
	return [...]string{"prerouting", "input", "forward", "output"}[n]
}
