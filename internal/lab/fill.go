package lab

import (
	"errors"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
)

// Class describes entries that [Host.Fill] makes: so many of one kind. Zero
// fields have useful meanings.
type Class struct {
	Count int
	Proto ct.Proto // 0: TCP
	State ct.State // of TCP and SCTP
	// Status takes StatusSeenReply and StatusAssured.
	Status ct.Status
	// TimeoutSeconds is what is left; 0 is the default timeout of the state,
	// as of an entry that has just seen a packet.
	TimeoutSeconds uint32
	// Sources and Targets are walked through, so that every entry has a tuple
	// of its own; invalid ones are 10.1.0.0/16 and 192.0.2.1/32. Port is the
	// target's port, 0 being 443 for TCP and 53 for others.
	Sources, Targets netip.Prefix
	Port             uint16
	// SNAT, if valid, is the address that sources are translated to.
	SNAT netip.Addr
	Mark uint32
	Zone uint16
}

// Fill makes entries in the host's table through ctnetlink, some 400,000 a
// second. It holds the limits shared unless the test holds them already. An
// entry that the kernel refuses ends the test.
func (h *Host) Fill(classes ...Class) {
	h.t.Helper()
	if !holdsLimits(h.t.Name()) {
		SharedLimits(h.t)
	}
	if err := h.TryFill(classes...); err != nil {
		h.t.Fatalf("lab: fill %s: %v", h.Name, err)
	}
}

// TryFill is Fill for tables that may be too small: the error wraps the
// kernel's first refusal, ENOMEM where the table was full.
func (h *Host) TryFill(classes ...Class) error {
	conn, err := ctnl.Dial(ctnl.Options{Netns: h.Path()})
	if err != nil {
		return err
	}
	defer conn.Close()
	batch := conn.NewBatch()
	var refused error
	batch.Refused = func(e *ctnl.EntryError) {
		if refused == nil {
			refused = e
		}
	}
	for _, c := range classes {
		for i := range c.Count {
			f := c.flow(i)
			if err := batch.Create(&f); err != nil {
				return err
			}
			if refused != nil {
				return refused
			}
		}
	}
	return errors.Join(batch.Flush(), refused)
}

// flow is the i-th entry of a class.
func (c *Class) flow(i int) ct.Flow {
	t := c.tuple(i)
	f := ct.Flow{Orig: t, Status: c.Status, State: c.State, Mark: c.Mark, Zone: c.Zone,
		TimeoutSeconds: c.TimeoutSeconds, Fields: ct.HasTimeout}
	f.Reply, _ = t.Invert()
	if c.SNAT.IsValid() {
		f.Reply.Dst = c.SNAT
		f.Status |= ct.StatusSrcNAT
	}
	if t.Proto.HasState() {
		f.Fields |= ct.HasProtoInfo
	}
	if c.Zone != 0 {
		f.Fields |= ct.HasZone
	}
	if c.Mark != 0 {
		f.Fields |= ct.HasMark
	}
	if f.TimeoutSeconds == 0 {
		f.TimeoutSeconds = fresh(t.Proto, c.State, c.Status)
	}
	return f
}

func (c *Class) tuple(i int) ct.Tuple {
	sources, targets, proto, port := c.Sources, c.Targets, c.Proto, c.Port
	if !sources.IsValid() {
		sources = netip.MustParsePrefix("10.1.0.0/16")
	}
	if !targets.IsValid() {
		targets = netip.MustParsePrefix("192.0.2.1/32")
	}
	if proto == 0 {
		proto = ct.TCP
	}
	if port == 0 {
		port = 53
		if proto == ct.TCP {
			port = 443
		}
	}
	n := int(size(targets))
	t := spread(proto, sources, netip.AddrPortFrom(Nth(targets, uint32(i%n)), port), i/n)
	switch {
	case proto == ct.ICMP:
		t.ICMPID, t.ICMPType = t.SrcPort, 8
	case proto == ct.ICMPv6:
		t.ICMPID, t.ICMPType = t.SrcPort, 128
	case proto.HasPorts():
		return t
	}
	t.SrcPort, t.DstPort = 0, 0
	return t
}

var defaultTimeouts = ct.DefaultTimeouts(ct.KernelVersion{Major: 6, Minor: 18})

// fresh is the timeout of an entry that has just seen a packet.
func fresh(p ct.Proto, s ct.State, st ct.Status) uint32 {
	if k, ok := ct.StateTimeout(p, s, st); ok {
		if seconds, ok := defaultTimeouts.Get(k); ok {
			return uint32(seconds)
		}
	}
	return 120
}
