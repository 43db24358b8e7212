package guardtable

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/notrack"
)

const (
	chainUntrackIn, chainUntrackOut = "untrack_in", "untrack_out"
	// As everybody does: NF_IP_PRI_RAW, before tracking at -200.
	priorityUntrack = -300

	// probeUntrack are flows of each family.
	probeUntrack = "server tcp 22 from 192.0.2.0/24; server tcp 22 from 2001:db8::/64"

	fibDreg, fibResult, fibFlags = 1, 2, 3 // enum nft_fib_attributes
	fibAddrType, fibDaddr        = 3, 2    // NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR
)

// Untrack has flows to services of this machine, of bounded clients, pass
// before tracking in both directions; it replaces what was there. specs are as
// [notrack.Value] writes them, "" for none. What exists of them loses nothing
// but its entry's use: its next packets are not tracked. Taken away, they are
// tracked again, each from its next packet.
//
// Whether a flow can do without tracking is the caller's to prove.
func (t *Table) Untrack(specs string) error {
	list, err := notrack.ParseValue(specs)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRange, err)
	}
	for _, s := range list {
		if !s.From.IsValid() {
			return fmt.Errorf("%w: %s: clients are not bounded", ErrRange, s)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if specs != "" && !t.untracks() {
		return fmt.Errorf("untrack flows: %w", ErrUnsupported)
	}
	if err := t.change(func(d *desired) { d.untrack = notrack.Value(list) }); err != nil {
		return fmt.Errorf("untrack flows: %w", err)
	}
	return nil
}

// Untracks reports whether flows can pass before tracking. It has the kernel
// load what the rules need (nft_fib), and is not asked before anybody wants it.
func (t *Table) Untracks() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.untracks()
}

func (t *Table) untracks() bool {
	if t.can.untrack == untold && t.sock != nil {
		t.can.untrack = no
		if t.try(desired{untrack: probeUntrack}) {
			t.can.untrack = yes
		}
	}
	return t.can.untrack == yes
}

func planUntrack(p parts, had, want string) string {
	if had == want {
		return had
	}
	for _, c := range []struct {
		name string
		hook uint32
	}{{chainUntrackIn, hookPrerouting}, {chainUntrackOut, hookOutput}} {
		if had != "" {
			p.emptyChain(c.name)
		}
		switch {
		case want == "":
			p.deleteChain(c.name)
			continue
		case had == "":
			p.newChain(c.name, &hook{c.hook, priorityUntrack})
		}
		list, _ := notrack.ParseValue(want) // it is what Value wrote
		for _, s := range list {
			p.newRule(c.name, untracked(&s, c.hook == hookPrerouting), s.String())
		}
	}
	return want
}

// untracked goes on with packets of a flow in one direction, and says that they
// are not tracked.
func untracked(s *notrack.Spec, in bool) rule {
	// Offsets of source address and port; the destination's are behind them.
	family, address, size, port := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4), uint32(0)
	if s.From.Addr().Is6() {
		family, address, size = unix.NFPROTO_IPV6, 8, 16
	}
	proto := byte(unix.IPPROTO_TCP)
	if s.Proto == ct.UDP {
		proto = unix.IPPROTO_UDP
	}
	r := rule(nil).meta(unix.NFT_META_NFPROTO).cmp(unix.NFT_CMP_EQ, family)
	if in {
		port += 2
	} else {
		address += size
	}
	r = r.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, address, size).within(s.From)
	if in {
		r = r.toLocal()
	}
	r = r.proto(proto).payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, port, 2).
		cmp(unix.NFT_CMP_EQ, binary.BigEndian.AppendUint16(nil, s.Port)...)
	return r.bare("notrack")
}

// within goes on where the address that was loaded is in a prefix.
func (r rule) within(p netip.Prefix) rule {
	a := p.Masked().Addr().AsSlice()
	if p.Bits() < 8*len(a) {
		m := make([]byte, len(a))
		for i := range p.Bits() {
			m[i/8] |= 0x80 >> (i % 8)
		}
		r = r.mask(m...)
	}
	return r.cmp(unix.NFT_CMP_EQ, a...)
}

// toLocal goes on with packets to an address of this machine.
func (r rule) toLocal() rule {
	return r.expr("fib", attrs(nil).u32(fibDreg, unix.NFT_REG_1).u32(fibResult, fibAddrType).u32(fibFlags, fibDaddr)).
		cmp(unix.NFT_CMP_EQ, host.AppendUint32(nil, unix.RTN_LOCAL)...)
}

// bare appends an expression that has nothing to say but its name.
func (r rule) bare(name string) rule {
	return rule(attrs(r).nest(unix.NFTA_LIST_ELEM, attrs(nil).text(unix.NFTA_EXPR_NAME, name)...))
}
