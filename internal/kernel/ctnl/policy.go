package ctnl

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
)

const timeoutGet = 1 // IPCTNL_MSG_TIMEOUT_GET

// Attributes of a timeout policy, enum ctattr_timeout.
const (
	ctaTimeoutName    = 1
	ctaTimeoutL3Proto = 2
	ctaTimeoutL4Proto = 3
	ctaTimeoutData    = 4
	ctaTimeoutUse     = 5
)

// Policy is a named set of timeouts, made by nfct(8), that rules give to flows
// with -j CT --timeout. Entries do not show which policy they follow. The "ct
// timeout" objects of nftables are not among these.
type Policy struct {
	Name     string
	Family   uint8 // unix.AF_INET or unix.AF_INET6
	Proto    ct.Proto
	Timeouts ct.Timeouts
	Use      uint32 // references: 1 and one for each rule
}

// Policies reads the timeout policies of the namespace. Where the module is not
// loaded, 3.4 and later, there are none and nothing is asked.
func (c *Conn) Policies() ([]Policy, error) {
	err := loaded(c.opts.Root, moduleTimeout)
	if errors.Is(err, ErrModule) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Policy
	err = c.request(subsysTimeout, timeoutGet, flagDump, func(m message) error {
		a, _, err := m.attrs()
		if err == nil {
			all = append(all, policy(a))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read timeout policies: %w", err)
	}
	return all, nil
}

func policy(b attrs) (p Policy) {
	var data attrs
	for a := range b.all {
		switch a.typ {
		case ctaTimeoutName:
			p.Name = string(bytes.TrimRight(a.val, "\x00"))
		case ctaTimeoutL3Proto:
			v, _ := a.u16()
			p.Family = uint8(v)
		case ctaTimeoutL4Proto:
			v, _ := a.u8()
			p.Proto = ct.Proto(v)
		case ctaTimeoutData:
			data = a.val
		case ctaTimeoutUse:
			p.Use, _ = a.u32()
		}
	}
	keys := PolicyKeys(p.Proto)
	for a := range data.all {
		v, ok := a.u32()
		if ok && int(a.typ) < len(keys) && keys[a.typ] != NoTimeout {
			p.Timeouts.Set(keys[a.typ], int32(v))
		}
	}
	return p
}

// NoTimeout stands for attributes without a sysctl of their own.
const NoTimeout = ct.NumTimeouts

// PolicyKeys lists what the attributes of CTA_TIMEOUT_DATA, numbered from 1,
// mean for a protocol: enum ctattr_timeout_tcp and its likes.
func PolicyKeys(p ct.Proto) []ct.TimeoutKey {
	switch p {
	case ct.TCP:
		return []ct.TimeoutKey{NoTimeout, ct.TimeoutTCPSynSent, ct.TimeoutTCPSynRecv,
			ct.TimeoutTCPEstablished, ct.TimeoutTCPFinWait, ct.TimeoutTCPCloseWait,
			ct.TimeoutTCPLastAck, ct.TimeoutTCPTimeWait, ct.TimeoutTCPClose, NoTimeout,
			ct.TimeoutTCPMaxRetrans, ct.TimeoutTCPUnacknowledged}
	case ct.UDP:
		return []ct.TimeoutKey{NoTimeout, ct.TimeoutUDP, ct.TimeoutUDPStream}
	case ct.UDPLite:
		return []ct.TimeoutKey{NoTimeout, ct.TimeoutUDPLite, ct.TimeoutUDPLiteStream}
	case ct.ICMP:
		return []ct.TimeoutKey{NoTimeout, ct.TimeoutICMP}
	case ct.ICMPv6:
		return []ct.TimeoutKey{NoTimeout, ct.TimeoutICMPv6}
	case ct.GRE:
		return []ct.TimeoutKey{NoTimeout, ct.TimeoutGRE, ct.TimeoutGREStream}
	case ct.SCTP:
		return []ct.TimeoutKey{NoTimeout, ct.TimeoutSCTPClosed, ct.TimeoutSCTPCookieWait,
			ct.TimeoutSCTPCookieEchoed, ct.TimeoutSCTPEstablished, ct.TimeoutSCTPShutdownSent,
			ct.TimeoutSCTPShutdownRecd, ct.TimeoutSCTPShutdownAckSent,
			ct.TimeoutSCTPHeartbeatSent, ct.TimeoutSCTPHeartbeatAcked}
	case ct.DCCP:
		return []ct.TimeoutKey{NoTimeout, ct.TimeoutDCCPRequest, ct.TimeoutDCCPRespond,
			ct.TimeoutDCCPPartOpen, ct.TimeoutDCCPOpen, ct.TimeoutDCCPCloseReq,
			ct.TimeoutDCCPClosing, ct.TimeoutDCCPTimeWait}
	}
	return []ct.TimeoutKey{NoTimeout, ct.TimeoutGeneric}
}
