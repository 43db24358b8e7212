package flowexpr

import (
	"net/netip"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/ctwarden/ctwarden/ct"
)

// Kernel is the part of a selection that ctnetlink can do while it dumps. Each
// part is a demand that every selected flow meets; a part the kernel is too
// old for, or that the caller leaves out, costs time and nothing else.
type Kernel struct {
	Family   int        // 4 or 6; 0 for both
	Proto    ct.Value   // protocol number
	Src, Dst netip.Addr // of the original direction; invalid for any
	// SrcNet and DstNet are prefixes of them that are longer than one address
	// only; invalid for any. ctnetlink cannot compare these.
	SrcNet, DstNet netip.Prefix
	SrcPort        ct.Value  // of the original direction
	DstPort        ct.Value  // of the original direction
	Mark           Mark      // Mask 0 for any
	Zone           ct.Value  // zone of both directions
	Status         ct.Status // values of the bits in StatusMask
	Mask           ct.Status // bits that must have the value in Status
	never          bool      // two parts contradict each other
}

// IsZero reports whether the kernel can do nothing.
func (k Kernel) IsZero() bool { return k == Kernel{} }

// narrow adds the demands of a node that must be true. Nodes it does not know
// demand nothing.
func (k *Kernel) narrow(n ast.Node) {
	switch n := n.(type) {
	case *ast.BinaryNode:
		k.narrowBinary(n)
	case *ast.IdentifierNode:
		k.narrowFlag(n.Value, true)
	case *ast.UnaryNode:
		if id, ok := n.Node.(*ast.IdentifierNode); ok && (n.Operator == "!" || n.Operator == "not") {
			k.narrowFlag(id.Value, false)
		} else if b, ok := n.Node.(*ast.BinaryNode); ok && (n.Operator == "!" || n.Operator == "not") {
			k.narrowStatus(b, false)
		}
	}
}

func (k *Kernel) narrowBinary(n *ast.BinaryNode) {
	switch n.Operator {
	case "&&", "and":
		k.narrow(n.Left)
		k.narrow(n.Right)
	case "==":
		l, r := n.Left, n.Right
		if _, ok := l.(*ast.IdentifierNode); !ok {
			l, r = r, l
		}
		if id, ok := l.(*ast.IdentifierNode); ok {
			k.narrowEqual(id.Value, r)
		}
	case "in":
		k.narrowStatus(n, true)
		id, ok := n.Left.(*ast.IdentifierNode)
		if !ok {
			return
		}
		switch r := n.Right.(type) {
		case *ast.ArrayNode:
			if len(r.Nodes) == 1 {
				k.narrowEqual(id.Value, r.Nodes[0])
			}
		case *ast.StringNode:
			k.narrowEqual(id.Value, r)
		}
	}
}

func (k *Kernel) narrowStatus(n *ast.BinaryNode, set bool) {
	s, ok := n.Left.(*ast.StringNode)
	id, isID := n.Right.(*ast.IdentifierNode)
	if n.Operator != "in" || !ok || !isID || id.Value != "status" {
		return
	}
	if b, ok := ct.ParseStatus(s.Value); ok {
		k.demandStatus(b, set)
	}
}

// statusFlags are the fields that stand for one bit. Those whose bit is not
// all of their meaning are left to Match.
var statusFlags = map[string]ct.Status{"assured": ct.StatusAssured, "replied": ct.StatusSeenReply,
	"src_nat": ct.StatusSrcNAT, "dst_nat": ct.StatusDstNAT, "expected": ct.StatusExpected}

func (k *Kernel) narrowFlag(name string, set bool) {
	if name == "unreplied" {
		name, set = "replied", !set
	}
	if b, ok := statusFlags[name]; ok {
		k.demandStatus(b, set)
	}
}

func (k *Kernel) demandStatus(b ct.Status, set bool) {
	want := ct.Status(0)
	if set {
		want = b
	}
	if k.Mask&b != 0 && k.Status&b != want {
		k.never = true
	}
	k.Mask |= b
	k.Status = k.Status&^b | want
}

func (k *Kernel) narrowEqual(field string, n ast.Node) {
	switch v := n.(type) {
	case *ast.StringNode:
		k.equalText(field, v.Value)
	case *ast.IntegerNode:
		k.equalNumber(field, int64(v.Value))
	}
}

func (k *Kernel) equalText(field, v string) {
	switch field {
	case "family":
		k.demandFamily(map[string]int{"ipv4": 4, "ipv6": 6}[v])
	case "proto":
		if p, ok := ct.ParseProto(strings.ToLower(v)); ok {
			k.demand(&k.Proto, int64(p))
		}
	case "src", "dst":
		k.equalPrefix(field, v)
	case "mark":
		if m, err := ParseMark(v); err == nil {
			k.demandMark(m)
		}
	}
}

// equalPrefix hands over single addresses, and prefixes with their family.
func (k *Kernel) equalPrefix(field, v string) {
	p, err := ParsePrefix(v)
	if err != nil {
		return
	}
	family := 6
	if p.Addr().Is4() {
		family = 4
	}
	k.demandFamily(family)
	at, in := &k.Src, &k.SrcNet
	if field == "dst" {
		at, in = &k.Dst, &k.DstNet
	}
	if !p.IsSingleIP() {
		k.demandNet(in, p.Masked())
		return
	}
	if at.IsValid() && *at != p.Addr() {
		k.never = true
	}
	*at = p.Addr()
}

// demandNet keeps the longer of two prefixes that one address must lie in.
func (k *Kernel) demandNet(at *netip.Prefix, p netip.Prefix) {
	if at.IsValid() && !at.Overlaps(p) {
		k.never = true
	}
	if !at.IsValid() || at.Bits() < p.Bits() {
		*at = p
	}
}

func (k *Kernel) equalNumber(field string, v int64) {
	switch field {
	case "proto":
		k.demand(&k.Proto, v)
	case "sport":
		k.demand(&k.SrcPort, v)
	case "dport":
		k.demand(&k.DstPort, v)
	case "zone":
		// An entry whose zone holds for replies only reads 0 here, and its own
		// number in the kernel's filter.
		if v > 0 {
			k.demand(&k.Zone, v)
		}
	case "mark":
		if v >= 0 && v <= 1<<32-1 {
			k.demandMark(Mark{uint32(v), ^uint32(0)})
		} else {
			k.never = true
		}
	}
}

func (k *Kernel) demand(at *ct.Value, v int64) {
	if at.Known && at.N != v {
		k.never = true
	}
	*at = ct.Known(v)
}

func (k *Kernel) demandFamily(f int) {
	if k.Family != 0 && k.Family != f {
		k.never = true
	}
	k.Family = f
}

func (k *Kernel) demandMark(m Mark) {
	if (k.Mark.Value^m.Value)&k.Mark.Mask&m.Mask != 0 {
		k.never = true
	}
	k.Mark.Mask |= m.Mask
	k.Mark.Value |= m.Value
}

// Never reports whether the selection contradicts itself and selects nothing.
func (k Kernel) Never() bool { return k.never }

// merge joins the demands of two selections that must both be met.
func (k *Kernel) merge(o Kernel) {
	k.never = k.never || o.never
	if o.Family != 0 {
		k.demandFamily(o.Family)
	}
	for _, p := range [...][2]*ct.Value{{&k.Proto, &o.Proto}, {&k.SrcPort, &o.SrcPort},
		{&k.DstPort, &o.DstPort}, {&k.Zone, &o.Zone}} {
		if p[1].Known {
			k.demand(p[0], p[1].N)
		}
	}
	if o.Src.IsValid() {
		k.equalPrefix("src", o.Src.String())
	}
	if o.Dst.IsValid() {
		k.equalPrefix("dst", o.Dst.String())
	}
	if o.SrcNet.IsValid() {
		k.demandNet(&k.SrcNet, o.SrcNet)
	}
	if o.DstNet.IsValid() {
		k.demandNet(&k.DstNet, o.DstNet)
	}
	k.demandMark(o.Mark)
	for b := ct.Status(1); b != 0; b <<= 1 {
		if o.Mask&b != 0 {
			k.demandStatus(b, o.Status&b != 0)
		}
	}
}
