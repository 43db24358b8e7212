package nft

import (
	"net/netip"
	"strconv"
)

// Attributes of expressions, enum nft_*_attributes.
const (
	exprName = 1
	exprData = 2

	ctDreg = 1
	ctKey  = 2

	immediateDreg = 1
	immediateData = 2

	natType    = 1
	natAddrMin = 3
	natPortMin = 5

	redirPortMin = 1

	objrefType = 1

	lookupSet  = 1
	lookupDreg = 3

	dynsetExpr  = 7
	dynsetExprs = 10

	compatName = 1
	compatInfo = 3
)

// ctKeys names what a ct expression looks at, enum nft_ct_keys.
var ctKeys = [...]string{"state", "direction", "status", "mark", "secmark", "expiration",
	"helper", "l3proto", "src", "dst", "protocol", "proto-src", "proto-dst", "labels",
	"packets", "bytes", "avgpkt", "zone", "event", "src", "dst", "src", "dst", "id"}

// rule reads the expressions of one rule.
type rule struct {
	c     *collector
	where string
	vmaps []string // sets that verdicts are taken from
	// registers holds the constants loaded so far, for NAT in words.
	registers map[uint32][]byte
}

// maxNesting is far above what the kernel nests: expressions in a set update.
const maxNesting = 4

// expr reads one expression.
func (r *rule) expr(e attrs) { r.nested(e, 0) }

func (r *rule) nested(e attrs, depth int) {
	if depth > maxNesting {
		return
	}
	d := e.get(exprData)
	switch name := e.text(exprName); name {
	case "ct":
		r.ct(d)
	case "connlimit":
		r.c.users.add(r.where, "ct count")
	case "synproxy", "flow_offload":
		r.c.users.add(r.where, name)
		r.c.rules.FlowTables = r.c.rules.FlowTables || name == "flow_offload"
	case "masq":
		r.translate("masquerade")
	case "redir":
		r.translate("redirect" + r.port(d, redirPortMin))
	case "nat":
		r.nat(d)
	case "objref":
		r.objref(d)
	case "immediate":
		r.immediate(d)
	case "lookup":
		if dreg, ok := d.u32(lookupDreg); ok && dreg == 0 {
			r.vmaps = append(r.vmaps, d.text(lookupSet))
		}
	case "reject":
		r.c.rules.Drops = true
	case "dynset":
		if x := d.get(dynsetExpr); x != nil {
			r.nested(x, depth+1)
		}
		for _, x := range d.get(dynsetExprs).all {
			r.nested(x, depth+1)
		}
	case "match":
		r.c.xtMatch(r.where, d.text(compatName))
	case "target":
		r.c.xtTarget(r.where, d.text(compatName), d.get(compatInfo))
	}
}

func (r *rule) ct(d attrs) {
	key, _ := d.u32(ctKey)
	name := "key " + strconv.FormatUint(uint64(key), 10)
	if key < uint32(len(ctKeys)) {
		name = ctKeys[key]
	}
	if d.get(ctDreg) == nil {
		r.c.users.add(r.where, "ct "+name+" set")
		return
	}
	r.c.rules.MatchesState = true
	r.c.users.add(r.where, "ct "+name)
}

func (r *rule) translate(what string) {
	r.c.users.add(r.where, what)
	r.c.nat.add(r.where, what)
}

func (r *rule) nat(d attrs) {
	what := "snat"
	if t, _ := d.u32(natType); t == 1 {
		what = "dnat"
	}
	to := ""
	if reg, ok := d.u32(natAddrMin); ok {
		to = r.address(reg)
	}
	r.translate(what + to + r.port(d, natPortMin))
}

// address puts the address in a register into words.
func (r *rule) address(reg uint32) string {
	if a, ok := netip.AddrFromSlice(r.registers[reg]); ok {
		if a.Is6() {
			return " to [" + a.String() + "]"
		}
		return " to " + a.String()
	}
	return " to addresses of a map"
}

// port puts the port in the register that attribute typ names into words.
func (r *rule) port(d attrs, typ uint16) string {
	reg, ok := d.u32(typ)
	if !ok || len(r.registers[reg]) < 2 {
		return ""
	}
	return " port " + strconv.Itoa(int(wire.Uint16(r.registers[reg])))
}

func (r *rule) objref(d attrs) {
	typ, ok := d.u32(objrefType)
	if !ok {
		return
	}
	switch typ {
	case objCTHelper:
		r.c.users.add(r.where, "ct helper set")
	case objCTTimeout:
		r.c.rules.TimeoutPolicies = true
		r.c.users.add(r.where, "ct timeout set")
	case objCTExpect:
		r.c.users.add(r.where, "ct expectation set")
	case objConnlimit:
		r.c.users.add(r.where, "ct count")
	case objSynproxy:
		r.c.users.add(r.where, "synproxy")
	}
}

// immediate is a constant: a verdict, or a value for a register.
func (r *rule) immediate(d attrs) {
	data := d.get(immediateData)
	if v := data.get(dataVerdict); v != nil {
		if code, ok := v.u32(verdictCode); ok && code == verdictDrop {
			r.c.rules.Drops = true
		}
		return
	}
	if reg, ok := d.u32(immediateDreg); ok {
		if r.registers == nil {
			r.registers = make(map[uint32][]byte)
		}
		r.registers[reg] = data.get(dataValue)
	}
}
