package klog

import "bytes"

// cursor reads a line from left to right. Every method either succeeds and
// moves on, or fails and leaves the cursor where it was.
type cursor struct{ s []byte }

func (c *cursor) literal(lit string) bool {
	if len(c.s) >= len(lit) && string(c.s[:len(lit)]) == lit {
		c.s = c.s[len(lit):]
		return true
	}
	return false
}

func (c *cursor) oneOf(set string) bool {
	if len(c.s) > 0 && bytes.IndexByte([]byte(set), c.s[0]) >= 0 {
		c.s = c.s[1:]
		return true
	}
	return false
}

// blanks skips any number of blanks and reports whether there was one.
func (c *cursor) blanks() bool {
	t := bytes.TrimLeft(c.s, " \t")
	skipped := len(t) < len(c.s)
	c.s = t
	return skipped
}

// number reads a decimal number of least to most digits, most at most 18.
func (c *cursor) number(least, most int) (n int64, ok bool) {
	i := 0
	for i < len(c.s) && i < most && c.s[i] >= '0' && c.s[i] <= '9' {
		n = n*10 + int64(c.s[i]-'0')
		i++
	}
	if i < least || i == 0 {
		return 0, false
	}
	c.s = c.s[i:]
	return n, true
}

// fraction reads ".123456" or ",123456" as nanoseconds; none is zero.
func (c *cursor) fraction() int64 {
	if len(c.s) < 2 || c.s[0] != '.' && c.s[0] != ',' || !isDigit(c.s[1]) {
		return 0
	}
	i, n, scale := 1, int64(0), int64(1e9)
	for ; i < len(c.s) && isDigit(c.s[i]); i++ {
		if scale > 1 {
			scale /= 10
			n += int64(c.s[i]-'0') * scale
		}
	}
	c.s = c.s[i:]
	return n
}

// word reads up to the next blank, at most 255 bytes, and the blanks after it.
func (c *cursor) word() []byte {
	i := bytes.IndexAny(c.s, " \t")
	if i <= 0 || i > 255 {
		return nil
	}
	w := c.s[:i]
	c.s = bytes.TrimLeft(c.s[i:], " \t")
	return w
}

// peek returns the next byte, 0 at the end.
func (c *cursor) peek() byte {
	if len(c.s) == 0 {
		return 0
	}
	return c.s[0]
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }
