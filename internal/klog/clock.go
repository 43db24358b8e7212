package klog

import "time"

// axis is what the positions of a series of lines count.
type axis uint8

const (
	axisUnix     axis = iota // nanoseconds since 1970
	axisYearless             // nanoseconds since an unknown New Year, laps of 366 days
	axisFold                 // the same, in an hour that the clock shows a second time
	axisMono                 // nanoseconds since the kernel started
	axisOrder                // lines of the source
)

const (
	day    = int64(24 * time.Hour)
	lapLen = 366 * day
	// maxLaps bounds the New Years in one source; what passes more is noise.
	maxLaps = 64
)

// clock turns the stamps of one source, in their order, into positions, and
// knows the years only at the end: a stamp without one that lies before its
// predecessor has passed a New Year, and the last of them is no later than the
// source's last change.
type clock struct {
	loc    *time.Location
	anchor time.Time // no line is later; zero is unknown

	lap      int64
	last     int64 // last yearless position
	any      bool  // there was one
	foldTo   int64 // end of a second pass through the same hour
	leapDay  [maxLaps + 1]bool
	lastWall int64 // last instant made from a time without zone
	order    int64
}

// place returns where a stamp lies.
func (k *clock) place(s *stamp) (axis, int64) {
	k.order++
	switch s.form {
	case formInstant:
		return axisUnix, s.unix
	case formWall:
		k.lastWall = k.resolve(s.year, s, k.lastWall)
		return axisUnix, k.lastWall
	case formYearless:
		return k.yearless(s)
	}
	if s.hasMono {
		return axisMono, s.mono
	}
	return axisOrder, k.order
}

func (k *clock) yearless(s *stamp) (axis, int64) {
	t := time.Date(2000, s.month, s.day, s.hour, s.minute, s.second, int(s.nanos), time.UTC)
	within := t.UnixNano() - newYear2000
	pos := k.lap*lapLen + within
	if k.any && pos < k.last-day && k.lap < maxLaps {
		k.lap++
		pos += lapLen
	}
	if back := k.last - pos; k.any && back > int64(20*time.Minute) && back < int64(70*time.Minute) {
		k.foldTo = k.last
	}
	k.leapDay[k.lap] = k.leapDay[k.lap] || s.month == time.February && s.day == 29
	k.any, k.last = true, pos
	if pos <= k.foldTo {
		return axisFold, pos
	}
	return axisYearless, pos
}

var newYear2000 = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()

// years returns the year of each lap, or nil if nothing anchors them.
func (k *clock) years() []int {
	if k.anchor.IsZero() || !k.any {
		return nil
	}
	limit := k.anchor.Add(24 * time.Hour)
	y := limit.In(k.loc).Year()
	if k.instant(axisYearless, k.last, y) > limit.UnixNano() {
		y--
	}
	years := make([]int, k.lap+1)
	for lap := k.lap; lap >= 0; lap-- {
		for k.leapDay[lap] && daysIn(time.February, y) != 29 {
			y--
		}
		years[lap] = y
		y--
	}
	return years
}

// instant turns a yearless position into nanoseconds since 1970.
func (k *clock) instant(a axis, pos int64, year int) int64 {
	t := time.Unix(0, newYear2000+pos%lapLen).UTC()
	s := stamp{month: t.Month(), day: t.Day(), hour: t.Hour(), minute: t.Minute(),
		second: t.Second(), nanos: int64(t.Nanosecond())}
	after := int64(0)
	if a == axisFold {
		after = 1 << 62
	}
	return k.resolve(year, &s, after)
}

// resolve reads a clock on the wall. Where it shows the time twice, in the
// hour when summer time ends, the first that is not before after counts.
func (k *clock) resolve(year int, s *stamp, after int64) int64 {
	t := time.Date(year, s.month, s.day, s.hour, s.minute, s.second, int(s.nanos), k.loc)
	first, second := t, t
	for _, d := range []time.Duration{30 * time.Minute, time.Hour} {
		if sameWall(t, t.Add(-d)) {
			first = t.Add(-d)
		}
		if sameWall(t, t.Add(d)) {
			second = t.Add(d)
		}
	}
	if first.UnixNano() < after-int64(5*time.Second) {
		return second.UnixNano()
	}
	return first.UnixNano()
}

func sameWall(a, b time.Time) bool {
	return a.Hour() == b.Hour() && a.Minute() == b.Minute() && a.Day() == b.Day()
}
