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
	tally := t.Tally()
	for p, states := range tally.States {
		all := 0
		for s, entries := range states {
			all += entries
			if p == ct.TCP {
				n[tcpKind(ct.State(s))] += entries
			}
		}
		switch p {
		case ct.TCP:
		case ct.UDP, ct.UDPLite:
			replied := tally.Replied[p]
			n[3] += all - replied
			n[4] += replied
		default:
			n[5] += all
		}
	}
	return n
}

func tcpKind(s ct.State) int {
	switch s {
	case ct.TCPEstablished:
		return 1
	case ct.TCPSynSent, ct.TCPSynRecv, ct.TCPSynSent2:
		return 0
	}
	return 2
}
