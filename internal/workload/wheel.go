package workload

import "github.com/ctwarden/ctwarden/sim"

// The wheel keeps one pending event for each connection, in three levels of
// slots: a thirty-second of a millisecond, an eighth of a second, about nine
// minutes. Within a tick events come in no particular order. Whoever comes first in
// a tick takes what became free in the one before where the table is full, so ticks
// are short.
const (
	tick       = sim.Time(1e6) / flushTicks
	flushTicks = 32 // the longest that a verdict may take
	slotBits   = 12
	slots      = 1 << slotBits
	wheelLevel = 3
)

const none = int32(-1)

type wheel struct {
	now  int64 // in ticks; everything due before has been taken
	head [wheelLevel][slots]int32
	n    int
	// next links the connections of a slot: apart from them, since a walk along
	// the list need not wait for theirs.
	next []int32
}

func newWheel() *wheel {
	w := &wheel{}
	for l := range w.head {
		for s := range w.head[l] {
			w.head[l][s] = none
		}
	}
	return w
}

// add files a connection under its due time.
func (w *wheel) add(conns []conn, id int32) {
	due := max(int64(conns[id].due/tick), w.now)
	w.put(conns, id, due)
	w.n++
}

func (w *wheel) put(conns []conn, id int32, due int64) {
	level, d := 0, due-w.now
	for level < wheelLevel-1 && d >= 1<<(slotBits*(level+1)) {
		level++
	}
	if level == wheelLevel-1 && d >= 1<<(slotBits*wheelLevel) {
		due = w.now + 1<<(slotBits*wheelLevel) - 1
	}
	slot := due >> (slotBits * level) & (slots - 1)
	w.next[id] = w.head[level][slot]
	w.head[level][slot] = id
}

// take returns the connections of the current tick as a list linked by next,
// and moves on to the next tick.
func (w *wheel) take(conns []conn) int32 {
	slot := w.now & (slots - 1)
	if slot == 0 {
		w.cascade(conns, 1)
	}
	list := w.head[0][slot]
	w.head[0][slot] = none
	w.now++
	return list
}

// cascade brings the slot of a coarser level that begins now down to finer
// ones.
func (w *wheel) cascade(conns []conn, level int) {
	if level >= wheelLevel {
		return
	}
	slot := w.now >> (slotBits * level) & (slots - 1)
	if slot == 0 {
		w.cascade(conns, level+1)
	}
	id := w.head[level][slot]
	w.head[level][slot] = none
	for id != none {
		next := w.next[id]
		w.put(conns, id, max(int64(conns[id].due/tick), w.now))
		id = next
	}
}
