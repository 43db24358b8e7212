package simdiff

import (
	"slices"
	"strings"

	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// Play runs one scenario through kernel and model and returns what became of
// each step in both, as lines of a scenario file.
func (r *Rig) Play(s *simtest.Scenario, e sim.Era) (kernel, model [][]string) {
	r.t.Helper()
	b := &Batch{Sequences: []*simtest.Sequence{&s.Sequence}, Timeouts: e.Timeouts(), Knobs: s.Knobs, Era: e}
	for k, v := range s.Timeouts {
		b.Timeouts.Set(k, v)
	}
	b.KeepGoing = true
	r.execute(b, func(_, _ int, k, m *Outcome) {
		kernel, model = append(kernel, Lines(k)), append(model, Lines(m))
	})
	return kernel, model
}

// Lines prints an outcome as scenario files do: the verdict, then the entries.
func Lines(o *Outcome) []string {
	lines := []string{verdictText(o)}
	for i := range o.Flows {
		lines = append(lines, simtest.FlowLine(&o.Flows[i]))
	}
	slices.Sort(lines[1:])
	return lines
}

// Agree reports whether two outcomes in lines agree, timeouts within a second.
func Agree(a, b []string) bool {
	return slices.EqualFunc(a, b, func(x, y string) bool {
		xt, xs := simtest.SplitTimeout(x)
		yt, ys := simtest.SplitTimeout(y)
		return xs == ys && xt <= yt+1 && yt <= xt+1
	})
}

// Joined prints the lines of an outcome in one.
func Joined(lines []string) string { return strings.Join(lines, "; ") }
