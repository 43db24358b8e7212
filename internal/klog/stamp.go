package klog

import (
	"bytes"
	"strings"
	"time"
)

// stamp is a line's time as it is written: the clock's reading, the zone if
// there is one, and the kernel's own clock.
type stamp struct {
	form stampForm
	// unix is the instant of a formInstant, in nanoseconds.
	unix int64
	// The reading of a clock on the wall; year is 0 in a formYearless.
	year, day, hour, minute, second int
	month                           time.Month
	nanos                           int64
	// mono is the kernel's clock, nanoseconds since it started.
	mono    int64
	hasMono bool
}

type stampForm uint8

const (
	formNone     stampForm = iota
	formInstant            // with a zone, or seconds since 1970
	formWall               // date and time of an unnamed zone
	formYearless           // RFC 3164
)

// parseStamp reads the timestamp of any syslog, journal or dmesg format off
// the front of the line, together with the blanks after it.
func (c *cursor) parseStamp() (s stamp, ok bool) {
	start := *c
	switch b := c.peek(); {
	case b == '[':
		ok = c.bracketed(&s)
	case isDigit(b):
		if ok = c.iso(&s); !ok {
			*c = start
			ok = c.unixSeconds(&s)
		}
	case b >= 'A' && b <= 'Z':
		ok = c.named(&s)
	}
	if !ok || s.form != formInstant && s.form != formNone && !s.valid() {
		*c = start
		return stamp{}, false
	}
	c.blanks()
	return s, true
}

// bracketed reads "[   12.345678]", "[12.345678 <    0.000012>]",
// "[Sat Nov 22 10:00:00 2025]", "[Nov22 10:00]" and "[  +0.000012]".
func (c *cursor) bracketed(s *stamp) bool {
	c.literal("[")
	c.blanks()
	if c.literal("+") {
		_, ok := c.number(1, 12)
		c.fraction()
		return ok && c.literal("]")
	}
	if isDigit(c.peek()) {
		if !c.monotonic(s) {
			return false
		}
		if c.blanks(); c.literal("<") {
			end := bytes.IndexByte(c.s, ']')
			if end < 0 || end > 40 {
				return false
			}
			c.s = c.s[end:]
		}
		return c.literal("]")
	}
	return c.named(s) && c.literal("]")
}

// monotonic reads seconds and microseconds of the kernel's clock.
func (c *cursor) monotonic(s *stamp) bool {
	sec, ok := c.number(1, 9)
	if !ok || c.peek() != '.' {
		return false
	}
	s.mono, s.hasMono = sec*1e9+c.fraction(), true
	return true
}

// unixSeconds reads "1763805600.123456", journalctl's short-unix.
func (c *cursor) unixSeconds(s *stamp) bool {
	sec, ok := c.number(9, 10)
	if !ok || c.peek() != '.' {
		return false
	}
	s.form, s.unix = formInstant, sec*1e9+c.fraction()
	return c.peek() == ' '
}

// iso reads a date and time of ISO 8601 or RFC 3339, with T or a blank, and
// with or without a zone.
func (c *cursor) iso(s *stamp) bool {
	y, ok1 := c.number(4, 4)
	ok2 := c.literal("-")
	m, ok3 := c.number(2, 2)
	ok4 := c.literal("-")
	d, ok5 := c.number(2, 2)
	if !(ok1 && ok2 && ok3 && ok4 && ok5) || !c.oneOf("Tt ") || !c.clock(s) {
		return false
	}
	s.year, s.month, s.day, s.form = int(y), time.Month(m), int(d), formWall
	if off, ok := c.zone(); ok && s.valid() {
		s.instant(off)
	}
	return true
}

// named reads formats that begin with the name of a day or month:
// "Nov 22 10:00:00", "Nov 22 2025 10:00:00", "Sat Nov 22 10:00:00 2025",
// "Sat Nov 22 10:00:00 UTC 2025", "Sat 2025-11-22 10:00:00 UTC" and
// "Nov22 10:00".
func (c *cursor) named(s *stamp) bool {
	if c.weekday() {
		c.literal(",")
		if !c.blanks() {
			return false
		}
		if isDigit(c.peek()) {
			return c.iso(s) && c.trailingZone(s)
		}
	}
	m, ok := c.monthName()
	if !ok {
		return false
	}
	spaced := c.blanks()
	d, ok := c.number(1, 2)
	if !ok || !c.blanks() {
		return false
	}
	s.month, s.day, s.form = m, int(d), formYearless
	if !spaced { // dmesg --time-format reltime has no seconds
		h, ok1 := c.number(2, 2)
		ok2 := c.literal(":")
		min, ok3 := c.number(2, 2)
		s.hour, s.minute = int(h), int(min)
		return ok1 && ok2 && ok3
	}
	if y, ok := c.year(); ok {
		s.year, s.form = y, formWall
	}
	if !c.clock(s) {
		return false
	}
	if s.form == formYearless {
		c.trailingYear(s)
	}
	return true
}

// year reads four digits that a blank follows.
func (c *cursor) year() (int, bool) {
	start := *c
	if y, ok := c.number(4, 4); ok && y >= 1970 && c.blanks() {
		return int(y), true
	}
	*c = start
	return 0, false
}

// trailingYear reads what ctime and date append: " 2025" or " UTC 2025".
func (c *cursor) trailingYear(s *stamp) {
	start := *c
	c.blanks()
	off, zoned := c.zoneName()
	if zoned {
		c.blanks()
	}
	y, ok := c.number(4, 4)
	if b := c.peek(); !ok || y < 1970 || y > 2200 || b != 0 && b != ' ' && b != ']' {
		*c = start
		return
	}
	s.year, s.form = int(y), formWall
	if zoned && s.valid() {
		s.instant(off)
	}
}

// trailingZone reads the zone of journalctl's short-full: UTC and offsets are
// known, the letters of any other zone are ambiguous and count as none.
func (c *cursor) trailingZone(s *stamp) bool {
	if s.form != formWall {
		return true
	}
	c.blanks()
	if off, ok := c.zoneName(); ok {
		if s.valid() {
			s.instant(off)
		}
		return true
	}
	w := c.word()
	return len(w) >= 2 && len(w) <= 6 && bytes.Equal(bytes.ToUpper(w), w) && !isDigit(w[0])
}

// clock reads "10:00:00" and a fraction. A leap second reads as 59.
func (c *cursor) clock(s *stamp) bool {
	h, ok1 := c.number(1, 2)
	ok2 := c.literal(":")
	m, ok3 := c.number(2, 2)
	ok4 := c.literal(":")
	sec, ok5 := c.number(2, 2)
	s.hour, s.minute, s.second = int(h), int(m), int(min(sec, 59))
	s.nanos = c.fraction()
	return ok1 && ok2 && ok3 && ok4 && ok5 && sec <= 60
}

// zone reads what may follow an ISO time at once: "Z", "+01:00", "+0100".
func (c *cursor) zone() (offset time.Duration, ok bool) {
	if c.literal("Z") || c.literal("z") {
		return 0, true
	}
	start := *c
	sign := time.Duration(1)
	switch {
	case c.literal("-"):
		sign = -1
	case !c.literal("+"):
		return 0, false
	}
	h, ok1 := c.number(2, 2)
	c.literal(":")
	m, ok2 := c.number(2, 2)
	if !ok1 || h > 23 || m > 59 {
		*c = start
		return 0, false
	}
	if !ok2 {
		m = 0
	}
	return sign * (time.Duration(h)*time.Hour + time.Duration(m)*time.Minute), true
}

// zoneName reads UTC, GMT or a numeric offset as a word of its own.
func (c *cursor) zoneName() (time.Duration, bool) {
	start := *c
	off, ok := time.Duration(0), c.literal("UTC") || c.literal("GMT")
	if !ok {
		off, ok = c.zone()
	}
	if b := c.peek(); !ok || b != 0 && b != ' ' && b != ']' {
		*c = start
		return 0, false
	}
	return off, true
}

const (
	monthNames   = "JanFebMarAprMayJunJulAugSepOctNovDec"
	weekdayNames = "MonTueWedThuFriSatSun"
)

func (c *cursor) weekday() bool {
	if len(c.s) < 4 || c.s[3] != ' ' && c.s[3] != ',' {
		return false
	}
	if i := strings.Index(weekdayNames, string(c.s[:3])); i < 0 || i%3 != 0 {
		return false
	}
	c.s = c.s[3:]
	return true
}

func (c *cursor) monthName() (time.Month, bool) {
	if len(c.s) < 3 {
		return 0, false
	}
	i := strings.Index(monthNames, string(c.s[:3]))
	if i < 0 || i%3 != 0 {
		return 0, false
	}
	c.s = c.s[3:]
	return time.Month(i/3 + 1), true
}

// valid reports whether the reading can be one: a leap day needs a leap year.
func (s *stamp) valid() bool {
	y := s.year
	if s.form == formYearless {
		y = 2000
	}
	return s.month >= 1 && s.month <= 12 && s.day >= 1 && s.day <= daysIn(s.month, y) &&
		s.hour <= 23 && s.minute <= 59 && s.second <= 59 && y >= 1970 && y <= 2200
}

func (s *stamp) instant(offset time.Duration) {
	t := time.Date(s.year, s.month, s.day, s.hour, s.minute, s.second, int(s.nanos), time.UTC)
	s.form, s.unix = formInstant, t.Add(-offset).UnixNano()
}

func daysIn(m time.Month, year int) int {
	return time.Date(year, m+1, 0, 0, 0, 0, 0, time.UTC).Day()
}
