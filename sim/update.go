package sim

import "github.com/ctwarden/ctwarden/ct"

// SetTimeout gives a confirmed entry a timeout that runs from now, as a
// ctnetlink update does (ctnetlink_change_timeout): the entry's next packet
// sets it anew. It reports whether there is such an entry; one with a fixed
// timeout is left alone, as from 6.0 on.
func (t *Table) SetTimeout(id ID, seconds uint32) bool {
	if id <= 0 || int(id) >= len(t.entries) {
		return false
	}
	e := &t.entries[id]
	if !e.has(ct.StatusConfirmed) || e.has(ct.StatusFixedTimeout) {
		return false
	}
	t.setDeadline(e, seconds*uint32(t.knobs.HZ))
	return true
}
