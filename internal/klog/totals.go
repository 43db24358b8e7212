package klog

// sharedBefore reports whether an earlier episode of the same kind and host
// overlaps episode i in time and thereby carries the same suppressed lines.
func (r *Report) sharedBefore(i int) bool {
	e := &r.Episodes[i]
	for j := range i {
		o := &r.Episodes[j]
		if o.Kind != e.Kind || o.Host != e.Host || o.TimeKnown != e.TimeKnown || o.Suppressed == 0 {
			continue
		}
		if !e.TimeKnown || !o.End.Before(e.Start) && !e.End.Before(o.Start) {
			return true
		}
	}
	return false
}
