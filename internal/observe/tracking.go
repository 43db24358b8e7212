package observe

import (
	"context"
	"errors"
	"slices"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/nft"
)

// rules are the rules of the namespace, with whether all of them were read.
type rules struct {
	nft.Rules
	whole bool
}

// readRules reads what the packet filter wants of tracking. Where nothing
// tracks there is nothing to ask for, and asking could change that.
func (r *reader) readRules(ctx context.Context) {
	if !r.fs.Live() {
		return
	}
	if r.mods == nil {
		r.blind("the rules", errModulesUnknown, "make /proc/modules readable: asking the packet filter could load it")
		return
	}
	r.o.Progress("reading rules", -1)
	got, failed := nft.Read(ctx, r.fs, r.mods)
	r.rules = rules{Rules: got, whole: len(failed) == 0}
	for _, f := range failed {
		r.blind(f.What, f.Err, asRoot(f.Err, "look again; or list them with nft list ruleset and iptables-save"))
	}
	t := &r.snap.Tracking
	t.NATRules = got.NAT
	t.TimeoutPolicies = r.found(got.TimeoutPolicies)
	t.Offload = r.found(got.FlowTables)
	t.DropsUntracked = r.found(got.PolicyDrop || got.Drops && got.MatchesState)
}

var errModulesUnknown = errors.New("it is not known which parts of the kernel are loaded")

// found makes an answer of what the rules showed: their silence is a no only
// if all of them were read.
func (r *reader) found(yes bool) ct.Tri {
	switch {
	case yes:
		return ct.Yes
	case r.rules.whole:
		return ct.No
	}
	return ct.Unknown
}

// judgeTracking decides whether packets are tracked and translated, from the
// rules, from the kernel's hooks where it tells them, and from what moved.
func (r *reader) judgeTracking() {
	s := r.snap
	t := &s.Tracking
	t.Users = r.rules.Users
	t.Rules = r.rules.Advice
	t.NAT = r.nat()
	if t.ModuleLoaded == ct.No {
		t.Active = ct.No
		return
	}
	t.Active = r.active()
}

func (r *reader) active() ct.Tri {
	s := r.snap
	switch {
	case r.tracksByDefault():
		s.Tracking.Users = append(s.Tracking.Users, "kernels before 4.13 track wherever the tracker of IPv4 or IPv6 is loaded")
		return ct.Yes
	case len(r.rules.Users) > 0:
		return ct.Yes
	case r.rules.HooksTracking:
		s.Tracking.Users = append(s.Tracking.Users, "the kernel lists its tracking hooks, though no rule that was read asks for them")
		return ct.Yes
	case r.moved():
		s.Tracking.Users = append(s.Tracking.Users,
			"packets are tracked although no rule that was read asks for it: Open vSwitch, tc, IPVS or enable_hooks=1")
		return ct.Yes
	case r.rules.Hooked, r.rules.whole:
		return ct.No
	}
	return ct.Unknown
}

// tracksByDefault knows kernels that track without being asked: up to 4.9 in
// every namespace as soon as the tracker of a network protocol is loaded, up
// to 4.12 unless nf_conntrack_default_on is 0.
func (r *reader) tracksByDefault() bool {
	v := r.snap.Version
	if v.IsZero() || v.AtLeast(4, 13) || r.mods == nil || r.snap.Sysctls["net.netfilter.nf_conntrack_default_on"] == "0" {
		return false
	}
	return r.mods.State("ip_conntrack", "ip_conntrack_in").Present() ||
		r.mods.State("nf_conntrack_ipv4", "ipv4_conntrack_in").Present() ||
		r.mods.State("nf_conntrack_ipv6", "ipv6_conntrack_in").Present()
}

// moved reports whether packets were tracked between two readings. Counters of
// what ctnetlink does are left out, and births where it made some.
func (r *reader) moved() bool {
	rates := r.snap.Rates
	if rates == nil {
		return false
	}
	c := rates.Counters
	if c.Invalid|c.Drop|c.EarlyDrop|c.Error|c.ClashResolve|c.ChainTooLong|c.Found|c.New != 0 {
		return true
	}
	return rates.Panel && rates.BirthsPerSecond > 0 && c.Insert == 0
}

func (r *reader) nat() ct.Tri {
	if len(r.rules.NAT) > 0 {
		return ct.Yes
	}
	if c := r.snap.Census; c != nil && slices.ContainsFunc(c.Classes, func(c ct.Class) bool { return c.NAT }) {
		return ct.Yes
	}
	return r.found(false)
}
