package owners

import (
	"math"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// kernelNumber reads a value as the kernel does (proc_get_long of
// kernel/sysctl.c): blanks, a minus, decimal, 0x or octal digits, and then
// nothing or a blank; whatever follows the blank is not looked at.
func kernelNumber(s string) (n int64, ok bool) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	s, negative := strings.CutPrefix(s, "-")
	base := 10
	if len(s) > 1 && s[0] == '0' {
		base = 8
		if len(s) > 2 && s[1]|0x20 == 'x' {
			base, s = 16, s[2:]
		}
	}
	end := strings.IndexAny(s, " \t\n")
	if end < 0 {
		end = len(s)
	}
	if strings.ContainsAny(s[:end], "+-_") {
		return 0, false
	}
	n, err := strconv.ParseInt(s[:end], base, 64)
	if err != nil {
		return 0, false
	}
	if negative {
		n = -n
	}
	return n, true
}

// Ranges of the keys that are no timeouts, where the kernel has one. The flags
// became bytes with a range in 5.13 (proc_dou8vec_minmax); before, any int goes.
var byteRange = map[string]int64{
	"acct": 1, "checksum": 1, "events": 2, "log_invalid": 255, "tcp_be_liberal": 1, "tcp_ignore_invalid_rst": 1,
	"tcp_loose": 1, "tcp_max_retrans": 255, "timestamp": 1,
}

// accepts reports whether the kernel takes a number for a key. A timeout is
// kept in ticks, at most INT_MAX of them: with the coarsest clock, 100 Hz,
// that is 21,474,836 s, and how much less is not known here.
func accepts(key string, n int64, v ct.KernelVersion) bool {
	short := strings.TrimPrefix(key, prefix)
	if limit, ok := byteRange[short]; ok && (v.IsZero() || v.AtLeast(5, 13)) {
		return n >= 0 && n <= limit
	}
	switch {
	case strings.Contains(short, "_timeout"):
		return n <= math.MaxInt32/100 && n >= -math.MaxInt32/100
	case short == "max" && (v.IsZero() || v.AtLeast(6, 17)), short == "expect_max":
		return n >= 0 && n <= math.MaxInt32
	case strings.HasSuffix(short, "_thresh"): // a long
		return n >= 0
	case short == "buckets":
		return n > 0 && n <= math.MaxInt32/8
	}
	return n >= math.MinInt32 && n <= math.MaxInt32
}

func number(s string) int64 {
	n, _ := kernelNumber(s)
	return n
}

// plain is the value as the kernel shows it after it was written.
func plain(s string) string {
	if n, ok := kernelNumber(s); ok {
		return strconv.FormatInt(n, 10)
	}
	return s
}
