// Package nft reads the packet filter's rules, nftables and legacy iptables,
// for what concerns connection tracking: which rules switch it on, which
// translate addresses, which could refuse a packet whose entry is gone, which
// give entries timeouts of their own.
//
// It asks only subsystems that are in the kernel already and tables that
// exist: a question about any other would create it. It must run on a thread
// that is in the namespace meant.
package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
)

// Rules is what the rules of one namespace mean for connection tracking.
type Rules struct {
	// Users are the rules that need tracking, in words: "nft inet filter
	// input: ct state". They switch it on (nf_ct_netns_get), from 4.14 alone.
	Users []string
	// NAT are the rules that translate, in words.
	NAT []string
	// PolicyDrop is set where a base chain drops what no rule accepts.
	PolicyDrop bool
	// Drops is set where a rule drops or rejects.
	Drops bool
	// MatchesState is set where a rule looks at the tracking of a packet.
	MatchesState bool
	// TimeoutPolicies is set where rules may give entries timeouts of their own.
	TimeoutPolicies bool
	// FlowTables is set where flows may be offloaded to a flow table.
	FlowTables bool
	// Hooked is set where the kernel told its hooks, and HooksTracking then
	// tells whether tracking is among them.
	Hooked, HooksTracking bool
	// Advice are the rules that cost more than they must, as far as they were
	// understood as a whole.
	Advice []ct.RuleAdvice
}

// Source is one part of the rules that could not be read.
type Source struct {
	What string
	Err  error
}

// Read reads all rules of the calling thread's namespace. Parts that could not
// be read are listed; the rest is valid.
func Read(ctx context.Context, fs procfs.FS, mods *procfs.Modules) (Rules, []Source) {
	return ReadOthers(ctx, fs, mods, "")
}

// ReadOthers is Read without the nftables table "inet own": for whoever put it
// there and asks what others have.
func ReadOthers(ctx context.Context, fs procfs.FS, mods *procfs.Modules, own string) (Rules, []Source) {
	c := newCollector()
	c.own = own
	var failed []Source
	try := func(what string, err error) {
		if err != nil {
			failed = append(failed, Source{what, err})
		}
	}
	if present(mods, "nf_tables", "nft_do_chain") {
		try("the nftables rules", c.readTables(ctx))
	}
	v4, v6, err := fs.IPTables()
	try("the list of iptables tables", err)
	for _, t := range v4 {
		try("the iptables table "+t, c.readLegacy(family4, t))
	}
	for _, t := range v6 {
		try("the ip6tables table "+t, c.readLegacy(family6, t))
	}
	if present(mods, "nfnetlink_hook", "nfnl_hook_dump") {
		// Optional in the kernel; without it the rules tell as much.
		if tracking, err := readHooks(ctx); err == nil {
			c.rules.Hooked, c.rules.HooksTracking = true, tracking
		}
	}
	r := c.finish()
	r.Advice = c.finishAdvice(len(failed) == 0)
	return r, failed
}

// present reports whether a subsystem can be asked without loading it.
func present(mods *procfs.Modules, module, symbol string) bool {
	return mods.Monolithic() || mods.State(module, symbol).Present()
}

// collector gathers findings, each once and with how often it occurs.
type collector struct {
	rules  Rules
	users  tally
	nat    tally
	bases  map[chainKey]base
	advice map[adviceKey]advised
	own    string // a table of family inet that is passed over
}

func newCollector() *collector {
	return &collector{users: make(tally), nat: make(tally),
		bases: make(map[chainKey]base), advice: make(map[adviceKey]advised)}
}

func (c *collector) finish() Rules {
	c.rules.Users, c.rules.NAT = c.users.words(), c.nat.words()
	return c.rules
}

// tally counts how many rules say the same.
type tally map[string]int

const (
	// maxKept bounds what is kept of a ruleset, maxTold what is told of it.
	maxKept = 4096
	maxTold = 40
)

func (t tally) add(where, what string) {
	key := where + ": " + what
	if _, known := t[key]; known || len(t) < maxKept {
		t[key]++
	}
}

func (t tally) words() []string {
	var list []string
	for k, n := range t {
		if n > 1 {
			k = fmt.Sprintf("%s (%d rules)", k, n)
		}
		list = append(list, k)
	}
	slices.Sort(list)
	if len(list) > maxTold {
		list = append(list[:maxTold], fmt.Sprintf("and %d more", len(list)-maxTold))
	}
	return list
}

// ErrMalformed is the error of an answer that does not hold together.
var ErrMalformed = errors.New("malformed answer of the kernel")
