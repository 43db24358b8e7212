package nft

import "net/netip"

// Attributes of expressions that terms are read from.
const (
	payloadDreg   = 1
	payloadBase   = 2
	payloadOffset = 3
	payloadLen    = 4
	payloadSreg   = 5

	metaDreg = 1
	metaKey  = 2

	cmpSreg = 1
	cmpOp   = 2
	cmpData = 3

	rangeSreg = 1
	rangeOp   = 2
	rangeFrom = 3
	rangeTo   = 4

	bitwiseSreg = 1
	bitwiseDreg = 2
	bitwiseMask = 4
	bitwiseXor  = 5
	bitwiseOp   = 6

	lookupSreg  = 2
	lookupFlags = 5

	rejectType = 1

	compatRev = 2
)

// kind is what was loaded into a register.
type kind uint8

const (
	kindFamily kind = iota
	kindProtocol
	kindIndex // of an interface
	kindName  // of an interface
	kindAddress
	kindPort
)

// field is a register's content.
type field struct {
	kind   kind
	source bool // the source's side; the way in, for interfaces
	mask   []byte
	asked  bool // something was asked of it
}

// expressions reads the terms of a rule of nftables.
type expressions struct {
	terms
	registers map[uint32]*field
}

// termsOf reads a rule.
func termsOf(family uint8, list attrs) *terms {
	x := expressions{terms: terms{family: family}, registers: make(map[uint32]*field)}
	for _, e := range list.all {
		x.expr(attrs(e))
	}
	for _, f := range x.registers {
		x.opaque = x.opaque || !f.asked
	}
	return &x.terms
}

func (x *expressions) expr(e attrs) {
	d := e.get(exprData)
	ok := true
	switch e.text(exprName) {
	case "counter", "log":
	case "payload":
		ok = x.payload(d)
	case "meta":
		ok = x.meta(d)
	case "bitwise":
		ok = x.bitwise(d)
	case "cmp":
		ok = x.compare(d)
	case "range":
		ok = x.between(d)
	case "lookup":
		ok = x.lookup(d)
	case "immediate":
		ok = x.verdict(d)
	case "reject":
		typ, _ := d.u32(rejectType)
		x.finish(rejects)
		x.reset = typ == rejectWithReset
	case "match":
		rev, _ := d.u32(compatRev)
		ok = x.xtMatch(d.text(compatName), rev, d.get(compatInfo))
	case "target":
		ok = x.xtTarget(d.text(compatName), d.get(compatInfo))
	case "queue", "synproxy", "fwd", "nat", "masq", "redir", "tproxy":
		x.finish(leaves)
		ok = false
	default:
		ok = false
	}
	x.opaque = x.opaque || !ok
}

// rejectWithReset is NFT_REJECT_TCP_RST.
const rejectWithReset = 1

func (x *expressions) verdict(d attrs) bool {
	v := d.get(immediateData).get(dataVerdict)
	code, ok := v.u32(verdictCode)
	switch {
	case !ok:
		return false
	case code == verdictDrop:
		x.finish(drops)
	default:
		x.finish(leaves)
	}
	return true
}

func (x *expressions) load(d attrs, dreg uint16, f field) bool {
	reg, ok := d.u32(dreg)
	if old := x.registers[reg]; !ok || old != nil && !old.asked {
		return false
	}
	x.registers[reg] = &f
	return true
}

// payload is part of the packet.
func (x *expressions) payload(d attrs) bool {
	const network, transport = 1, 2
	at, _ := d.u32(payloadBase)
	offset, _ := d.u32(payloadOffset)
	n, _ := d.u32(payloadLen)
	if d.get(payloadSreg) != nil || n == 0 {
		return false
	}
	switch {
	case at == transport && n == 2 && offset <= 2:
		return x.load(d, payloadDreg, field{kind: kindPort, source: offset == 0})
	case at != network:
		return false
	}
	// Prefixes of whole bytes are loaded without the rest of the address.
	src, dst, size, proto := uint32(12), uint32(16), uint32(4), uint32(9)
	switch x.family {
	case family4:
	case family6:
		src, dst, size, proto = 8, 24, 16, 6
	default:
		return false
	}
	switch {
	case offset == proto && n == 1:
		return x.load(d, payloadDreg, field{kind: kindProtocol})
	case (offset == src || offset == dst) && n <= size:
		return x.load(d, payloadDreg, field{kind: kindAddress, source: offset == src})
	}
	return false
}

// meta is what is known of a packet besides its bytes, enum nft_meta_keys.
func (x *expressions) meta(d attrs) bool {
	f := field{}
	switch key, _ := d.u32(metaKey); key {
	case 1, 15: // protocol, nfproto
	case 4:
		f = field{kind: kindIndex, source: true}
	case 5:
		f = field{kind: kindIndex}
	case 6:
		f = field{kind: kindName, source: true}
	case 7:
		f = field{kind: kindName}
	case 16: // l4proto
		f = field{kind: kindProtocol}
	default:
		return false
	}
	return x.load(d, metaDreg, f)
}

// bitwise masks an address.
func (x *expressions) bitwise(d attrs) bool {
	sreg, ok := d.u32(bitwiseSreg)
	f := x.registers[sreg]
	if op, _ := d.u32(bitwiseOp); !ok || f == nil || f.asked || f.kind != kindAddress || f.mask != nil || op != 0 {
		return false
	}
	for _, b := range d.get(bitwiseXor).get(dataValue) {
		if b != 0 {
			return false
		}
	}
	masked := field{kind: f.kind, source: f.source, mask: d.get(bitwiseMask).get(dataValue)}
	f.asked = true
	return masked.mask != nil && x.load(d, bitwiseDreg, masked)
}

// asked returns the field of a register that something is asked of.
func (x *expressions) asked(d attrs, sreg uint16) *field {
	reg, ok := d.u32(sreg)
	if f := x.registers[reg]; ok && f != nil {
		f.asked = true
		return f
	}
	return nil
}

func (x *expressions) compare(d attrs) bool {
	f := x.asked(d, cmpSreg)
	op, ok := d.u32(cmpOp)
	// enum nft_cmp_ops; what is less or greater without the equal is not asked
	// for by ranges.
	sign := map[uint32]string{0: equal, 1: notEqual, 3: "<= ", 5: ">= "}
	word, known := sign[op]
	if f == nil || !ok || !known {
		return false
	}
	return x.value(f, word, d.get(cmpData).get(dataValue))
}

// value is a comparison of a field with a constant.
func (x *expressions) value(f *field, op string, v []byte) bool {
	exact := op == equal || op == notEqual
	switch {
	case f.kind == kindFamily && op == equal:
		return x.setFamily(v)
	case f.kind == kindProtocol && exact && len(v) == 1:
		x.protocol(v[0], op)
	case f.kind == kindIndex && exact && len(v) == 4:
		x.iface(f.source, op, "index "+decimal(uint64(host.Uint32(v))))
	case f.kind == kindName && exact && len(v) > 0:
		x.iface(f.source, op, quoted(v, len(v) == ifNameSize || v[len(v)-1] == 0))
	case f.kind == kindPort && len(v) == 2:
		x.port(f.source, op, decimal(uint64(wire.Uint16(v))))
	case f.kind == kindAddress:
		p, ok := x.prefix(f, v)
		if !ok || !exact && !p.IsSingleIP() {
			return false
		}
		x.address(p, f.source, op)
	default:
		return false
	}
	return true
}

const ifNameSize = 16 // IFNAMSIZ

func (x *expressions) setFamily(v []byte) bool {
	var f uint8
	switch {
	case len(v) == 1 && (v[0] == family4 || v[0] == family6):
		f = v[0]
	case len(v) == 2 && wire.Uint16(v) == 0x0800: // ETH_P_IP
		f = family4
	case len(v) == 2 && wire.Uint16(v) == 0x86dd: // ETH_P_IPV6
		f = family6
	default:
		return false
	}
	x.family = f
	return true
}

// prefix makes a prefix of the leading bytes of an address and its mask.
func (x *expressions) prefix(f *field, v []byte) (netip.Prefix, bool) {
	size := 4
	if x.family == family6 {
		size = 16
	}
	if len(v) == 0 || len(v) > size || f.mask != nil && len(f.mask) != len(v) {
		return netip.Prefix{}, false
	}
	bits := 8 * len(v)
	if f.mask != nil {
		var ok bool
		if bits, ok = prefixLen(f.mask); !ok {
			return netip.Prefix{}, false
		}
	}
	whole := make([]byte, size)
	copy(whole, v)
	a, _ := netip.AddrFromSlice(whole)
	return netip.PrefixFrom(a, bits), true
}

// between is a range.
func (x *expressions) between(d attrs) bool {
	f := x.asked(d, rangeSreg)
	op, ok := d.u32(rangeOp)
	from, to := d.get(rangeFrom).get(dataValue), d.get(rangeTo).get(dataValue)
	if f == nil || !ok || op > 1 || f.kind != kindPort || len(from) != 2 || len(to) != 2 {
		return false
	}
	x.port(f.source, operator(op == 1), decimal(uint64(wire.Uint16(from)))+"-"+decimal(uint64(wire.Uint16(to))))
	return true
}

// lookup asks whether a field is in a set, or takes something from a map.
func (x *expressions) lookup(d attrs) bool {
	const inverse = 1
	f := x.asked(d, lookupSreg)
	if d.get(lookupDreg) != nil {
		x.finish(leaves)
		return false
	}
	flags, _ := d.u32(lookupFlags)
	if f == nil || f.mask != nil {
		return false
	}
	op, set := operator(flags&inverse != 0), setInWords(d.text(lookupSet))
	switch f.kind {
	case kindProtocol:
		x.word("meta l4proto %s%s", op, set)
	case kindIndex, kindName:
		x.iface(f.source, op, set)
	case kindPort:
		x.port(f.source, op, set)
	case kindAddress:
		dir := "daddr"
		if f.source {
			dir = "saddr"
		}
		x.side(f.source, op == equal)
		x.word("%s %s %s%s", familyName(x.family), dir, op, set)
	default:
		return false
	}
	return true
}
