// Package hook lets the tests of the model look inside it: which cell of a
// transition table a packet meets, and what happens if a rule is wrong.
package hook

import "github.com/ctwarden/ctwarden/ct"

// Cell is one cell of a protocol's transition table.
type Cell struct {
	Proto ct.Proto
	Dir   uint8 // 0 original, 1 reply
	Row   uint8 // kind of packet
	State ct.State
}

// Watch makes a *sim.Table report every cell that a packet meets. Package sim
// sets it.
var Watch func(table any, report func(Cell))

// Plant returns a sim.Era with the named bug, and PlantNames the bugs there
// are. Package sim sets both.
var (
	Plant      func(era any, name string) any
	PlantNames func() []string
)

// Choose makes a *sim.Table ask for the port or identifier that translation
// chooses where it would draw one: f gets the original tuple and whether the
// source is translated. It lets a comparison follow a kernel's choices. Package
// sim sets it.
var Choose func(table any, f func(orig ct.Tuple, source bool) (port uint16, ok bool))
