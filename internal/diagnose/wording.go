package diagnose

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// num prints an integer with commas: 262,144.
func num[T ~int | ~int64 | ~uint32 | ~uint64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	neg := ""
	if s[0] == '-' {
		neg, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return neg + s
}

// pct prints a share: "71 %", "0.4 %", "over 99 %".
func pct(x float64) string {
	p := x * 100
	switch {
	case p <= 0:
		return "0 %"
	case p < 0.1:
		return "under 0.1 %"
	case p < 9.95:
		return strconv.FormatFloat(p, 'f', 1, 64) + " %"
	case p > 99 && p < 100:
		return "over 99 %"
	}
	return strconv.FormatFloat(math.Round(p), 'f', 0, 64) + " %"
}

// rate prints entries or packets a second: "31,200/s", "0.5/s".
func rate(x float64) string {
	if math.Abs(x) < 10 {
		return strconv.FormatFloat(x, 'f', 1, 64) + "/s"
	}
	return num(int64(math.Round(x))) + "/s"
}

// byteSize prints a size: "96 MiB".
func byteSize(n int64) string {
	const kib = 1024
	switch {
	case n >= 10*kib*kib*kib:
		return num(n/(kib*kib*kib)) + " GiB"
	case n >= kib*kib*kib:
		return fmt.Sprintf("%.1f GiB", float64(n)/(kib*kib*kib))
	case n >= kib*kib:
		return num(n/(kib*kib)) + " MiB"
	}
	return num(n/kib) + " KiB"
}

// span prints a duration in the words of a tired person: "about 4 min".
func span(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return strconv.FormatFloat(math.Round(d.Seconds()*10)/10, 'f', -1, 64) + " s"
	case d < 90*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// count prints a number with its noun: "1 packet", "2,000 packets".
func count[T ~int | ~int64 | ~uint64](n T, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return num(n) + " " + noun + "s"
}

// sentence gives a text its capital letter, unless it begins with a key.
func sentence(s string) string {
	if s == "" || strings.HasPrefix(s, "net.") || strings.HasPrefix(s, "nf_") {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// lowered undoes sentence.
func lowered(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// plural is count for nouns that do more than take an s.
func plural[T ~int | ~int64 | ~uint64](n T, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return num(n) + " " + many
}
