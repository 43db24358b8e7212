package simulate

import (
	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// statesEvery is how many points share one count of the states.
const statesEvery = 20

// StateNames are the kinds of entries that charts tell apart.
var StateNames = []string{"half-open TCP", "established TCP", "closing TCP", "UDP, unanswered", "UDP, answered", "other"}

// countStates walks the table without touching it.
func countStates(t *sim.Table) []int {
	n := make([]int, len(StateNames))
	for _, f := range t.All() {
		n[kindOf(f)]++
	}
	return n
}

func kindOf(f *ct.Flow) int {
	switch f.Orig.Proto {
	case ct.TCP:
		switch {
		case f.State == ct.TCPEstablished:
			return 1
		case f.State == ct.TCPSynSent || f.State == ct.TCPSynRecv || f.State == ct.TCPSynSent2:
			return 0
		}
		return 2
	case ct.UDP, ct.UDPLite:
		if f.Replied() {
			return 4
		}
		return 3
	}
	return 5
}
