package cli

import (
	"fmt"
	"strings"
	"time"
)

// progressAfter is how long an operation is quiet before it says what it does.
const progressAfter = 2 * time.Second

// progress shows one line on a terminal, rewritten in place, of an operation
// that takes longer than two seconds.
type progress struct {
	env   *Env
	start time.Time
	last  time.Time
	width int // of the line on display
}

func newProgress(env *Env) *progress { return &progress{env: env, start: time.Now()} }

// show says what is being done and how much of it is done, 0 to 1; negative
// where that is not known.
func (p *progress) show(doing string, done float64) {
	now := time.Now()
	if !p.env.StderrTTY || now.Sub(p.start) < progressAfter || now.Sub(p.last) < 100*time.Millisecond {
		return
	}
	p.last = now
	line := doing
	if done >= 0 {
		line += fmt.Sprintf(" %3.0f %%", done*100)
	}
	fmt.Fprintf(p.env.Stderr, "\r%s%s", line, strings.Repeat(" ", max(0, p.width-len(line))))
	p.width = len(line)
}

// clear takes the line away before anything else is printed.
func (p *progress) clear() {
	if p.width > 0 {
		fmt.Fprintf(p.env.Stderr, "\r%s\r", strings.Repeat(" ", p.width))
		p.width = 0
	}
}
