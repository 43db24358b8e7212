package ct

import "strings"

// Status is the bit field IPS_* of an entry (enum ip_conntrack_status), as
// ctnetlink sends it in CTA_STATUS.
type Status uint32

// Status bits. The comments give the C names.
const (
	StatusExpected     Status = 1 << iota // IPS_EXPECTED
	StatusSeenReply                       // IPS_SEEN_REPLY
	StatusAssured                         // IPS_ASSURED
	StatusConfirmed                       // IPS_CONFIRMED
	StatusSrcNAT                          // IPS_SRC_NAT
	StatusDstNAT                          // IPS_DST_NAT
	StatusSeqAdjust                       // IPS_SEQ_ADJUST
	StatusSrcNATDone                      // IPS_SRC_NAT_DONE
	StatusDstNATDone                      // IPS_DST_NAT_DONE
	StatusDying                           // IPS_DYING
	StatusFixedTimeout                    // IPS_FIXED_TIMEOUT
	StatusTemplate                        // IPS_TEMPLATE
	StatusNATClash                        // IPS_NAT_CLASH, IPS_UNTRACKED before 4.12
	StatusHelper                          // IPS_HELPER
	StatusOffload                         // IPS_OFFLOAD, 4.16 and later
	StatusHWOffload                       // IPS_HW_OFFLOAD, 5.8 and later
)

// StatusNAT is set in flows whose addresses or ports are translated.
const StatusNAT = StatusSrcNAT | StatusDstNAT

var statusNames = [...]string{"EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED",
	"SRC_NAT", "DST_NAT", "SEQ_ADJUST", "SRC_NAT_DONE", "DST_NAT_DONE", "DYING",
	"FIXED_TIMEOUT", "TEMPLATE", "NAT_CLASH", "HELPER", "OFFLOAD", "HW_OFFLOAD"}

// String lists the bits by name, separated by commas.
func (s Status) String() string {
	var names []string
	for i, n := range statusNames {
		if s&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

// ParseStatus finds one bit by its name, in either case.
func ParseStatus(name string) (Status, bool) {
	for i, n := range statusNames {
		if strings.EqualFold(n, name) {
			return 1 << i, true
		}
	}
	return 0, false
}

// Has reports whether all bits of m are set.
func (s Status) Has(m Status) bool { return s&m == m }

// Any reports whether at least one bit of m is set.
func (s Status) Any(m Status) bool { return s&m != 0 }
