package ct

// RuleKind is what a firewall rule does at a needless price.
type RuleKind string

// Kinds of rules.
const (
	// LateDrop is a rule that drops after tracking what it could have dropped
	// before: by addresses, ports and interfaces alone.
	LateDrop RuleKind = "late-drop"
	// OpenReject is a rule that answers packets whatever their source, and so
	// forged ones too.
	OpenReject RuleKind = "open-reject"
)

// RuleAdvice is a firewall rule worth moving or changing, with how many more of
// its kind the chain holds. Only rules that were understood as a whole are
// told of.
type RuleAdvice struct {
	Kind RuleKind
	// Where is the base chain, in words: "nft inet filter input".
	Where string
	// Hook is prerouting, input, forward or output; Priority is the chain's.
	Hook     string
	Priority int32
	// Rule is the first such rule of the chain, in the words of nft: "tcp dport
	// 23 drop".
	Rule string
	// More counts the other rules of this kind in the chain.
	More int
	// AfterAccept is set where a rule before a late drop may have let packets
	// pass.
	AfterAccept bool
	// Reset is set where a reject answers with a TCP reset.
	Reset bool
}
