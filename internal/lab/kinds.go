package lab

import (
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
)

// EveryKindRules lets a namespace hold what EveryKind makes: translations and
// labels exist only where a rule uses them.
const EveryKindRules = `table inet nat { chain post { type nat hook postrouting priority 100; }; }
	table inet lab2 { chain in { type filter hook input priority 0; ct label set 5; }; }`

// EveryKind returns entries of both families: each protocol, each TCP and SCTP
// state, and each property that conntrack(8) knows and that can be asked for;
// an entry offloaded to a flow table is not among them.
func EveryKind() (flows []ct.Flow) {
	n := uint16(0)
	add := func(p ct.Proto, six bool, set func(*ct.Flow)) {
		n++
		f := ct.Flow{Fields: ct.HasTimeout, TimeoutSeconds: 3000 + uint32(n)}
		f.Orig = ct.Tuple{Src: nth("10.0.0.0", n), Dst: nth("192.0.2.0", n), Proto: p}
		if six {
			f.Orig.Src, f.Orig.Dst = nth("2001:db8::", n), nth("2001:db8:1::", n)
		}
		switch {
		case p.IsICMP():
			f.Orig.ICMPType, f.Orig.ICMPID = 8, n
			if p == ct.ICMPv6 {
				f.Orig.ICMPType = 128
			}
		case p.HasPorts() && p != ct.DCCP || p == ct.GRE:
			f.Orig.SrcPort, f.Orig.DstPort = 1024+n, n
		}
		if p.HasState() && p != ct.DCCP {
			f.Fields |= ct.HasProtoInfo
			f.State = 3
		}
		if set != nil {
			set(&f)
		}
		if !f.Reply.IsValid() {
			f.Reply, _ = f.Orig.Invert()
		}
		flows = append(flows, f)
	}
	for _, six := range []bool{false, true} {
		for _, p := range []ct.Proto{ct.TCP, ct.UDP, ct.UDPLite, ct.SCTP, ct.GRE, ct.DCCP, 2, 50, 89} {
			add(p, six, nil)
			add(p, six, func(f *ct.Flow) { f.Status = ct.StatusSeenReply })
			add(p, six, func(f *ct.Flow) { f.Status = ct.StatusSeenReply | ct.StatusAssured })
		}
		for s := range ct.NumTCPStates {
			add(ct.TCP, six, func(f *ct.Flow) { f.State = s })
		}
		for s := range ct.SCTPHeartbeatAcked {
			add(ct.SCTP, six, func(f *ct.Flow) { f.State = s })
		}
		add(ct.UDP, six, func(f *ct.Flow) { f.Mark, f.Fields = 0xdeadbeef, f.Fields|ct.HasMark })
		add(ct.UDP, six, func(f *ct.Flow) { f.Zone, f.Fields = 7, f.Fields|ct.HasZone })
		add(ct.UDP, six, func(f *ct.Flow) { f.ZoneOrig = 8 })
		add(ct.UDP, six, func(f *ct.Flow) { f.ZoneReply = 9 })
		add(ct.TCP, six, func(f *ct.Flow) { f.Labels[0], f.Fields = 0x20, f.Fields|ct.HasLabels })
	}
	add(ct.ICMP, false, nil)
	add(ct.ICMPv6, true, nil)
	add(ct.UDP, true, func(f *ct.Flow) { f.Orig.Src = netip.MustParseAddr("::192.0.2.1") })
	add(ct.UDP, true, func(f *ct.Flow) { f.Orig.Dst = netip.MustParseAddr("::ffff:192.0.2.1") })
	add(ct.UDP, true, func(f *ct.Flow) { f.Orig.Src = netip.MustParseAddr("2001:db8:0:1:1:1:1:1") })
	add(ct.TCP, false, func(f *ct.Flow) {
		f.Status = ct.StatusSrcNAT | ct.StatusSeenReply
		f.Reply, _ = f.Orig.Invert()
		f.Reply.Dst, f.Reply.DstPort = netip.MustParseAddr("203.0.113.9"), 61000
	})
	return flows
}

func nth(base string, n uint16) netip.Addr {
	a := netip.MustParseAddr(base)
	raw := a.AsSlice()
	raw[len(raw)-2], raw[len(raw)-1] = byte(n>>8), byte(n)
	a, _ = netip.AddrFromSlice(raw)
	return a
}
