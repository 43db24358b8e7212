package sim

import "github.com/ctwarden/ctwarden/ct"

// earlyDrop searches the buckets from the new flow's on, and destroys all the
// eligible entries of the first bucket that has any (early_drop).
func (t *Table) earlyDrop(h uint32) bool {
	b := t.bucket(h)
	for range t.rules.evictBuckets {
		if n := t.evictBucket(b); n > 0 {
			t.counters.EarlyDrop += n
			return true
		}
		if b++; int(b) == len(t.heads) {
			b = 0
		}
	}
	return false
}

func (t *Table) evictBucket(b uint32) (n uint32) {
	for l := t.heads[b]; l != 0; {
		e := &t.entries[l>>1]
		switch {
		case e.expired(t.jiffies):
			l = t.reap(l)
		case e.has(ct.StatusAssured):
			l = e.next[l&1]
		default:
			l = t.evict(l, CauseEarlyDrop)
			n++
		}
	}
	return n
}

// evict destroys the entry of a link and returns the link after it.
func (t *Table) evict(l int32, cause Cause) int32 {
	e := &t.entries[l>>1]
	next := e.next[l&1]
	if next != 0 && next>>1 == l>>1 {
		next = e.next[next&1]
	}
	t.destroy(l>>1, cause)
	return next
}
