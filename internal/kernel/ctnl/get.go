package ctnl

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
)

// Get reads the entry that has this tuple in either direction, in this zone, 0
// being the default one, into f. ErrNotFound if there is none.
func (c *Conn) Get(t ct.Tuple, zone uint16, f *ct.Flow) error {
	if !t.IsValid() {
		return fmt.Errorf("get entry %q: not a tuple", t)
	}
	return c.get(t, zone, 0, f)
}

// Reread reads the entry that k names as it is now. ErrNotFound if it has gone,
// even if another entry with its tuple has come since.
func (c *Conn) Reread(k Key, f *ct.Flow) error {
	if !k.valid() {
		return errNoKey
	}
	if err := c.get(k.Orig(), k.zone, k.zoneOrig, f); err != nil {
		return err
	}
	if f.ID != k.id {
		return fmt.Errorf("get entry %q: %w", k.Orig(), ErrNotFound)
	}
	return nil
}

func (c *Conn) get(t ct.Tuple, zone, zoneOrig uint16, f *ct.Flow) error {
	if err := c.ready(); err != nil {
		return err
	}
	seq := c.nextSeq(1)
	e := encoder{c.out[:0]}
	start := e.begin(subsysCT, ctGet, 0, seq, family(t))
	e.names(t, zone, zoneOrig)
	e.end(start)
	c.out = e.b
	if err := c.send(e.b); err != nil {
		return err
	}
	c.dec.unknown = nil
	err := c.answers(seq, func(m message) error {
		a, _, err := m.attrs()
		if err != nil {
			return err
		}
		if err := c.dec.entry(a, f); err != nil {
			return err
		}
		return errEnd
	})
	if err != nil {
		return fmt.Errorf("get entry %q: %w", t, err)
	}
	return nil
}
