package guard

import "slices"

// Unfinished returns the record, so far, of an incident that is not over; nil if
// there is none.
func (p *Policy) Unfinished() *Incident {
	if p.incident == nil {
		return nil
	}
	rec := p.incident.rec
	rec.Deeds, rec.Proposals = slices.Clone(rec.Deeds), slices.Clone(rec.Proposals)
	if rec.End.IsZero() {
		rec.End = p.last.Wall
		rec.Seconds = (p.last.At - p.incident.at).Seconds()
		rec.Took = p.last.At - p.incident.at
	}
	return &rec
}
