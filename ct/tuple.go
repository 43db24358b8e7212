package ct

import (
	"net/netip"
	"strconv"
)

// Tuple is one direction of a flow: struct nf_conntrack_tuple. It is
// comparable and can be a map key.
type Tuple struct {
	Src, Dst netip.Addr
	Proto    Proto
	// SrcPort and DstPort are ports, or for GRE version 1 (PPTP) the keys
	// (call ids). Zero for ICMP, GRE version 0 and generic protocols.
	SrcPort, DstPort uint16
	// ICMPType, ICMPCode and ICMPID are used by ICMP and ICMPv6 only.
	ICMPType, ICMPCode uint8
	ICMPID             uint16
}

// IsValid reports whether both addresses are set and of one family.
func (t Tuple) IsValid() bool {
	return t.Src.IsValid() && t.Dst.IsValid() && t.Src.Is4() == t.Dst.Is4()
}

// Is4 reports whether the tuple is IPv4.
func (t Tuple) Is4() bool { return t.Src.Is4() }

// Invert returns the tuple that the kernel expects of an answer without NAT
// (nf_ct_invert_tuple). The second result is false where no answer can be
// expected: an ICMP type that opens no flow.
func (t Tuple) Invert() (Tuple, bool) {
	r := t
	r.Src, r.Dst = t.Dst, t.Src
	if t.Proto.IsICMP() {
		a, ok := icmpAnswer(t.Proto, t.ICMPType)
		r.ICMPType = a
		return r, ok
	}
	r.SrcPort, r.DstPort = t.DstPort, t.SrcPort
	return r, true
}

// icmpAnswer maps a request's type to its answer's and back, as invmap in
// nf_conntrack_proto_icmp.c and nf_conntrack_proto_icmpv6.c.
func icmpAnswer(p Proto, typ uint8) (uint8, bool) {
	if p == ICMP {
		switch typ {
		case 8:
			return 0, true
		case 0:
			return 8, true
		case 13:
			return 14, true
		case 14:
			return 13, true
		case 15:
			return 16, true
		case 16:
			return 15, true
		case 17:
			return 18, true
		case 18:
			return 17, true
		}
		return typ, false
	}
	switch typ {
	case 128:
		return 129, true
	case 129:
		return 128, true
	case 139: // node information query
		return 140, true
	case 140:
		return 139, true
	}
	return typ, false
}

// String prints the tuple as conntrack(8) does.
func (t Tuple) String() string { return string(t.Append(nil)) }

// Append appends the tuple, as conntrack(8) prints it, to b.
func (t Tuple) Append(b []byte) []byte {
	b = append(b, "src="...)
	b = t.Src.AppendTo(b)
	b = append(b, " dst="...)
	b = t.Dst.AppendTo(b)
	switch {
	case t.Proto.IsICMP():
		b = append(b, " type="...)
		b = strconv.AppendUint(b, uint64(t.ICMPType), 10)
		b = append(b, " code="...)
		b = strconv.AppendUint(b, uint64(t.ICMPCode), 10)
		b = append(b, " id="...)
		b = strconv.AppendUint(b, uint64(t.ICMPID), 10)
	case t.Proto == GRE:
		b = append(b, " srckey=0x"...)
		b = strconv.AppendUint(b, uint64(t.SrcPort), 16)
		b = append(b, " dstkey=0x"...)
		b = strconv.AppendUint(b, uint64(t.DstPort), 16)
	case t.Proto.HasPorts():
		b = append(b, " sport="...)
		b = strconv.AppendUint(b, uint64(t.SrcPort), 10)
		b = append(b, " dport="...)
		b = strconv.AppendUint(b, uint64(t.DstPort), 10)
	}
	return b
}
