package simdiff

import (
	"fmt"

	"github.com/ctwarden/ctwarden/sim/simtest"
)

// Report is the result of a comparison.
type Report struct {
	Sequences int
	Packets   int
	// Crossed is how many sequences outlived a timeout of one of their entries.
	Crossed int
	// Retimed is how many disagreed at first and agreed when they ran again
	// among few.
	Retimed int
	// Differences are what remains, each shrunk.
	Differences []Shrunk
}

// Add adds another report.
func (r *Report) Add(o *Report) {
	r.Sequences += o.Sequences
	r.Packets += o.Packets
	r.Crossed += o.Crossed
	r.Retimed += o.Retimed
	r.Differences = append(r.Differences, o.Differences...)
}

// String prints the numbers.
func (r *Report) String() string {
	return fmt.Sprintf("%d sequences, %d packets, %d outlived a timeout, %d retimed, %d differ",
		r.Sequences, r.Packets, r.Crossed, r.Retimed, len(r.Differences))
}

// Shrunk is a difference and the least sequence that shows it.
type Shrunk struct {
	Sequence *simtest.Sequence
	Batch    Batch // the conditions, with this sequence alone
	Difference
}

// Compare runs a batch, runs what fails twice more by itself, and shrinks what
// keeps failing, at most limit of them.
func (r *Rig) Compare(b *Batch, limit int) Report {
	r.t.Helper()
	rep := Report{Sequences: len(b.Sequences)}
	for _, s := range b.Sequences {
		rep.Packets += len(s.Steps)
	}
	first := r.execute(b, nil)
	diffs := first.diffs
	for _, crossed := range first.crossed {
		rep.Crossed += b2i(crossed)
	}
	suspects := make([]*simtest.Sequence, 0, len(diffs))
	for i := range diffs {
		suspects = append(suspects, b.Sequences[diffs[i].Sequence])
	}
	for range 2 {
		if len(suspects) == 0 {
			break
		}
		suspects = r.stillFailing(b, suspects)
	}
	rep.Retimed = len(diffs) - len(suspects)
	for i, s := range suspects {
		if i >= limit {
			rep.Differences = append(rep.Differences, Shrunk{Sequence: s, Batch: b.with(s)})
			continue
		}
		rep.Differences = append(rep.Differences, r.shrink(b, s))
	}
	return rep
}

func (b *Batch) with(s ...*simtest.Sequence) Batch {
	c := *b
	c.Sequences = s
	return c
}

// stillFailing runs some sequences of a batch again, few at a time, and
// returns those that fail again.
func (r *Rig) stillFailing(b *Batch, suspects []*simtest.Sequence) (again []*simtest.Sequence) {
	const few = 512
	for rest := suspects; len(rest) > 0; {
		n := min(few, len(rest))
		c := b.with(rest[:n]...)
		for _, d := range r.Run(&c) {
			again = append(again, c.Sequences[d.Sequence])
		}
		rest = rest[n:]
	}
	return again
}

// shrink removes and simplifies steps as long as the sequence still fails. All
// simpler versions of a round run side by side.
func (r *Rig) shrink(b *Batch, s *simtest.Sequence) Shrunk {
	best := Shrunk{Sequence: s, Batch: b.with(s)}
	for range 40 {
		candidates := simtest.Simpler(best.Sequence)
		c := b.with(candidates...)
		failing := r.Run(&c)
		if len(failing) == 0 {
			break
		}
		first := failing[0].Sequence
		for _, d := range failing {
			first = min(first, d.Sequence)
		}
		best.Sequence = candidates[first]
		best.Batch.Sequences = []*simtest.Sequence{best.Sequence}
	}
	one := best.Batch
	if d := r.Run(&one); len(d) > 0 {
		best.Difference = d[0]
	}
	return best
}
