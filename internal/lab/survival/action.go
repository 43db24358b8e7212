package survival

import (
	"slices"
	"strings"
)

// deeds are the beginnings of the lines in which the guard says what it does.
var deeds = []string{"nf_conntrack_max ", "nf_conntrack_buckets ", "timeouts of new flows ", "probation of ",
	"no source is limited", "at most ", "1 s for ", "a path before tracking ", "no new connections of ", "expired entries removed"}

// isAction tells from a line of the guard's log whether it did something.
func isAction(line string) bool {
	if !strings.HasSuffix(line, ": done") && !strings.Contains(line, " chosen, ") {
		return false
	}
	for _, d := range deeds {
		if strings.HasPrefix(line, d) {
			return true
		}
	}
	return false
}

// isLevel tells whether a line says that the level has risen.
func isLevel(line string) bool {
	levels := []string{"calm", "watch", "pressure", "emergency"}
	change, _, _ := strings.Cut(line, ": ")
	from, to, ok := strings.Cut(change, " -> ")
	return ok && slices.Contains(levels, from) && slices.Index(levels, to) > slices.Index(levels, from)
}
