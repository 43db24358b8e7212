// Package bench measures the model against other programs that keep the state
// of flows, over the same captures: make bench-sim.
package bench
