package guardtable

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Attributes, types and flags that golang.org/x/sys/unix lacks.
const (
	tableHandle, tableOwner = 4, 7 // NFTA_TABLE_HANDLE from 4.16, NFTA_TABLE_OWNER from 5.12
	flagOwner               = 2    // NFT_TABLE_F_OWNER

	objCounter, objTimeout = 1, 7 // NFT_OBJECT_COUNTER, NFT_OBJECT_CT_TIMEOUT
	ctTimeoutL4Proto       = 2    // NFTA_CT_TIMEOUT_L4PROTO
	ctTimeoutData          = 3    // NFTA_CT_TIMEOUT_DATA

	typeIPv4, typeIPv6 = 7, 8 // nft(8)'s ipv4_addr and ipv6_addr: for its listings

	hookPrerouting, hookOutput = 0, 3 // NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT
)

// elementsAMessage keeps the list of elements below the 64 KiB of an attribute.
const elementsAMessage = 1000

// parts adds the making and removing of parts of one table to a batch.
type parts struct {
	*batch
	table string
}

func (p parts) newTable(flags uint32) {
	a := attrs(nil).text(unix.NFTA_TABLE_NAME, p.table)
	if flags != 0 {
		a = a.u32(unix.NFTA_TABLE_FLAGS, flags)
	}
	p.add(unix.NFT_MSG_NEWTABLE, create, a, "table %s", p.table)
}

// deleteTable deletes exactly the table that has the handle, whatever its name.
func (p parts) deleteTable(handle uint64) {
	p.add(unix.NFT_MSG_DELTABLE, 0, attrs(nil).u64(tableHandle, handle), "the removal of table %s", p.table)
}

// hook is where a base chain stands.
type hook struct {
	num      uint32
	priority int32
}

// newChain makes a chain; with a nil hook, one to jump to.
func (p parts) newChain(name string, h *hook) {
	a := attrs(nil).text(unix.NFTA_CHAIN_TABLE, p.table).text(unix.NFTA_CHAIN_NAME, name)
	if h != nil {
		in := attrs(nil).u32(unix.NFTA_HOOK_HOOKNUM, h.num).u32(unix.NFTA_HOOK_PRIORITY, uint32(h.priority))
		a = a.nest(unix.NFTA_CHAIN_HOOK, in...).u32(unix.NFTA_CHAIN_POLICY, accept).text(unix.NFTA_CHAIN_TYPE, "filter")
	}
	p.add(unix.NFT_MSG_NEWCHAIN, create, a, "chain %s", name)
}

func (p parts) deleteChain(name string) {
	a := attrs(nil).text(unix.NFTA_CHAIN_TABLE, p.table).text(unix.NFTA_CHAIN_NAME, name)
	p.add(unix.NFT_MSG_DELCHAIN, 0, a, "the removal of chain %s", name)
}

func (p parts) emptyChain(name string) {
	a := attrs(nil).text(unix.NFTA_RULE_TABLE, p.table).text(unix.NFTA_RULE_CHAIN, name)
	p.add(unix.NFT_MSG_DELRULE, 0, a, "the emptying of chain %s", name)
}

func (p parts) newRule(chain string, r rule, what string) {
	a := attrs(nil).text(unix.NFTA_RULE_TABLE, p.table).text(unix.NFTA_RULE_CHAIN, chain).nest(unix.NFTA_RULE_EXPRESSIONS, r...)
	p.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, a, "the rule of chain %s for %s", chain, what)
}

// setKey is what sources are kept together: those of a family and a prefix
// length.
type setKey struct {
	v6   bool
	bits int
}

func (k setKey) size() int {
	if k.v6 {
		return 16
	}
	return 4
}

func (k setKey) String() string {
	if k.v6 {
		return fmt.Sprintf("v6_%d", k.bits)
	}
	return fmt.Sprintf("v4_%d", k.bits)
}

// newSet makes a set of sources. With seconds, its elements are forgotten
// after as long; otherwise rules fill it.
func (p parts) newSet(name string, k setKey, size int, seconds uint32) {
	typ := uint32(typeIPv4)
	if k.v6 {
		typ = typeIPv6
	}
	flags := uint32(unix.NFT_SET_EVAL)
	if seconds > 0 {
		flags = unix.NFT_SET_TIMEOUT
	}
	a := attrs(nil).text(unix.NFTA_SET_TABLE, p.table).text(unix.NFTA_SET_NAME, name).
		u32(unix.NFTA_SET_FLAGS, flags).u32(unix.NFTA_SET_KEY_TYPE, typ).u32(unix.NFTA_SET_KEY_LEN, uint32(k.size())).
		nest(unix.NFTA_SET_DESC, attrs(nil).u32(unix.NFTA_SET_DESC_SIZE, uint32(size))...).
		// The number by which rules of the same transaction could call it; the
		// kernel wants one and we go by names.
		u32(unix.NFTA_SET_ID, uint32(len(p.msgs)+1))
	if seconds > 0 {
		a = a.u64(unix.NFTA_SET_TIMEOUT, uint64(seconds)*1000)
	}
	p.add(unix.NFT_MSG_NEWSET, create, a, "set %s", name)
}

func (p parts) deleteSet(name string) {
	a := attrs(nil).text(unix.NFTA_SET_TABLE, p.table).text(unix.NFTA_SET_NAME, name)
	p.add(unix.NFT_MSG_DELSET, 0, a, "the removal of set %s", name)
}

// fillSet adds keys to a set.
func (p parts) fillSet(name string, keys [][]byte) {
	for len(keys) > 0 {
		n := min(len(keys), elementsAMessage)
		var list attrs
		for _, k := range keys[:n] {
			key := attrs(nil).bytes(unix.NFTA_DATA_VALUE, k)
			e := attrs(nil).nest(unix.NFTA_SET_ELEM_KEY, key...)
			list = list.nest(unix.NFTA_LIST_ELEM, e...)
		}
		keys = keys[n:]
		a := attrs(nil).text(unix.NFTA_SET_ELEM_LIST_TABLE, p.table).text(unix.NFTA_SET_ELEM_LIST_SET, name).
			nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list...)
		p.add(unix.NFT_MSG_NEWSETELEM, create, a, "sources of set %s", name)
	}
}

func (p parts) object(name string, typ uint32) attrs {
	return attrs(nil).text(unix.NFTA_OBJ_TABLE, p.table).text(unix.NFTA_OBJ_NAME, name).u32(unix.NFTA_OBJ_TYPE, typ)
}

func (p parts) newCounter(name string) {
	p.add(unix.NFT_MSG_NEWOBJ, create, p.object(name, objCounter).nest(unix.NFTA_OBJ_DATA), "counter %s", name)
}

func (p parts) deleteCounter(name string) {
	p.add(unix.NFT_MSG_DELOBJ, 0, p.object(name, objCounter), "the removal of counter %s", name)
}

// newTimeouts makes a ct timeout object. What data does not set is copied from
// the namespace's own timeouts (nft_ct_timeout_parse_policy).
func (p parts) newTimeouts(name string, proto uint8, data attrs) {
	in := attrs(nil).u8(ctTimeoutL4Proto, proto).nest(ctTimeoutData, data...)
	p.add(unix.NFT_MSG_NEWOBJ, create, p.object(name, objTimeout).nest(unix.NFTA_OBJ_DATA, in...), "ct timeout %s", name)
}

func (p parts) deleteTimeouts(name string) {
	p.add(unix.NFT_MSG_DELOBJ, 0, p.object(name, objTimeout), "the removal of ct timeout %s", name)
}

// counterPackets reads the packets of a counter's answer.
func counterPackets(a attrs) uint64 {
	data := a.get(unix.NFTA_OBJ_DATA)
	if v := data.get(unix.NFTA_COUNTER_PACKETS); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}
