package ctnl

import (
	"bytes"
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
)

const expGet = 1 // IPCTNL_MSG_EXP_GET

// Attributes of an expectation, enum ctattr_expect.
const (
	ctaExpectMaster   = 1
	ctaExpectTuple    = 2
	ctaExpectMask     = 3
	ctaExpectTimeout  = 4
	ctaExpectID       = 5
	ctaExpectHelpName = 6
	ctaExpectZone     = 7
	ctaExpectFlags    = 8
	ctaExpectClass    = 9
	ctaExpectNAT      = 10
	ctaExpectFn       = 11

	ctaExpectNATDir   = 1
	ctaExpectNATTuple = 2
)

// Expectations reads the flows that helpers expect.
func (c *Conn) Expectations() ([]ct.Expectation, error) {
	var all []ct.Expectation
	err := c.request(subsysExpect, expGet, flagDump, func(m message) error {
		a, _, err := m.attrs()
		if err != nil {
			return err
		}
		all = append(all, ct.Expectation{})
		return c.dec.expectation(a, &all[len(all)-1])
	})
	if err != nil {
		return nil, fmt.Errorf("read expectations: %w", err)
	}
	return all, nil
}

// expectation decodes an expectation into x. Unknown attributes are passed
// over.
func (d *decoder) expectation(b attrs, x *ct.Expectation) error {
	*x = ct.Expectation{}
	for {
		a, rest, more := b.next()
		if !more {
			break
		}
		b = rest
		d.expectAttr(a, x)
	}
	if !b.intact() {
		return fmt.Errorf("%w: attributes do not fill it", ErrMalformed)
	}
	if !x.Tuple.IsValid() {
		return fmt.Errorf("%w: expectation without tuple", ErrMalformed)
	}
	return nil
}

func (d *decoder) expectAttr(a attr, x *ct.Expectation) {
	var none ct.Flow // takes the marks of unknown attributes
	var zone uint16
	switch a.typ {
	case ctaExpectMaster:
		d.tuple(a, &none, &x.Master, &zone)
	case ctaExpectTuple:
		d.tuple(a, &none, &x.Tuple, &zone)
	case ctaExpectMask:
		d.tuple(a, &none, &x.Mask, &zone)
	case ctaExpectTimeout:
		x.TimeoutSeconds, _ = a.u32()
	case ctaExpectID:
		x.ID, _ = a.u32()
	case ctaExpectHelpName:
		x.Helper = d.names.get(bytes.TrimRight(a.val, "\x00"))
	case ctaExpectZone:
		x.Zone, _ = a.u16()
	case ctaExpectFlags:
		v, _ := a.u32()
		x.Flags = ct.ExpectFlags(v)
	case ctaExpectClass:
		x.Class, _ = a.u32()
	case ctaExpectNAT:
		d.expectNAT(a, x)
	case ctaExpectFn:
		x.Func = d.names.get(bytes.TrimRight(a.val, "\x00"))
	}
}

func (d *decoder) expectNAT(a attr, x *ct.Expectation) {
	x.NAT = true
	var none ct.Flow
	var zone uint16
	for sub := range attrs(a.val).all {
		switch sub.typ {
		case ctaExpectNATDir:
			v, _ := sub.u32()
			x.NATReply = v != 0
		case ctaExpectNATTuple:
			d.tuple(sub, &none, &x.NATTuple, &zone)
		}
	}
}
