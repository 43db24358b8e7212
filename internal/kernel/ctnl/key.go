package ctnl

import (
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
)

// Key names one entry for a change or a deletion. Keys come from entries that
// were read, by KeyOf, and from nowhere else: so each holds a valid tuple and
// an id, and a deletion made from one can never be the message without a
// tuple that empties the table. The zero Key is refused everywhere.
type Key struct {
	orig     ct.Tuple
	id       uint32
	zone     uint16 // of both directions
	zoneOrig uint16 // of the original direction alone
	status   ct.Status
	keyed    bool
}

// KeyOf returns the key of an entry that was read. It fails for a Flow that
// was not, one without id or tuple.
func KeyOf(f *ct.Flow) (Key, error) {
	if !f.Orig.IsValid() || !f.Has(ct.HasID) {
		return Key{}, fmt.Errorf("entry %q has no tuple or no id to be named by", f.Orig)
	}
	return Key{orig: f.Orig, id: f.ID, zone: f.Zone, zoneOrig: f.ZoneOrig,
		status: f.Status, keyed: true}, nil
}

// Orig returns the entry's original tuple.
func (k Key) Orig() ct.Tuple { return k.orig }

// ID returns the entry's id.
func (k Key) ID() uint32 { return k.id }

// names appends what finds the entry: the original tuple with its zone. The
// default zone goes without saying, because kernels without zones refuse to
// hear of any.
func (e *encoder) names(k *Key) {
	e.tuple(ctaTupleOrig, k.orig, k.zoneOrig)
	if k.zone != 0 {
		e.u16(ctaZone, k.zone)
	}
}
