package simtest

import (
	"math/rand/v2"
	"testing"

	"github.com/ctwarden/ctwarden/sim"
)

// TestCoverage prints how often random sequences meet each cell of the
// transition tables, and fails for cells that they miss.
func TestCoverage(t *testing.T) {
	cells := map[Cell]int{}
	table, err := sim.New(sim.DefaultConfig(sim.Latest()))
	if err != nil {
		t.Fatal(err)
	}
	Watch(table, func(c Cell) { cells[c]++ })
	g := &Generator{R: rand.New(rand.NewPCG(1, 1)), Steps: 12}
	now := sim.Time(0)
	for n := range 40000 {
		s := g.Sequence()
		peers := PeersOf(n, s.V6, false)
		for i := range s.Steps {
			p := s.Steps[i].Place(&peers)
			table.Packet(now, &p)
		}
		if n%1000 == 999 {
			now += 10 * 86400 * 1e9 // everything runs out
		}
	}
	for _, tt := range Tables() {
		t.Log("\n" + tt.Render(cells))
		for _, m := range tt.Missing(cells) {
			t.Errorf("%s: no packet meets %s", tt.Proto, m)
		}
	}
}
