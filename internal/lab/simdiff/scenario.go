package simdiff

import (
	"strings"

	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// Play runs the cases of a scenario through kernel and model and returns what
// became of each step in both, as lines of a scenario file by case and step.
func (r *Rig) Play(s *simtest.Scenario, e sim.Era) (kernel, model [][][]string) {
	r.t.Helper()
	b := &Batch{Timeouts: e.Timeouts(), Knobs: s.Knobs, Era: e, KeepGoing: true}
	for k, v := range s.Timeouts {
		b.Timeouts.Set(k, v)
	}
	for i := range s.Cases {
		b.Sequences = append(b.Sequences, &s.Cases[i].Sequence)
	}
	kernel, model = make([][][]string, len(s.Cases)), make([][][]string, len(s.Cases))
	r.execute(b, func(seq, _ int, k, m *Outcome) {
		kernel[seq], model[seq] = append(kernel[seq], k.lines()), append(model[seq], m.lines())
	})
	return kernel, model
}

func (o *Outcome) lines() []string { return simtest.Lines(o.Result, o.Flows) }

// joined prints the lines of an outcome in one.
func joined(lines []string) string { return strings.Join(lines, "; ") }
