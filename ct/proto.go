package ct

import "strconv"

// Proto is an IP protocol number as it stands in a tuple.
type Proto uint8

// Protocols for which the kernel has, or had, a tracker of its own. Every
// other number is handled by the generic tracker: no ports in the tuple, one
// entry per pair of addresses and protocol.
const (
	ICMP    Proto = 1
	TCP     Proto = 6
	UDP     Proto = 17
	DCCP    Proto = 33 // tracked until 6.14, generic from 6.17
	GRE     Proto = 47
	ICMPv6  Proto = 58
	SCTP    Proto = 132
	UDPLite Proto = 136
)

// String returns the name that conntrack(8) prints, or the number for a
// protocol without one.
func (p Proto) String() string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case DCCP:
		return "dccp"
	case GRE:
		return "gre"
	case ICMPv6:
		return "icmpv6"
	case SCTP:
		return "sctp"
	case UDPLite:
		return "udplite"
	}
	return strconv.Itoa(int(p))
}

// ParseProto reads a protocol's name or number. The second result is false
// for anything else.
func ParseProto(s string) (Proto, bool) {
	switch s {
	case "icmp":
		return ICMP, true
	case "tcp":
		return TCP, true
	case "udp":
		return UDP, true
	case "dccp":
		return DCCP, true
	case "gre":
		return GRE, true
	case "icmpv6", "ipv6-icmp", "icmp6":
		return ICMPv6, true
	case "sctp":
		return SCTP, true
	case "udplite":
		return UDPLite, true
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return Proto(n), err == nil
}

// HasPorts reports whether the tuple of this protocol carries two port numbers.
func (p Proto) HasPorts() bool {
	switch p {
	case TCP, UDP, DCCP, SCTP, UDPLite:
		return true
	}
	return false
}

// IsICMP reports whether the tuple carries type, code and id instead of ports.
func (p Proto) IsICMP() bool { return p == ICMP || p == ICMPv6 }
