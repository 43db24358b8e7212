package simtest

import (
	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/internal/hook"
)

// Cell is one cell of a protocol's transition table.
type Cell = hook.Cell

// Watch makes a table report every cell that a packet meets.
func Watch(t *sim.Table, report func(Cell)) { hook.Watch(t, report) }

// Bugs names the wrong rules that [WithBug] can plant.
func Bugs() []string { return hook.PlantNames() }

// WithBug returns an era with one wrong rule.
func WithBug(e sim.Era, name string) sim.Era { return hook.Plant(e, name).(sim.Era) }

// Choose makes a table take the ports that f names where it would draw one: f
// gets the original tuple and whether the source is translated. A comparison
// so follows the kernel's draws.
func Choose(t *sim.Table, f func(orig ct.Tuple, source bool) (port uint16, ok bool)) {
	hook.Choose(t, f)
}
