package sysctl

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/ctwarden/ctwarden/internal/kernel/quick"
)

// Gauge is one setting held open, to be read again and again: it shows the
// namespace in which it was opened, from whatever namespace it is read, in a
// few microseconds. While it is open it keeps that namespace alive.
type Gauge struct {
	f   *quick.File
	buf [32]byte
}

// Open opens a setting as a gauge. The setting is looked for under the names
// of every era.
func (t Tree) Open(name string) (*Gauge, error) {
	live, err := t.Find(name)
	if err != nil {
		return nil, err
	}
	path, err := t.Path(live)
	if err != nil {
		return nil, err
	}
	f, err := quick.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open setting %s: %w", live, err)
	}
	return &Gauge{f: f}, nil
}

// Int reads the number. It does not allocate and must not be called by two
// goroutines at once.
func (g *Gauge) Int() (int64, error) {
	n, err := quick.ReadAt(g.f, g.buf[:], 0)
	if err != nil {
		return 0, fmt.Errorf("read setting %s: %w", g.f.Name(), err)
	}
	v, err := strconv.ParseInt(string(bytes.TrimSpace(g.buf[:n])), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read setting %s: %q is not a number", g.f.Name(), g.buf[:n])
	}
	return v, nil
}

// Close lets go of the setting and of its namespace.
func (g *Gauge) Close() error { return g.f.Close() }
