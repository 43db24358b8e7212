package report

import (
	"strings"
	"unicode/utf8"
)

// Style says how text is laid out. Colour only ever repeats what a word says.
type Style struct {
	Width  int // columns; 0 is 80
	Colour bool
	// Namespaces lists the network namespaces of the host.
	Namespaces bool
	// Verbose prints the evidence of findings that follow from others too.
	Verbose bool
}

const (
	reset  = "\x1b[0m"
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	red    = "\x1b[1;31m"
	yellow = "\x1b[1;33m"
	cyan   = "\x1b[36m"
	green  = "\x1b[1;32m"
)

func (st Style) paint(code, s string) string {
	if !st.Colour || s == "" {
		return s
	}
	return code + s + reset
}

func severityColour(s Severity) string {
	switch s {
	case Critical:
		return red
	case Warning:
		return yellow
	case Notice:
		return cyan
	}
	return dim
}

// wrap breaks text at blanks so that no line has more than width columns; a
// word longer than that stands alone. The first line starts after first, the
// others after rest; both count towards the width.
func wrap(text, first, rest string, width int) string {
	var b strings.Builder
	b.WriteString(first)
	col := utf8.RuneCountInString(first)
	start := col
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case col+1+n > width && col > start:
			b.WriteString("\n")
			b.WriteString(rest)
			col = utf8.RuneCountInString(rest)
			start = col
		default:
			b.WriteByte(' ')
			col++
		}
		b.WriteString(word)
		col += n
	}
	b.WriteByte('\n')
	return b.String()
}

// clean replaces what could steer a terminal: text in a report may come from
// a log that somebody else wrote.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}
