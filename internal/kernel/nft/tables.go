package nft

import (
	"context"
	"maps"
)

// Messages, enum nf_tables_msg_types.
const (
	getChain     = 4
	getRule      = 7
	getSet       = 10
	getSetElem   = 13
	getObj       = 19
	getFlowTable = 23
)

// Families, enum nfproto.
const (
	familyAny    = 0
	familyInet   = 1
	family4      = 2
	familyArp    = 3
	familyNetdev = 5
	familyBridge = 7
	family6      = 10
)

func familyName(f uint8) string {
	switch f {
	case familyInet:
		return "inet"
	case family4:
		return "ip"
	case familyArp:
		return "arp"
	case familyNetdev:
		return "netdev"
	case familyBridge:
		return "bridge"
	case family6:
		return "ip6"
	}
	return "family"
}

// Attributes of chains, rules, sets, objects: enum nft_*_attributes.
const (
	chainTable  = 1
	chainName   = 3
	chainHook   = 4
	chainPolicy = 5
	chainType   = 7

	chainHookNum      = 1
	chainHookPriority = 2

	ruleTable = 1
	ruleChain = 2
	ruleExprs = 4

	setExpr     = 17
	setExprs    = 18
	setTable    = 1
	setName     = 2
	objType     = 3
	elemTable   = 1
	elemSet     = 2
	elemList    = 3
	elemData    = 2
	dataValue   = 1
	dataVerdict = 2
	verdictCode = 1
)

// Object types, NFT_OBJECT_*.
const (
	objCTHelper  = 3
	objConnlimit = 5
	objCTTimeout = 7
	objCTExpect  = 9
	objSynproxy  = 10
)

const (
	verdictDrop = 0
	policyDrop  = 0
)

// readTables reads every table of nftables, those that iptables-nft made
// included.
func (c *collector) readTables(ctx context.Context) error {
	s, err := dial()
	if err != nil {
		return err
	}
	defer s.close()
	t := tables{parent: c}
	for _, kind := range []struct {
		msg  uint8
		each func(uint8, attrs)
	}{
		{getChain, t.chain}, {getSet, t.set}, {getObj, t.object}, {getFlowTable, t.flowTable}, {getRule, t.rule},
	} {
		err := s.dump(ctx, subsysTables, kind.msg, familyAny, nil, t.begin, t.others(kind.each))
		if err != nil && kind.msg != getObj && kind.msg != getFlowTable { // from 4.10 and 4.16
			return err
		}
		t.keep()
	}
	return t.verdictMaps(ctx, s)
}

// others keeps back what belongs to the table that is passed over. Chains, sets,
// objects, flow tables and rules all name their table in attribute 1.
func (t *tables) others(each func(uint8, attrs)) func(uint8, attrs) {
	if t.parent.own == "" {
		return each
	}
	return func(family uint8, a attrs) {
		if family != familyInet || a.text(chainTable) != t.parent.own {
			each(family, a)
		}
	}
}

// tables reads one kind of object at a time into a draft, which a dump that
// was disturbed begins anew.
type tables struct {
	parent *collector
	draft  *collector
	vmaps  map[vmap]bool
	passed map[chainKey]bool // a rule so far may let packets pass
}

// chainKey names a chain of nftables.
type chainKey struct {
	family       uint8
	table, chain string
}

// vmap is a set whose elements are verdicts.
type vmap struct {
	family     uint8
	table, set string
}

func (t *tables) begin() {
	t.draft = newCollector()
	t.vmaps = make(map[vmap]bool)
	t.passed = make(map[chainKey]bool)
}

// keep adds the draft to what is known.
func (t *tables) keep() {
	p, d := &t.parent.rules, &t.draft.rules
	p.PolicyDrop = p.PolicyDrop || d.PolicyDrop
	p.Drops = p.Drops || d.Drops
	p.MatchesState = p.MatchesState || d.MatchesState
	p.TimeoutPolicies = p.TimeoutPolicies || d.TimeoutPolicies
	p.FlowTables = p.FlowTables || d.FlowTables
	maps.Copy(t.parent.users, t.draft.users)
	maps.Copy(t.parent.nat, t.draft.nat)
	maps.Copy(t.parent.bases, t.draft.bases)
	maps.Copy(t.parent.advice, t.draft.advice)
}

func (t *tables) chain(family uint8, a attrs) {
	if family == familyArp || family == familyNetdev || a.get(chainHook) == nil {
		return
	}
	if p, ok := a.u32(chainPolicy); ok && p == policyDrop {
		t.draft.rules.PolicyDrop = true
	}
	h := a.get(chainHook)
	hook, ok := h.u32(chainHookNum)
	priority, ok2 := h.u32(chainHookPriority)
	if ok && ok2 && hook <= hookOutput && family != familyBridge && a.text(chainType) == "filter" {
		t.draft.bases[chainKey{family, a.text(chainTable), a.text(chainName)}] = base{hook, int32(priority)}
	}
}

// set looks for the expressions that every element of a set carries.
func (t *tables) set(family uint8, a attrs) {
	r := rule{c: t.draft, where: place(family, a.text(setTable), "set "+a.text(setName))}
	if e := a.get(setExpr); e != nil {
		r.expr(e)
	}
	for _, e := range a.get(setExprs).all {
		r.expr(e)
	}
}

func (t *tables) object(family uint8, a attrs) {
	typ, _ := a.u32(objType)
	where := place(family, a.text(setTable), "object "+a.text(setName))
	switch typ {
	case objCTTimeout:
		t.draft.rules.TimeoutPolicies = true
		t.draft.users.add(where, "ct timeout")
	case objCTExpect:
		t.draft.users.add(where, "ct expectation")
	case objConnlimit:
		t.draft.users.add(where, "ct count")
	case objSynproxy:
		t.draft.users.add(where, "synproxy")
	}
}

func (t *tables) flowTable(uint8, attrs) { t.draft.rules.FlowTables = true }

func (t *tables) rule(family uint8, a attrs) {
	table := a.text(ruleTable)
	r := rule{c: t.draft, where: place(family, table, a.text(ruleChain))}
	for _, e := range a.get(ruleExprs).all {
		r.expr(e)
	}
	for _, set := range r.vmaps {
		if len(t.vmaps) < maxKept {
			t.vmaps[vmap{family, table, set}] = true
		}
	}
	t.advise(chainKey{family, table, a.text(ruleChain)}, a.get(ruleExprs))
}

// advise judges a rule of a base chain by its terms.
func (t *tables) advise(k chainKey, exprs attrs) {
	b, ok := t.parent.bases[k]
	if !ok {
		return
	}
	terms := termsOf(k.family, exprs)
	t.draft.advise(place(k.family, k.table, k.chain), b, terms, t.passed[k])
	if terms.end == leaves {
		t.passed[k] = true
	}
}

// verdictMaps looks for drops in the maps that rules take verdicts from. It
// is of interest only while no other drop was found.
func (t *tables) verdictMaps(ctx context.Context, s *socket) error {
	wanted := t.vmaps
	for m := range wanted {
		if t.parent.rules.Drops {
			return nil
		}
		body := appendText(appendText(nil, elemTable, m.table), elemSet, m.set)
		err := s.dump(ctx, subsysTables, getSetElem, m.family, body, t.begin, t.elements)
		if err != nil {
			return err
		}
		t.keep()
	}
	return nil
}

func (t *tables) elements(_ uint8, a attrs) {
	for _, e := range a.get(elemList).all {
		verdict := attrs(e).get(elemData).get(dataVerdict)
		if code, ok := verdict.u32(verdictCode); ok && code == verdictDrop {
			t.draft.rules.Drops = true
		}
	}
}

func place(family uint8, table, chain string) string {
	return "nft " + familyName(family) + " " + table + " " + chain
}
