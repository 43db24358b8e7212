package explain

import (
	"fmt"
	"io"
	"strings"
)

// Write prints topics for a terminal of the given width: the answer first.
func Write(w io.Writer, topics []Topic, width int) error {
	width = min(max(width, 40), 100)
	var b strings.Builder
	for i, t := range topics {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%s (%s)\n", t.Name, t.Group)
		fill(&b, "  ", "  ", t.Answer, width)
		for _, part := range []struct {
			title string
			lines []string
		}{{"Here:", t.Seen}, {"What it means:", t.Means}, {"What it does not mean:", t.Not}, {"What to do:", t.Do}} {
			if len(part.lines) == 0 {
				continue
			}
			fmt.Fprintf(&b, "\n  %s\n", part.title)
			for _, l := range part.lines {
				fill(&b, "  - ", "    ", l, width)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fill breaks a text into lines.
func fill(b *strings.Builder, first, rest, text string, width int) {
	line := first
	empty := true
	for _, word := range strings.Fields(text) {
		if !empty && len([]rune(line))+1+len([]rune(word)) > width {
			b.WriteString(line + "\n")
			line, empty = rest, true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	b.WriteString(line + "\n")
}
