package report

import (
	"fmt"
	"io"
	"strings"
)

// npdLength is what node-problem-detector keeps of a plugin's output by
// default (max_output_length).
const npdLength = 80

// WriteNPD writes the one line that a plugin of node-problem-detector prints:
// the verdict, cut to what it keeps.
func (r *Report) WriteNPD(w io.Writer) error {
	text := strings.Join(strings.Fields(r.Verdict.Text), " ")
	if runes := []rune(text); len(text) > npdLength {
		for len(string(runes)) > npdLength-len("…") {
			runes = runes[:len(runes)-1]
		}
		text = strings.TrimRight(string(runes), " ,;:") + "…"
	}
	_, err := fmt.Fprintln(w, text)
	return err
}
