// Package evict chooses entries of the table that may go, spares those that
// must not, and removes them at a measured pace. It decides; others read and
// write the table.
package evict

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Reason is why an entry is spared.
type Reason uint8

// Reasons, in the order in which they are looked for.
const (
	SSH        Reason = iota // a connection of an SSH server of this machine
	SSHPeer                  // opened by an address from which somebody is logged in
	Offload                  // packets bypass the entry; state and timeout are not known
	Helper                   // a helper reads along and expects further connections
	Master                   // a helper's expectation let it in
	SeqAdj                   // sequence numbers are translated
	SynProxy                 // likewise, by SYNPROXY
	Fixed                    // somebody fixed its timeout on purpose
	Mark                     // rules may decide by its mark
	Label                    // rules may decide by its labels
	Zone                     // zones are another program's: OVS, Calico, kube-proxy
	Own                      // opened by this machine itself
	Gateway                  // from or to a default gateway
	Nameserver               // from or to a nameserver in use
	Routing                  // a routing, availability or address protocol
	NumReasons
)

var reasonNames = [NumReasons]string{"ssh", "ssh-peer", "offload", "helper", "master", "seqadj", "synproxy",
	"fixed", "mark", "label", "zone", "own", "gateway", "nameserver", "routing"}

var reasonTexts = [NumReasons]string{
	"connections of SSH servers on this machine",
	"opened by an address that is logged in over SSH",
	"offloaded to a flow table",
	"with a helper",
	"expected by another entry's helper",
	"with adjusted sequence numbers",
	"behind SYNPROXY",
	"with a fixed timeout",
	"with a mark that rules may use",
	"with a label that rules may use",
	"in a zone, which another program keeps",
	"opened by this machine",
	"from or to a gateway",
	"from or to a nameserver",
	"of routing, high-availability or DHCP protocols",
}

// String is the name for --force.
func (r Reason) String() string { return reasonNames[r] }

// Text says in words which entries are meant.
func (r Reason) Text() string { return reasonTexts[r] }

// Reasons is a set of reasons.
type Reasons uint32

// Has reports whether r is in the set.
func (s Reasons) Has(r Reason) bool { return s&(1<<r) != 0 }

// ParseReasons reads the value of --force: names separated by commas. all is
// set for "whole-table", which spares nothing but allows to select everything.
func ParseReasons(list string) (s Reasons, wholeTable bool, err error) {
	if list == "" {
		return 0, false, nil
	}
next:
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if name == "whole-table" {
			wholeTable = true
			continue
		}
		for r, n := range reasonNames {
			if n == name {
				s |= 1 << r
				continue next
			}
		}
		return 0, false, fmt.Errorf("cannot force %q: it is %s or whole-table", name, strings.Join(reasonNames[:], ", "))
	}
	return s, wholeTable, nil
}

// Guard spares entries.
type Guard struct {
	// Force holds the reasons that are overruled.
	Force Reasons
	// IsSSH tells connections of local SSH servers; nil if none is known.
	IsSSH func(*ct.Flow) bool
	// SSHPeers, Self, Gateways and Nameservers are the addresses that the
	// reasons of those names go by.
	SSHPeers, Self, Gateways, Nameservers map[netip.Addr]bool
	// Unused marks and labels: with No, rules are known not to look at them.
	MarksUsed, LabelsUsed ct.Tri
}

// Spares returns the first reason to spare an entry that is not overruled.
func (g *Guard) Spares(f *ct.Flow) (Reason, bool) {
	for r := range NumReasons {
		if !g.Force.Has(r) && g.applies(r, f) {
			return r, true
		}
	}
	return 0, false
}

func (g *Guard) applies(r Reason, f *ct.Flow) bool {
	switch r {
	case SSH:
		return g.IsSSH != nil && g.IsSSH(f)
	case SSHPeer:
		return g.SSHPeers[f.Orig.Src]
	case Offload:
		return f.Offloaded()
	case Helper:
		return f.Has(ct.HasHelper) || f.Status.Any(ct.StatusHelper)
	case Master:
		return f.Has(ct.HasMaster) || f.Status.Any(ct.StatusExpected)
	case SeqAdj:
		return f.Has(ct.HasSeqAdj) || f.Status.Any(ct.StatusSeqAdjust)
	case SynProxy:
		// Entries made through ctnetlink carry an empty one.
		return f.SynProxy != ct.SynProxy{}
	case Fixed:
		return f.Status.Any(ct.StatusFixedTimeout)
	case Mark:
		return f.Mark != 0 && g.MarksUsed != ct.No
	case Label:
		return f.Labels != [16]byte{} && g.LabelsUsed != ct.No
	case Zone:
		return f.Zone|f.ZoneOrig|f.ZoneReply != 0
	case Own:
		return g.Self[f.Orig.Src] || f.Orig.Src.IsLoopback()
	case Gateway:
		return touches(g.Gateways, f)
	case Nameserver:
		return touches(g.Nameservers, f)
	case Routing:
		return isRouting(&f.Orig)
	}
	return false
}

func touches(set map[netip.Addr]bool, f *ct.Flow) bool {
	return len(set) > 0 && (set[f.Orig.Src] || set[f.Orig.Dst] || set[f.Reply.Src])
}

// isRouting knows the protocols without which a machine loses its place in the
// network: DHCP, BGP, RIP, BFD, OSPF, EIGRP, PIM, VRRP and CARP, IGMP.
func isRouting(t *ct.Tuple) bool {
	switch t.Proto {
	case 2, 88, 89, 103, 112:
		return true
	case ct.TCP:
		return t.DstPort == 179
	case ct.UDP:
		switch t.DstPort {
		case 67, 68, 546, 547, 520, 521, 3784, 3785, 4784:
			return true
		}
	}
	return false
}
