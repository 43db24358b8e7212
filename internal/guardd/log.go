package guardd

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// logger writes a sentence a line. It never blocks the guard for long: what it
// writes to is standard error.
type logger struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *logger) say(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	s = strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ")
	if s == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = io.WriteString(l.w, s+"\n") // nobody could be told
}
