package notrack

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Verdict is what can be said of a flow.
type Verdict string

// Verdicts. Only what is proven is installed.
const (
	Proven    Verdict = "proven"
	NotProven Verdict = "not-proven"
	Refuted   Verdict = "refuted"
)

// Facts are what was seen of the machine, both families.
type Facts struct {
	// NATRules are the rules that translate, in words; NAT is Unknown if some
	// rules could not be read.
	NATRules []string
	NAT      ct.Tri
	// PolicyDrop, Drops and MatchesState tell of rules as kernel/nft does.
	PolicyDrop, Drops, MatchesState bool
	// Users are the rules that need tracking, in words.
	Users  []string
	Unread []string // parts of the rules that could not be read
	// Listeners are local sockets of the protocol on the service's port, Bound
	// all local ports of the protocol with an unconnected socket.
	Listeners []netip.AddrPort
	Bound     []uint16
	Self      []netip.Addr
	Entries   Entries
	// TableRead is set if the entries were counted; otherwise TableNeeds says
	// what it takes.
	TableRead  bool
	TableNeeds string
}

// Entries are today's entries of the flow.
type Entries struct {
	Total      uint64 `json:"total"`
	NAT        uint64 `json:"nat"`
	Helper     uint64 `json:"helper"`     // with a helper, a master or adjusted sequence numbers
	Marked     uint64 `json:"marked"`     // with a mark or a label
	Forwarded  uint64 `json:"forwarded"`  // between others
	Offloaded  uint64 `json:"offloaded"`  // in a flow table
	Synproxied uint64 `json:"synproxied"` // with SYNPROXY's data
}

// Check is one thing that must hold.
type Check struct {
	What    string  `json:"what"`
	Verdict Verdict `json:"verdict"`
	Why     string  `json:"why"`
	// Missing is what would prove it.
	Missing string `json:"missing,omitempty"`
}

// Judgement is the verdict on a request with all that it rests on.
type Judgement struct {
	Specs    []string `json:"specs"`
	Verdict  Verdict  `json:"verdict"`
	Checks   []Check  `json:"checks"`
	Entries  Entries  `json:"entries"`
	Risks    []string `json:"risks"`
	NFT      string   `json:"nft"`
	Iptables []string `json:"iptables"`
}

// Judge decides whether the flows can do without tracking. All specs are of
// one protocol and port.
func Judge(specs []Spec, f Facts) Judgement {
	j := Judgement{Entries: f.Entries, NFT: NFT(specs), Iptables: Iptables(specs), Verdict: Proven}
	for _, s := range specs {
		j.Specs = append(j.Specs, s.String())
	}
	client := len(specs) > 0 && specs[0].Server.IsValid()
	j.Checks = append(j.Checks, f.ends(specs, client), f.translated(), f.accepted(), f.needed(), f.entries())
	for _, c := range j.Checks {
		switch {
		case c.Verdict == Refuted:
			j.Verdict = Refuted
		case c.Verdict == NotProven && j.Verdict == Proven:
			j.Verdict = NotProven
		}
	}
	j.Risks = f.risks(client)
	return j
}

// ends: the machine itself is one end of the flow, and nothing else can use
// what is opened.
func (f *Facts) ends(specs []Spec, client bool) Check {
	c := Check{What: "this machine is an end of the flow", Verdict: Proven}
	if client {
		return f.clientEnd(specs)
	}
	switch {
	case len(f.Listeners) == 0 && f.Entries.Forwarded > 0:
		c.Verdict, c.Why = Refuted, fmt.Sprintf("nothing listens here, and %d entries pass between others", f.Entries.Forwarded)
	case len(f.Listeners) == 0:
		c.Verdict = NotProven
		c.Why = fmt.Sprintf("nothing listens on the port; if this machine is a client, answers known by source port %d alone would let anybody who sends from it past the stateful rules", specs[0].Port)
		c.Missing = "start the service, or name the servers that this machine asks with --to"
	default:
		c.Why = "a socket listens on " + f.Listeners[0].String()
	}
	return c
}

// clientEnd: answers come from one source port, which anybody can forge; they
// may only reach ports where nothing else waits.
func (f *Facts) clientEnd(specs []Spec) Check {
	c := Check{What: "answers reach only the ports of queries", Verdict: Proven, Why: "bound to the servers named and to the ephemeral ports, where no service waits"}
	for _, s := range specs {
		for _, p := range f.Bound {
			if p >= s.First && p <= s.Last {
				c.Verdict = Refuted
				c.Why = fmt.Sprintf("a service waits on port %d, inside %d-%d: whoever forges %s could reach it past the stateful rules", p, s.First, s.Last, s.Server)
				return c
			}
		}
		if slices.Contains(f.Self, s.Server) {
			c.Verdict, c.Why = Refuted, s.Server.String()+" is this machine"
			return c
		}
	}
	return c
}

func (f *Facts) translated() Check {
	c := Check{What: "no translation applies to it", Verdict: Proven, Why: "no rule translates"}
	switch {
	case f.Entries.NAT > 0:
		c.Verdict, c.Why = Refuted, fmt.Sprintf("%d of its entries are translated; untracked packets are not, without a word", f.Entries.NAT)
	case len(f.NATRules) > 0:
		c.Verdict, c.Why = NotProven, "rules translate, and could match it: "+few(f.NATRules)
		c.Missing = "rules that exclude it before the translation, or none that translate"
	case f.NAT == ct.Unknown:
		c.Verdict, c.Why, c.Missing = NotProven, "not all rules could be read: "+few(f.Unread), "run it as root"
	case f.NAT == ct.Yes:
		c.Verdict, c.Why = NotProven, "something translates"
	}
	return c
}

// accepted: no rule refuses a packet because it is not tracked. An accept of
// ours ends only our own chain; a later drop of somebody else's still drops.
func (f *Facts) accepted() Check {
	c := Check{What: "the rules accept it untracked", Verdict: Proven, Why: "no rule and no policy drops"}
	missing := "rules that accept both directions without looking at their state, before anything drops"
	switch {
	case len(f.Unread) > 0:
		c.Verdict, c.Why, c.Missing = NotProven, "not all rules could be read: "+few(f.Unread), "run it as root"
	case f.PolicyDrop && f.MatchesState:
		c.Verdict, c.Why, c.Missing = NotProven, "a policy drops what no rule accepts, and the rules accept by state, which untracked packets do not have", missing
	case f.PolicyDrop:
		c.Verdict, c.Why, c.Missing = NotProven, "a policy drops what no rule accepts", missing
	case f.Drops:
		c.Verdict, c.Why, c.Missing = NotProven, "rules drop or reject; an accept of ours could not overrule them", missing
	}
	return c
}

// needed: nothing else lives by the entry.
func (f *Facts) needed() Check {
	c := Check{What: "nothing else needs its entries", Verdict: Proven, Why: "no mark, label, limit, helper or flow table"}
	if e := f.Entries; e.Helper+e.Offloaded+e.Synproxied > 0 {
		c.Verdict, c.Why = Refuted, fmt.Sprintf("of its entries %d have a helper, %d are offloaded, %d are SYNPROXY's", e.Helper, e.Offloaded, e.Synproxied)
		return c
	}
	if len(f.Unread) > 0 {
		c.Verdict, c.Why, c.Missing = NotProven, "not all rules could be read: "+few(f.Unread), "run it as root"
		return c
	}
	for _, u := range f.Users {
		for _, word := range []string{"mark", "label", "count", "limit", "helper", "synproxy", "flow", "zone", "bytes", "cluster"} {
			if strings.Contains(strings.ToLower(u), word) {
				c.Verdict, c.Why = NotProven, "a rule may count on them: "+u
				c.Missing = "that rule gone, or made not to match this flow"
				return c
			}
		}
	}
	if f.Entries.Marked > 0 {
		c.Verdict, c.Why = NotProven, fmt.Sprintf("%d of its entries carry a mark or a label", f.Entries.Marked)
	}
	return c
}

func (f *Facts) entries() Check {
	c := Check{What: "today's entries agree", Verdict: Proven}
	switch {
	case !f.TableRead:
		c.Verdict, c.Why, c.Missing = NotProven, "the table could not be read", cmp.Or(f.TableNeeds, "run it as root")
	case f.Entries.Forwarded > 0:
		c.Verdict, c.Why = NotProven, fmt.Sprintf("%d entries of the port pass between others and stay tracked", f.Entries.Forwarded)
		c.Missing = "a machine that does not forward this port"
	default:
		c.Why = fmt.Sprintf("%d entries, all of them this machine's own", f.Entries.Total)
	}
	return c
}

func (f *Facts) risks(client bool) []string {
	var r []string
	if n := f.Entries.Total; n > 0 {
		r = append(r, fmt.Sprintf("%d entries exist: from the switch on their packets are untracked, and rules that accept by state refuse them", n))
	}
	r = append(r, "rules that match ct state new or established no longer see these packets; ct state untracked does",
		"ICMP errors about these flows are no longer related to them: let path-MTU errors in by a rule of their own")
	if client {
		r = append(r, "whoever can forge the servers' addresses reaches the ephemeral ports")
	}
	return r
}

func few(list []string) string {
	if len(list) > 3 {
		return strings.Join(list[:3], ", ") + fmt.Sprintf(" and %d more", len(list)-3)
	}
	return strings.Join(list, ", ")
}

// Concerns reports whether an entry is of the flows meant: for a client, those
// to its servers, for a service with bounded clients, those of them.
func Concerns(specs []Spec, fl *ct.Flow) bool {
	return slices.ContainsFunc(specs, func(s Spec) bool {
		switch {
		case fl.Orig.Proto != s.Proto || fl.Orig.DstPort != s.Port && fl.Reply.SrcPort != s.Port:
			return false
		case s.From.IsValid():
			return s.From.Contains(fl.Orig.Src)
		case s.Server.IsValid():
			return fl.Orig.Dst == s.Server || fl.Reply.Src == s.Server
		}
		return true
	})
}

// Add counts one entry of the port towards the facts.
func (e *Entries) Add(fl *ct.Flow, self func(netip.Addr) bool) {
	e.Total++
	if fl.NAT() {
		e.NAT++
	}
	if fl.Has(ct.HasHelper) || fl.Has(ct.HasMaster) || fl.Has(ct.HasSeqAdj) {
		e.Helper++
	}
	if fl.Mark != 0 || fl.Has(ct.HasLabels) && fl.Labels != [16]byte{} {
		e.Marked++
	}
	if fl.Offloaded() {
		e.Offloaded++
	}
	if fl.Has(ct.HasSynProxy) {
		e.Synproxied++
	}
	if !self(fl.Orig.Src) && !self(fl.Orig.Dst) {
		e.Forwarded++
	}
}
