package tune

import (
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// RuleNote is a firewall rule that costs more than it must, with what would be
// cheaper.
type RuleNote struct {
	Kind  ct.RuleKind `json:"kind"`
	Where string      `json:"where"` // "nft inet filter input"
	Rule  string      `json:"rule"`  // the first of its kind in that chain, in the words of nft
	// More counts the other rules of this kind in the chain.
	More    int    `json:"more,omitempty"`
	Why     string `json:"why"`
	Kernel  string `json:"kernel"` // what the kernel does with such a packet
	Instead string `json:"instead"`
	Risk    string `json:"risk"`
}

// ruleNotes says what to do about the rules that were found. Where nothing is
// tracked a late drop costs no entry.
func ruleNotes(t *ct.Tracking) []RuleNote {
	var notes []RuleNote
	for _, a := range t.Rules {
		n := RuleNote{Kind: a.Kind, Where: a.Where, Rule: a.Rule, More: a.More}
		switch a.Kind {
		case ct.LateDrop:
			if t.Active != ct.Yes {
				continue
			}
			n.lateDrop(a, t.NAT)
		case ct.OpenReject:
			n.openReject(a)
		default:
			continue
		}
		notes = append(notes, n)
	}
	return notes
}

// lateDrop: nf_conntrack_in allocates and counts an entry at priority -200, and
// the entry goes with the packet unless the last hook confirms it.
func (n *RuleNote) lateDrop(a ct.RuleAdvice, nat ct.Tri) {
	n.Why = "it looks at nothing that tracking finds out, so it could drop before tracking (priority -200) and cost no entry"
	n.Kernel = "each packet of a new flow takes a slot on its way here and gives it back when it is dropped: no entry stays, " +
		"but in a full table the packet is refused already, or an entry of somebody else is evicted for it"
	n.Instead = "in a chain at priority raw (-300): nft, type filter hook " + rawHook(a.Hook) + " priority raw; iptables, -t raw -A " + strings.ToUpper(rawHook(a.Hook))
	const stay = "; the rule may stay here as well, for what that one spares"
	risk := []string{"at raw nothing is translated yet and ct state is unknown: move only rules that look at neither, as this one"}
	switch a.Hook {
	case "input":
		n.Instead += "; add fib daddr type local (iptables: -m addrtype --dst-type LOCAL) to spare what is forwarded" + stay
	case "forward":
		n.Instead += "; add fib daddr type != local (iptables: -m addrtype ! --dst-type LOCAL) to spare what is for this machine" + stay
	}
	if (a.Hook == "input" || a.Hook == "forward") && nat != ct.No {
		risk = append(risk, "a packet whose destination will be translated still seems to be for this machine there")
	}
	if a.AfterAccept {
		risk = append(risk, "rules before it may let some of these packets pass, answers to connections of this machine among them: in raw they are dropped too")
	}
	n.Risk = strings.Join(risk, "; ")
}

// rawHook is the hook that a packet passes before tracking on its way to
// another.
func rawHook(hook string) string {
	if hook == "output" {
		return hook
	}
	return "prerouting"
}

// openReject: nf_send_reset sends as often as it is asked to, nf_send_unreach
// goes through icmp_send and its limits.
func (n *RuleNote) openReject(a ct.RuleAdvice) {
	n.Why = "it answers packets from any source, so forged ones too: the answer goes to whoever was named as the source"
	n.Kernel = "a new flow leaves no entry, rejected or dropped; "
	if a.Reset {
		n.Kernel += "a TCP reset goes out for each packet, without a limit; only an entry that exists already closes sooner by it"
	} else {
		n.Kernel += "an ICMP error goes out for each packet, as far as net.ipv4.icmp_ratelimit and icmp_msgs_per_sec, or net.ipv6.icmp.ratelimit, allow"
	}
	n.Instead = "reject towards your own networks (by source address or interface) and drop the rest; or put a limit before the reject and a drop behind it"
	n.Risk = "others wait for their timeout instead of learning at once that a port is closed; ident (113/tcp) is often rejected for that reason"
}
