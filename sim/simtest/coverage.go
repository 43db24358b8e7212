package simtest

import (
	"fmt"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// TransitionTable describes a protocol's transition table for coverage.
type TransitionTable struct {
	Proto  ct.Proto
	Rows   []string
	States ct.State // how many
	// Unreachable reports cells that no packet can meet.
	Unreachable func(Cell) bool
}

// Tables are the transition tables of the newest kernel.
func Tables() []TransitionTable {
	first := func(c Cell) bool { return c.Dir == 1 && c.State == 0 } // a first packet is the original
	return []TransitionTable{
		{Proto: ct.TCP, Rows: []string{"SYN", "SYN/ACK", "FIN", "ACK", "RST"}, States: ct.NumTCPStates, Unreachable: first},
		{Proto: ct.SCTP, Rows: []string{"INIT", "INIT_ACK", "ABORT", "SHUTDOWN", "SHUTDOWN_ACK", "ERROR", "COOKIE_ECHO",
			"COOKIE_ACK", "SHUTDOWN_COMPLETE", "HEARTBEAT", "HEARTBEAT_ACK"}, States: ct.SCTPHeartbeatAcked,
			Unreachable: func(c Cell) bool {
				// A first packet with one of these is invalid before its state counts.
				return first(c) || c.State == 0 && (c.Row == 2 || c.Row == 7 || c.Row == 8)
			}},
	}
}

// Render prints how often each cell was met.
func (t *TransitionTable) Render(cells map[Cell]int) string {
	var b strings.Builder
	for dir := range uint8(2) {
		fmt.Fprintf(&b, "%s %-18s", t.Proto, [2]string{"original", "reply"}[dir])
		for s := range t.States {
			name := ct.StateName(t.Proto, s)
			fmt.Fprintf(&b, " %9.9s", name)
		}
		b.WriteByte('\n')
		for row, name := range t.Rows {
			fmt.Fprintf(&b, "  %-21s", name)
			for s := range t.States {
				c := Cell{Proto: t.Proto, Dir: dir, Row: uint8(row), State: s}
				if n := cells[c]; n > 0 || !t.Unreachable(c) {
					fmt.Fprintf(&b, " %9d", n)
				} else {
					fmt.Fprintf(&b, " %9s", "-")
				}
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// Missing lists the cells that were not met though they can be.
func (t *TransitionTable) Missing(cells map[Cell]int) (list []string) {
	for dir := range uint8(2) {
		for row, name := range t.Rows {
			for s := range t.States {
				c := Cell{Proto: t.Proto, Dir: dir, Row: uint8(row), State: s}
				if cells[c] == 0 && !t.Unreachable(c) {
					list = append(list, fmt.Sprintf("%s from the %s in %s", name,
						[2]string{"original side", "replying side"}[dir], ct.StateName(t.Proto, s)))
				}
			}
		}
	}
	return list
}
