// Package tui is the terminal display of the table: what it holds, who fills
// it, how fast. It shows what it is given and changes nothing; all of it is a
// function of readings and keys.
package tui

import (
	"context"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// Reading is one look at the table.
type Reading struct {
	Time   time.Time
	Limits ct.Limits
	// Flows are the entries of the panel, or of the whole table.
	Flows    []ct.Flow
	Complete bool // Flows is the whole table
	// Rates compare with the reading before; nil for the first one.
	Rates *ct.Rates
	// Timeouts for idle times, nil if those cannot be told.
	Timeouts *ct.Timeouts
	// Cost is the processor time that the reading took, nearly all of it the
	// kernel's.
	Cost time.Duration
}

// Source is where readings come from.
type Source interface {
	// Read reads the table once more.
	Read(ctx context.Context) (*Reading, error)
	// Preview says in words what evicting the entries that an expression
	// selects would mean. It reads the whole table and changes nothing.
	Preview(ctx context.Context, where string) (string, error)
}
