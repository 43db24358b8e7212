package workload

import (
	"strings"
	"testing"
	"unicode"
)

// What a broken file holds does not reach the terminal as it is.
func TestErrorsOfBinaryFiles(t *testing.T) {
	for _, text := range []string{"\x1b[2J\x07: : [", "version: 1\nduration: \"\x1b]0;x\x07\"\n", "a: \x01\xff\xfe{"} {
		_, err := Parse(strings.NewReader(text))
		if err == nil {
			t.Errorf("%q was taken", text)
			continue
		}
		if i := strings.IndexFunc(err.Error(), func(r rune) bool { return unicode.IsControl(r) && r != '\n' }); i >= 0 {
			t.Errorf("%q: %q", text, err.Error())
		}
	}
}
