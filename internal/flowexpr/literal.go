package flowexpr

import (
	"errors"
	"net/netip"
	"sort"
	"strings"

	"github.com/expr-lang/expr/file"
)

// quoted is an expression whose bare addresses, prefixes, durations and masked
// marks were put between quotation marks, so that a general parser reads them
// as strings. Their type follows from what they are compared with.
type quoted struct {
	source string
	text   string
	// marks are the places, in characters of text, where a quotation mark was
	// put in.
	marks []int
}

// quoteLiterals finds bare literals outside strings. A literal begins where no
// word goes on and ends where it can grow no further.
func quoteLiterals(source string) *quoted {
	q := &quoted{source: source}
	var out strings.Builder
	runes := []rune(source)
	n := 0 // characters written
	put := func(rs ...rune) {
		for _, r := range rs {
			out.WriteRune(r)
			n++
		}
	}
	inWord := false
	for i := 0; i < len(runes); {
		r := runes[i]
		if end := stringEnd(runes, i); end > i {
			put(runes[i:end]...)
			i, inWord = end, false
			continue
		}
		if !inWord {
			if k := literalLen(runes[i:]); k > 0 {
				q.marks = append(q.marks, n)
				put('"')
				put(runes[i : i+k]...)
				q.marks = append(q.marks, n)
				put('"')
				i += k
				continue
			}
		}
		inWord = isWord(r) && !(r == '.' && i > 0 && runes[i-1] == '.')
		put(r)
		i++
	}
	q.text = out.String()
	return q
}

// column translates a character of the quoted text to a 1-based column of the
// source.
func (q *quoted) column(at int) int {
	return at - sort.SearchInts(q.marks, at) + 1
}

// stringEnd returns the end of the string literal that begins at i, or i.
func stringEnd(rs []rune, i int) int {
	delim := rs[i]
	if delim != '"' && delim != '\'' && delim != '`' {
		return i
	}
	for j := i + 1; j < len(rs); j++ {
		if rs[j] == '\\' && delim != '`' {
			j++
		} else if rs[j] == delim {
			return j + 1
		}
	}
	return len(rs)
}

func isWord(r rune) bool {
	return r == '_' || r == '.' || isAlnum(r) || r > 127
}

func isAlnum(r rune) bool {
	return isDigit(r) || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

func isDigit(r rune) bool { return r >= '0' && r <= '9' }

func isHex(r rune) bool {
	return isDigit(r) || r >= 'a' && r <= 'f' || r >= 'A' && r <= 'F'
}

// maxLiteral is longer than any address, prefix, duration or mark can be.
const maxLiteral = 64

// literalLen returns the length of the literal at the beginning of rs, or 0.
func literalLen(rs []rune) int {
	if len(rs) > maxLiteral {
		rs = rs[:maxLiteral]
	}
	if k := addrLen(rs); k > 0 {
		return k
	}
	if k := markLen(rs); k > 0 {
		return k
	}
	return durationLen(rs)
}

func span(rs []rune, in func(rune) bool) int {
	k := 0
	for k < len(rs) && in(rs[k]) {
		k++
	}
	return k
}

// ends reports whether nothing that could go on with a word follows.
func ends(rs []rune) bool { return len(rs) == 0 || !isWord(rs[0]) }

func addrLen(rs []rune) int {
	k := span(rs, func(r rune) bool { return isHex(r) || r == ':' || r == '.' })
	if k < 2 || !ends(rs[k:]) {
		return 0
	}
	if _, err := netip.ParseAddr(string(rs[:k])); err != nil {
		return 0
	}
	if k+1 < len(rs) && rs[k] == '/' {
		d := span(rs[k+1:], isDigit)
		if d > 0 && ends(rs[k+1+d:]) {
			return k + 1 + d
		}
	}
	return k
}

// markLen finds a mark with its mask, 0x10/0xff: both hexadecimal, since a
// decimal one would be a division.
func markLen(rs []rune) int {
	a := hexLen(rs)
	if a == 0 || a >= len(rs) || rs[a] != '/' {
		return 0
	}
	b := hexLen(rs[a+1:])
	if b == 0 || !ends(rs[a+1+b:]) {
		return 0
	}
	return a + 1 + b
}

func hexLen(rs []rune) int {
	if len(rs) < 3 || rs[0] != '0' || rs[1] != 'x' && rs[1] != 'X' {
		return 0
	}
	if k := span(rs[2:], isHex); k > 0 {
		return k + 2
	}
	return 0
}

// durationLen finds 90s, 1h30m, 2.5d.
func durationLen(rs []rune) int {
	if len(rs) == 0 || !isDigit(rs[0]) {
		return 0
	}
	k := 0
	for k < len(rs) && (isDigit(rs[k]) || rs[k] >= 'a' && rs[k] <= 'z' || isPoint(rs[k:])) {
		k++
	}
	if isDigit(rs[k-1]) || !ends(rs[k:]) && !isRange(rs[k:]) {
		return 0
	}
	if _, err := ParseDuration(string(rs[:k])); err != nil {
		return 0
	}
	return k
}

// isPoint tells the point in 2.5d from the dots of a range.
func isPoint(rs []rune) bool { return len(rs) > 1 && rs[0] == '.' && isDigit(rs[1]) }

func isRange(rs []rune) bool { return len(rs) > 1 && rs[0] == '.' && rs[1] == '.' }

// syntaxError translates an error of the parser back to the source.
func (q *quoted) syntaxError(err error) error {
	var fe *file.Error
	if !errors.As(err, &fe) {
		return &Error{q.source, 1, err.Error()}
	}
	return &Error{q.source, q.column(fe.From), plain(fe.Message)}
}

// plain puts the parser's commonest complaints into words of the language.
func plain(message string) string {
	switch {
	case strings.HasPrefix(message, `unexpected token Operator("=")`):
		return "equality is written =="
	case strings.HasPrefix(message, "unexpected token EOF"):
		return "something is missing behind it"
	case strings.HasPrefix(message, "bad number syntax"):
		return "neither a number nor an address, a prefix or a duration; durations are written 90s, 30m, 1h or 2d"
	}
	return message
}
