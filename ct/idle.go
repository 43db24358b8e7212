package ct

import "time"

// IdleMin returns the least time for which an entry can have been idle, seen
// from what is left of its timeout. ok is false where nothing can be said.
//
// "Configured minus left" is not the idle time: an entry whose data waits for
// an acknowledgement, that retransmits, shows a zero window or has seen a
// reset carries a smaller timeout than its state's, and the busiest transfer
// would look days old. So every timeout that can apply to the entry and is not
// below what is left is a candidate, and the one that gives the least idle
// time counts. t must be the timeouts that were in force when the entry's last
// packet passed; if they were changed since, or if a timeout policy may apply
// to the entry, the caller must treat the result as unknown.
func IdleMin(f *Flow, t *Timeouts) (idle time.Duration, ok bool) {
	if !f.Has(HasTimeout) || f.Offloaded() || f.Status.Any(StatusFixedTimeout|StatusDying) {
		return 0, false
	}
	var c candidates
	c.collect(f, t)
	// Seconds are truncated: 119 may be a fresh 120, so what is left is taken
	// as one second more, never making an entry look idler than it is.
	left := int64(f.TimeoutSeconds) + 1
	best := int64(-1)
	for _, s := range c.seconds[:c.n] {
		d := s - left
		if d == -1 {
			d = 0
		}
		if d >= 0 && (best < 0 || d < best) {
			best = d
		}
	}
	if best < 0 {
		return 0, false
	}
	return time.Duration(best) * time.Second, true
}

// IdleTimeouts appends to dst the timeouts, in seconds, that IdleMin weighs for
// an entry of f's protocol, state and status, at most eight. They are the same
// for all entries of one class.
func IdleTimeouts(dst []int64, f *Flow, t *Timeouts) []int64 {
	var c candidates
	c.collect(f, t)
	return append(dst, c.seconds[:c.n]...)
}

type candidates struct {
	seconds [8]int64
	n       int
}

func (c *candidates) add(s int64) {
	c.seconds[c.n] = s
	c.n++
}

func (c *candidates) addKey(t *Timeouts, k TimeoutKey) {
	if s, ok := t.Get(k); ok {
		c.add(int64(s))
	}
}

func (c *candidates) collect(f *Flow, t *Timeouts) {
	p := f.Orig.Proto
	if p.HasState() && !f.Has(HasProtoInfo) {
		return
	}
	switch p {
	case UDP:
		c.addKey(t, TimeoutUDP)
		c.addKey(t, TimeoutUDPStream)
		return
	case UDPLite:
		k, stream := TimeoutUDPLite, TimeoutUDPLiteStream
		if _, own := t.Get(k); !own {
			k, stream = TimeoutUDP, TimeoutUDPStream
		}
		c.addKey(t, k)
		c.addKey(t, stream)
		return
	case GRE:
		// Copied into the entry at its creation: later sysctl writes never
		// reach it, so today's values say nothing certain.
		return
	case TCP:
		if f.State == TCPSynSent2 {
			c.add(120)
		}
		c.addKey(t, TimeoutTCPUnacknowledged)
		c.addKey(t, TimeoutTCPMaxRetrans)
		c.addKey(t, TimeoutTCPClose)
	}
	if k, ok := StateTimeout(p, f.State, f.Status); ok {
		c.addKey(t, k)
	}
}
