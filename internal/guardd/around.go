package guardd

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/evict"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/nft"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/protect"
	"github.com/ctwarden/ctwarden/internal/kernel/service"
	"github.com/ctwarden/ctwarden/internal/kernel/sockdiag"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
)

// ownTable is the name of our table of nftables, family inet.
const ownTable = "ctwarden"

// around is what the daemon knows of the machine besides readings: what it tells
// the policy, and what it needs itself for choosing entries.
type around struct {
	guard.Surroundings
	spare *evict.Guard
	// keep are the prefixes that the configuration spares.
	keep []netip.Prefix
	// sawOwn is set where the sessions, addresses and neighbours were all seen.
	sawOwn bool
	// known says whether the timeouts of an entry can be known: no rules of
	// others give it any.
	known  bool
	whyNot string
	// blind are the things that could not be seen, a sentence each.
	blind []string
	// hasty: looked at on the way to the first reading, without what nobody needs
	// so soon.
	hasty bool
	took  time.Duration
}

// partial: another look may see more.
func (a *around) partial() bool { return a.hasty || len(a.blind) > 0 }

// What an entry takes where the slab does not tell: struct nf_conn on 64 bits,
// and the least block of extensions (kmalloc-128).
const (
	entryObjectBytes    = 256
	entryExtensionBytes = 128
)

// lookAround reads it. What cannot be read is taken as the careful case. The hasty
// look leaves out what SYNPROXY would need: whether the kernel has it may take a
// tenth of a second to find out.
func lookAround(ref string, c *guard.Config, sshConnection string, hasty bool) *around {
	begin := time.Now()
	a := &around{spare: new(evict.Guard), hasty: hasty}
	missing := func(what string, err error) {
		if err != nil {
			a.blind = append(a.blind, what+": "+err.Error())
		}
	}
	if release, err := (procfs.FS{}).Release(); err == nil {
		a.Version, _ = ct.ParseKernelVersion(release)
	}
	a.EntryBytes = entryObjectBytes + entryExtensionBytes
	if slab, err := (procfs.FS{}).ConntrackSlab(); err == nil && slab.ObjectBytes > 0 {
		a.EntryBytes = slab.ObjectBytes + entryExtensionBytes
	}
	a.MaxOurs = hostLimits().writable(c.Enforce)
	a.Policies, a.Admission = a.Version.AtLeast(5, 12), a.Version.AtLeast(5, 12)
	a.Untrack = a.Admission
	var rules rulesSeen
	missing("settings and rules", netns.Do(ref, func() error {
		if !hasty {
			service.Lower() // of the thread that is inside, which is no other's
		}
		return a.readSettings(missing, &rules, c)
	}))
	socks, err := sockdiag.Listening(ref)
	missing("listening sockets", err)
	if a.SynProxy != nil && err == nil {
		a.SynProxy.Listening = servicePorts(socks)
	}
	x, err := sockdiag.OpenSSH(ref)
	missing("SSH sessions", err)
	if err == nil {
		self, err := protect.Own(ref)
		missing("own addresses", err)
		filled := protect.Fill(a.spare, ref, x, self, sshConnection)
		missing("gateways and nameservers", filled)
		a.sawOwn = err == nil && filled == nil
		if c.NoTrack != guard.Never {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			a.Manage = judgeManage(ctx, ref, c.Manage, x.SSHPorts(), socks, self, &rules)
			cancel()
		}
	}
	for _, addr := range protect.Addresses(a.spare) {
		a.Protected = append(a.Protected, netip.PrefixFrom(addr, addr.BitLen()))
	}
	a.keep = slices.Concat(c.Manage, c.Protect)
	a.Protected = append(a.Protected, a.keep...)
	a.took = time.Since(begin)
	return a
}

// remember keeps who is to be spared from the look before, where this one could
// not see that.
func (a *around) remember(old *around) {
	if a.sawOwn || !old.sawOwn {
		return
	}
	a.spare, a.Manage, a.sawOwn = old.spare, old.Manage, true
	for _, p := range old.Protected {
		if !slices.Contains(a.Protected, p) {
			a.Protected = append(a.Protected, p)
		}
	}
}

// readSettings runs inside the namespace.
func (a *around) readSettings(missing func(string, error), seen *rulesSeen, c *guard.Config) error {
	set, err := sysctl.Tree{}.Conntrack()
	missing("settings", err)
	a.Timeouts = set.Timeouts
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if n, err := (sysctl.Tree{}).Int(key); err == nil && n > 0 {
			a.Gateway = true
		}
	}
	mods, err := procfs.FS{}.Modules()
	if err != nil {
		a.Fragile, a.whyNot = true, "rules could not be read"
		seen.unread = []string{"the rules"}
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	rules, unread := nft.ReadOthers(ctx, procfs.FS{}, mods, ownTable)
	for _, u := range unread {
		missing(u.What, u.Err)
		seen.unread = append(seen.unread, u.What)
	}
	seen.Rules = rules
	loose, haveLoose := set.Knobs.TCPLoose.N, set.Knobs.TCPLoose.Known
	a.Fragile = len(unread) > 0 || len(rules.NAT) > 0 || rules.PolicyDrop || rules.Drops && rules.MatchesState ||
		!haveLoose || loose == 0
	seen.loose = haveLoose && loose != 0
	if c.SynProxy != guard.Never && !a.hasty {
		a.SynProxy = synProxyFacts(seen, mods)
	}
	switch {
	case rules.TimeoutPolicies:
		a.whyNot = "rules give entries timeouts of their own, which the kernel does not show"
	case len(unread) > 0:
		a.whyNot = "rules that could not be read may give entries timeouts of their own"
	default:
		a.known = true
	}
	return nil
}

// refreshSSH returns a guard that knows who is logged in now; it is cheap.
func (a *around) refreshSSH(ref, sshConnection string) (*evict.Guard, error) {
	x, err := sockdiag.OpenSSH(ref)
	if err != nil {
		return nil, err
	}
	g := *a.spare
	return &g, protect.Fill(&g, ref, x, a.spare.Self, sshConnection)
}
