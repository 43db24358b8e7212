// Package flowdiff tells what changed between one reading of the table and the
// next: a way to watch that costs the kernel no events. What comes and goes
// between two readings is not seen.
package flowdiff

import (
	"math"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowrec"
)

// Change is what a reading shows of an entry.
type Change uint8

// Changes.
const (
	None    Change = iota
	New            // it was not there in the last reading
	Updated        // its state, status or mark differs
	Gone           // it is no longer there
)

// reading holds the entries of one reading: 80 bytes or so each.
type reading struct {
	records []byte
	entries []entry
	byID    map[uint32]int32 // the newest entry of an id; older ones follow by next
}

type entry struct {
	at   uint32
	next int32 // position + 1 of another entry with the same id, 0 for none
	seen bool  // in the following reading
}

// Diff compares readings. Begin each with Begin, show it every entry with See,
// and end it with End. The first reading tells no changes. The zero Diff is
// ready for use.
type Diff struct {
	last, now *reading
	first     bool
}

// Begin starts a reading.
func (d *Diff) Begin() {
	d.last, d.first = d.now, d.now == nil
	size := 0
	if d.last != nil {
		size = len(d.last.entries)
	}
	d.now = &reading{byID: make(map[uint32]int32, size)}
}

// See takes an entry of the reading and returns what is new about it.
func (d *Diff) See(f *ct.Flow) Change {
	d.now.add(f)
	if d.first {
		return None
	}
	old, e := d.last.find(f)
	if e == nil {
		return New
	}
	e.seen = true
	if old.State != f.State || old.Status != f.Status || old.Mark != f.Mark {
		return Updated
	}
	return None
}

// End calls gone with every entry of the last reading that this one did not
// show.
func (d *Diff) End(gone func(*ct.Flow) error) error {
	if d.first {
		return nil
	}
	for i := range d.last.entries {
		if d.last.entries[i].seen {
			continue
		}
		rec := d.last.read(int32(i))
		f := rec.Flow()
		if err := gone(&f); err != nil {
			return err
		}
	}
	d.last = nil
	return nil
}

// Len returns how many entries the latest reading has shown.
func (d *Diff) Len() int {
	if d.now == nil {
		return 0
	}
	return len(d.now.entries)
}

// add keeps an entry; beyond 4 GiB of them, some 40 to 80 million, the rest is
// not compared.
func (r *reading) add(f *ct.Flow) {
	if len(r.records) > math.MaxUint32-256 {
		return
	}
	e := entry{at: uint32(len(r.records)), next: r.byID[f.ID]}
	rec := flowrec.Of(f)
	r.records = flowrec.Append(r.records, &rec)
	r.entries = append(r.entries, e)
	r.byID[f.ID] = int32(len(r.entries))
}

func (r *reading) read(i int32) flowrec.Entry {
	rec, _, _, _ := flowrec.Next(r.records[r.entries[i].at:]) // written by add
	return rec
}

// find returns an entry by id and tuple, nil if there is none.
func (r *reading) find(f *ct.Flow) (flowrec.Entry, *entry) {
	for i := r.byID[f.ID]; i != 0; i = r.entries[i-1].next {
		if rec := r.read(i - 1); rec.Orig == f.Orig {
			return rec, &r.entries[i-1]
		}
	}
	return flowrec.Entry{}, nil
}
