package guardtable

import "golang.org/x/sys/unix"

// rule is a row of expressions, NFTA_RULE_EXPRESSIONS. Its methods append one
// each; all use register 1.
type rule attrs

// Attributes and values that golang.org/x/sys/unix lacks.
const (
	connlimitCount, connlimitFlags = 1, 2 // enum nft_connlimit_attributes
	connlimitOver                  = 1    // NFT_CONNLIMIT_F_INV

	arphrdLoopback  = unix.ARPHRD_LOOPBACK
	stateNew        = 1 << 3 // NF_CT_STATE_BIT(IP_CT_NEW)
	statusConfirmed = 1 << 3 // IPS_CONFIRMED
)

func (r rule) expr(name string, data attrs) rule {
	e := attrs(nil).text(unix.NFTA_EXPR_NAME, name).nest(unix.NFTA_EXPR_DATA, data...)
	return rule(attrs(r).nest(unix.NFTA_LIST_ELEM, e...))
}

// meta loads what is known of the packet besides its bytes.
func (r rule) meta(key uint32) rule {
	return r.expr("meta", attrs(nil).u32(unix.NFTA_META_DREG, unix.NFT_REG_1).u32(unix.NFTA_META_KEY, key))
}

func (r rule) payload(base, offset, n uint32) rule {
	return r.expr("payload", attrs(nil).u32(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1).u32(unix.NFTA_PAYLOAD_BASE, base).
		u32(unix.NFTA_PAYLOAD_OFFSET, offset).u32(unix.NFTA_PAYLOAD_LEN, n))
}

func (r rule) cmp(op uint32, v ...byte) rule {
	return r.expr("cmp", attrs(nil).u32(unix.NFTA_CMP_SREG, unix.NFT_REG_1).u32(unix.NFTA_CMP_OP, op).
		nest(unix.NFTA_CMP_DATA, attrs(nil).bytes(unix.NFTA_DATA_VALUE, v)...))
}

// mask keeps the bits that are set in v.
func (r rule) mask(v ...byte) rule {
	return r.expr("bitwise", attrs(nil).u32(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1).u32(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1).
		u32(unix.NFTA_BITWISE_LEN, uint32(len(v))).
		nest(unix.NFTA_BITWISE_MASK, attrs(nil).bytes(unix.NFTA_DATA_VALUE, v)...).
		nest(unix.NFTA_BITWISE_XOR, attrs(nil).bytes(unix.NFTA_DATA_VALUE, make([]byte, len(v)))...))
}

func (r rule) lookup(set string) rule {
	return r.expr("lookup", attrs(nil).text(unix.NFTA_LOOKUP_SET, set).u32(unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1))
}

// countOver goes on where the key has more than n entries, those that it saw
// begin, in a set that it fills itself. Where the set is full it does not.
func (r rule) countOver(set string, n uint32) rule {
	limit := attrs(nil).u32(connlimitCount, n).u32(connlimitFlags, connlimitOver)
	e := attrs(nil).text(unix.NFTA_EXPR_NAME, "connlimit").nest(unix.NFTA_EXPR_DATA, limit...)
	return r.expr("dynset", attrs(nil).text(unix.NFTA_DYNSET_SET_NAME, set).
		u32(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_ADD).u32(unix.NFTA_DYNSET_SREG_KEY, unix.NFT_REG_1).
		nest(unix.NFTA_DYNSET_EXPR, e...))
}

func (r rule) object(typ uint32, name string) rule {
	return r.expr("objref", attrs(nil).u32(unix.NFTA_OBJREF_IMM_TYPE, typ).text(unix.NFTA_OBJREF_IMM_NAME, name))
}

func (r rule) verdict(code int32, chain string) rule {
	v := attrs(nil).u32(unix.NFTA_VERDICT_CODE, uint32(code))
	if chain != "" {
		v = v.text(unix.NFTA_VERDICT_CHAIN, chain)
	}
	data := attrs(nil).nest(unix.NFTA_DATA_VERDICT, v...)
	return r.expr("immediate", attrs(nil).u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT).
		nest(unix.NFTA_IMMEDIATE_DATA, data...))
}

const (
	drop   = 0 // NF_DROP
	accept = 1 // NF_ACCEPT
)

func (r rule) accept() rule           { return r.verdict(accept, "") }
func (r rule) drop() rule             { return r.verdict(drop, "") }
func (r rule) jump(chain string) rule { return r.verdict(unix.NFT_JUMP, chain) }

// proto goes on with packets of a protocol.
func (r rule) proto(p uint8) rule { return r.meta(unix.NFT_META_L4PROTO).cmp(unix.NFT_CMP_EQ, p) }

// loopback goes on with packets that came in by a loopback device.
func (r rule) loopback() rule {
	return r.meta(unix.NFT_META_IIFTYPE).cmp(unix.NFT_CMP_EQ, host.AppendUint16(nil, arphrdLoopback)...)
}

// notNew goes on with packets that do not begin a flow: neither "ct state new"
// nor the first of an untracked one.
func (r rule) notNew() rule {
	return r.expr("ct", attrs(nil).u32(unix.NFTA_CT_DREG, unix.NFT_REG_1).u32(unix.NFTA_CT_KEY, unix.NFT_CT_STATE)).
		mask(host.AppendUint32(nil, stateNew)...).cmp(unix.NFT_CMP_EQ, 0, 0, 0, 0)
}

// confirmed goes on with packets whose flow has an entry: all but the first of
// a flow.
func (r rule) confirmed() rule {
	return r.expr("ct", attrs(nil).u32(unix.NFTA_CT_DREG, unix.NFT_REG_1).u32(unix.NFTA_CT_KEY, unix.NFT_CT_STATUS)).
		mask(host.AppendUint32(nil, statusConfirmed)...).cmp(unix.NFT_CMP_NEQ, 0, 0, 0, 0)
}

// bareSYN goes on with TCP packets that have SYN and none of FIN, RST and ACK.
func (r rule) bareSYN() rule {
	const fin, syn, rst, ack = 1, 2, 4, 16
	return r.proto(unix.IPPROTO_TCP).payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1).
		mask(fin|syn|rst|ack).cmp(unix.NFT_CMP_EQ, syn)
}

// icmpType goes on with ICMP or ICMPv6 packets of a type.
func (r rule) icmpType(proto, typ uint8) rule {
	return r.proto(proto).payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1).cmp(unix.NFT_CMP_EQ, typ)
}

// udpTo goes on with datagrams to a range of ports.
func (r rule) udpTo(first, last uint16) rule {
	return r.proto(unix.IPPROTO_UDP).payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2).
		cmp(unix.NFT_CMP_GTE, wire.AppendUint16(nil, first)...).cmp(unix.NFT_CMP_LTE, wire.AppendUint16(nil, last)...)
}

// source loads the source address, cut to a number of bits.
func (r rule) source(k setKey) rule {
	if k.v6 {
		r = r.meta(unix.NFT_META_NFPROTO).cmp(unix.NFT_CMP_EQ, unix.NFPROTO_IPV6).payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 8, 16)
	} else {
		r = r.meta(unix.NFT_META_NFPROTO).cmp(unix.NFT_CMP_EQ, unix.NFPROTO_IPV4).payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4)
	}
	if k.bits == 8*k.size() {
		return r
	}
	m := make([]byte, k.size())
	for i := range k.bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return r.mask(m...)
}
