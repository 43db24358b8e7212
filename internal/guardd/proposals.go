package guardd

import (
	"context"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/nft"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/sockdiag"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
	"github.com/ctwarden/ctwarden/internal/notrack"
)

// rulesSeen is what proposals rest on of the rules.
type rulesSeen struct {
	nft.Rules
	unread []string
	loose  bool // nf_conntrack_tcp_loose is on
}

// synProxyFacts reads what SYNPROXY would need of the machine. It runs inside
// the namespace.
func synProxyFacts(r *rulesSeen, mods *procfs.Modules) *guard.SynProxyFacts {
	f := &guard.SynProxyFacts{
		Module:         mods.State("nft_synproxy", "nft_synproxy_do_init").Present() || procfs.FS{}.Loadable("nft_synproxy"),
		InvalidDropped: !r.loose && (r.Drops || r.PolicyDrop),
		Timestamps:     on("net.ipv4.tcp_timestamps"), SACK: on("net.ipv4.tcp_sack"), WindowScale: windowScale(),
	}
	if mtu := procfs.LeastMTU(); mtu > 40 {
		f.MSS = uint16(min(mtu-40, 1460))
	}
	if len(r.NAT) > 0 {
		f.Unproven = append(f.Unproven, "that no rule translates its packets, which untracked SYNs would miss: "+few(r.NAT))
	}
	if len(r.unread) > 0 {
		f.Unproven = append(f.Unproven, "that no rule translates or drops its packets, for not all could be read: "+few(r.unread))
	}
	return f
}

func few(list []string) string {
	const most = 3
	if len(list) > most {
		return strings.Join(list[:most], ", ") + " and " + strconv.Itoa(len(list)-most) + " more"
	}
	return strings.Join(list, ", ")
}

func on(key string) bool {
	n, err := (sysctl.Tree{}).Int(key)
	return err == nil && n != 0
}

// windowScale is what the machine's own handshakes offer: as much as its
// largest receive buffer asks for (tcp_select_initial_window).
func windowScale() uint8 {
	if !on("net.ipv4.tcp_window_scaling") {
		return 0
	}
	largest := 65535
	if text, err := (sysctl.Tree{}).Read("net.ipv4.tcp_rmem"); err == nil {
		if w := strings.Fields(text); len(w) == 3 {
			if n, err := strconv.Atoi(w[2]); err == nil {
				largest = max(largest, n)
			}
		}
	}
	return uint8(min(max(bits.Len(uint(largest))-16, 0), 14))
}

// servicePorts are the TCP ports on which the machine listens for others.
func servicePorts(socks []sockdiag.Socket) []uint16 {
	ports := []uint16{}
	for _, s := range socks {
		if !s.Local.Addr().IsLoopback() {
			ports = append(ports, s.Local.Port())
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// judgeManage judges for each SSH port whether flows from the prefixes of
// manage: can do without tracking.
func judgeManage(ctx context.Context, ref string, manage []netip.Prefix, ports []uint16, socks []sockdiag.Socket, self map[netip.Addr]bool,
	r *rulesSeen) (list []notrack.Judgement) {
	if len(manage) == 0 || len(ports) == 0 {
		return nil
	}
	specs := make([][]notrack.Spec, len(ports))
	for i, port := range ports {
		for _, m := range manage {
			if m.Bits() > 0 {
				specs[i] = append(specs[i], notrack.Spec{Proto: ct.TCP, Port: port, From: m.Masked()})
			}
		}
	}
	entries, err := countEntries(ctx, ref, specs, self)
	for i, port := range ports {
		if len(specs[i]) == 0 {
			continue
		}
		f := notrack.Facts{NATRules: r.NAT, NAT: ct.No, PolicyDrop: r.PolicyDrop, Drops: r.Drops, MatchesState: r.MatchesState,
			Users: othersOf(r.Users), Unread: r.unread, Entries: entries[i], TableRead: err == nil}
		switch {
		case len(r.NAT) > 0:
			f.NAT = ct.Yes
		case len(r.unread) > 0:
			f.NAT = ct.Unknown
		}
		if err != nil {
			f.TableNeeds = err.Error()
		}
		for _, s := range socks {
			f.Bound = append(f.Bound, s.Local.Port())
			if s.Local.Port() == port {
				f.Listeners = append(f.Listeners, s.Local)
			}
		}
		list = append(list, notrack.Judge(specs[i], f))
	}
	return list
}

// othersOf leaves out the table that ctwarden notrack installs: it is no
// obstacle to itself.
func othersOf(users []string) []string {
	return slices.DeleteFunc(slices.Clone(users), func(u string) bool { return strings.Contains(u, notrack.Table) })
}

// countEntries counts today's entries of flows.
func countEntries(ctx context.Context, ref string, specs [][]notrack.Spec, self map[netip.Addr]bool) ([]notrack.Entries, error) {
	counts := make([]notrack.Entries, len(specs))
	conn, err := ctnl.Dial(ctnl.Options{Netns: ref})
	if err != nil {
		return counts, err
	}
	defer conn.Close()
	own := func(a netip.Addr) bool { return self[a] || a.IsLoopback() }
	_, err = conn.Dump(ctx, ctnl.Query{Filter: ctnl.Filter{Orig: ctnl.TupleFilter{Proto: ct.TCP}}}, func(f *ct.Flow) error {
		for i := range specs {
			if notrack.Concerns(specs[i], f) {
				counts[i].Add(f, own)
			}
		}
		return nil
	})
	return counts, err
}
