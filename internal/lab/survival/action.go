package survival

import "strings"

// isAction tells from a line of the guard's log whether it did something.
func isAction(line string) bool { return strings.Contains(line, "action") }
