// Package flowfmt writes flows as text: as conntrack(8) does, as a table, as
// JSON and as CSV. Every form appends to a buffer and allocates nothing.
package flowfmt

import (
	"fmt"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// Context is what writing needs besides the flow.
type Context struct {
	NowNanos int64        // Unix time, for ages
	Timeouts *ct.Timeouts // for idle times; nil if they cannot be told
}

// Format is a form of output.
type Format uint8

// Forms of output.
const (
	Table Format = iota
	JSON
	CSV
	Conntrack
)

var formatNames = [...]string{"table", "json", "csv", "conntrack"}

func (f Format) String() string { return formatNames[f] }

// Parse finds a form by name.
func Parse(name string) (Format, error) {
	for i, n := range formatNames {
		if n == name {
			return Format(i), nil
		}
	}
	return 0, fmt.Errorf("unknown output %q: it is table, json, csv or conntrack", name)
}

// Append appends one entry: a line, or for JSON an object without one.
func (c *Context) Append(b []byte, f *ct.Flow, as Format) []byte {
	switch as {
	case JSON:
		return c.AppendJSON(b, f)
	case CSV:
		return c.AppendCSV(b, f)
	case Conntrack:
		return c.AppendConntrack(b, f)
	}
	return c.AppendRow(b, f)
}

// Header returns the line above the entries, "" where there is none.
func Header(as Format) string {
	switch as {
	case CSV:
		return csvHeader
	case Table:
		return tableHeader
	}
	return ""
}

func (c *Context) idle(f *ct.Flow) (time.Duration, bool) {
	if c.Timeouts == nil {
		return 0, false
	}
	return ct.IdleMin(f, c.Timeouts)
}
