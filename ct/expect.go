package ct

// Expectation is one expected flow: struct nf_conntrack_expect as ctnetlink
// shows it.
type Expectation struct {
	Master Tuple // original tuple of the flow that expects
	Tuple  Tuple // what is expected, where Mask has ones
	Mask   Tuple // masks in place of addresses and ports

	TimeoutSeconds uint32 // what remains
	ID             uint32
	Zone           uint16
	Flags          ExpectFlags
	Class          uint32
	Helper         string
	Func           string // the kernel function to call when it arrives

	NAT      bool // whether NATReply and NATTuple are set
	NATReply bool // direction of the translation, CTA_EXPECT_NAT_DIR
	NATTuple Tuple
}

// ExpectFlags are NF_CT_EXPECT_*.
type ExpectFlags uint32

// Flags of an expectation.
const (
	ExpectPermanent ExpectFlags = 1 << iota
	ExpectInactive
	ExpectUserspace
)
