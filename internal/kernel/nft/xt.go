package nft

// xtUsers are the matches and targets of xtables that switch tracking on.
var xtUsers = map[string]bool{
	// matches
	"conntrack": true, "state": true, "connmark": true, "connlabel": true,
	"connlimit": true, "connbytes": true, "helper": true, "cluster": true,
	// targets; SNAT and the like are in xtNAT
	"CONNMARK": true, "CONNSECMARK": true, "SYNPROXY": true, "CLUSTERIP": true,
	"FLOWOFFLOAD": true,
}

// xtNAT are the targets that translate.
var xtNAT = map[string]bool{
	"SNAT": true, "DNAT": true, "MASQUERADE": true, "REDIRECT": true, "NETMAP": true,
	"SAME": true, "FULLCONENAT": true,
}

// xtMatch notes a match of xtables.
func (c *collector) xtMatch(where, name string) {
	if !xtUsers[name] {
		return
	}
	c.users.add(where, "-m "+name)
	c.rules.MatchesState = true
}

// xtTarget notes a target of xtables with its data.
func (c *collector) xtTarget(where, name string, data []byte) {
	switch {
	case xtNAT[name]:
		c.users.add(where, "-j "+name)
		c.nat.add(where, "-j "+name)
	case xtUsers[name]:
		c.users.add(where, "-j "+name)
		c.rules.FlowTables = c.rules.FlowTables || name == "FLOWOFFLOAD"
	case name == "CT":
		c.xtCT(where, data)
	case name == "REJECT" || name == "TARPIT":
		c.rules.Drops = true
	}
}

// struct xt_ct_target_info_v1, include/uapi/linux/netfilter/xt_CT.h. Revision
// 0 ends before the timeout.
const (
	xtCTTimeoutAt  = 28
	xtCTTimeoutEnd = xtCTTimeoutAt + 32
	xtCTNotrack    = 1
)

// xtCT notes a CT target. One that only says --notrack needs no tracking.
func (c *collector) xtCT(where string, data []byte) {
	if len(data) < 2 || host.Uint16(data)&xtCTNotrack != 0 {
		return
	}
	what := "-j CT"
	if len(data) >= xtCTTimeoutEnd && data[xtCTTimeoutAt] != 0 {
		what += " --timeout " + cString(data[xtCTTimeoutAt:xtCTTimeoutEnd])
		c.rules.TimeoutPolicies = true
	}
	c.users.add(where, what)
}
