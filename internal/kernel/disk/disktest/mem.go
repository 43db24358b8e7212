// Package disktest is a file system in memory that can lose power. It keeps
// what is durable apart from what only the running system sees, and counts the
// calls that change something, so that a test can stop the machine at each of
// them in turn.
package disktest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ctwarden/ctwarden/internal/kernel/disk"
)

// ErrDead is returned by every call after the machine has died.
var ErrDead = errors.New("machine is dead")

type inode struct {
	data    []byte // as the running system sees it
	durable []byte // as it would be after a power cut
}

// Mem is a file system in memory. The zero value is empty and ready.
type Mem struct {
	live    map[string]*inode // names as the running system sees them
	durable map[string]*inode // names after a power cut
	locked  map[string]bool
	// DieAt stops the machine at the call with this number, counted from 1; 0
	// never does. Half makes a dying write leave half of its bytes.
	DieAt int
	Half  bool
	// FreeBytes limits what may still be written if Limited is set; beyond it
	// writes are short and fail with ErrFull.
	Limited   bool
	FreeBytes int
	ErrFull   error
	Calls     []string // what was counted, in order
	dead      bool
}

var _ disk.FS = (*Mem)(nil)

func (m *Mem) init() {
	if m.live == nil {
		m.live, m.durable, m.locked = map[string]*inode{}, map[string]*inode{}, map[string]bool{}
	}
}

// Step counts a call that changes something outside this file system too, and
// reports whether the machine still lives.
func (m *Mem) Step(format string, args ...any) error {
	m.init()
	if m.dead {
		return ErrDead
	}
	m.Calls = append(m.Calls, fmt.Sprintf(format, args...))
	if len(m.Calls) == m.DieAt {
		m.dead = true
		return ErrDead
	}
	return nil
}

// Dead reports whether the machine has died.
func (m *Mem) Dead() bool { return m.dead }

// Restart starts the machine again. Locks are gone. After a power cut only
// what was synced is there; after a mere kill everything that was written is.
func (m *Mem) Restart(powerCut bool) {
	m.init()
	m.dead, m.DieAt, m.Half, m.Calls = false, 0, false, nil
	m.locked = map[string]bool{}
	if powerCut {
		m.live = maps.Clone(m.durable)
		for _, n := range m.live {
			n.data = slices.Clone(n.durable)
		}
	}
}

// Files returns the names and contents that the running system sees.
func (m *Mem) Files() map[string]string {
	r := map[string]string{}
	for name, n := range m.live {
		r[name] = string(n.data)
	}
	return r
}

// Put places a durable file, as the set-up of a test.
func (m *Mem) Put(path, content string) {
	m.init()
	n := &inode{data: []byte(content), durable: []byte(content)}
	m.live[path], m.durable[path] = n, n
}

// MkdirAll does nothing: directories are implied by names.
func (m *Mem) MkdirAll(string, fs.FileMode) error {
	m.init()
	if m.dead {
		return ErrDead
	}
	return nil
}

// ReadFile reads a file.
func (m *Mem) ReadFile(path string) ([]byte, error) {
	m.init()
	if m.dead {
		return nil, ErrDead
	}
	n, ok := m.live[path]
	if !ok {
		return nil, fmt.Errorf("open %s: %w", path, fs.ErrNotExist)
	}
	return slices.Clone(n.data), nil
}

// ReadDir lists the names directly in a directory.
func (m *Mem) ReadDir(dir string) ([]string, error) {
	m.init()
	if m.dead {
		return nil, ErrDead
	}
	var names []string
	for p := range m.live {
		if rest, ok := strings.CutPrefix(p, strings.TrimSuffix(dir, "/")+"/"); ok {
			first, _, _ := strings.Cut(rest, "/")
			names = append(names, first)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if names == nil {
		return nil, fmt.Errorf("open %s: %w", dir, fs.ErrNotExist)
	}
	return names, nil
}

// Create opens a new file.
func (m *Mem) Create(path string, _ fs.FileMode) (disk.File, error) {
	if err := m.Step("create %s", path); err != nil {
		return nil, err
	}
	n := &inode{}
	m.live[path] = n
	return &file{m, n, path}, nil
}

// Append opens a file at its end.
func (m *Mem) Append(path string, _ fs.FileMode) (disk.File, error) {
	m.init()
	n, ok := m.live[path]
	if !ok {
		return m.Create(path, 0)
	}
	if m.dead {
		return nil, ErrDead
	}
	return &file{m, n, path}, nil
}

// Rename moves a name.
func (m *Mem) Rename(from, to string) error {
	if err := m.Step("rename %s", to); err != nil {
		return err
	}
	n, ok := m.live[from]
	if !ok {
		return fmt.Errorf("rename %s: %w", from, fs.ErrNotExist)
	}
	delete(m.live, from)
	m.live[to] = n
	return nil
}

// Remove deletes a name.
func (m *Mem) Remove(path string) error {
	m.init()
	if _, ok := m.live[path]; !ok && !m.dead {
		return fmt.Errorf("remove %s: %w", path, fs.ErrNotExist)
	}
	if err := m.Step("remove %s", path); err != nil {
		return err
	}
	delete(m.live, path)
	return nil
}

// SyncDir makes the names of a directory durable.
func (m *Mem) SyncDir(dir string) error {
	if err := m.Step("syncdir %s", dir); err != nil {
		return err
	}
	for p := range m.durable {
		if filepath.Dir(p) == dir && m.live[p] == nil {
			delete(m.durable, p)
		}
	}
	for p, n := range m.live {
		if filepath.Dir(p) == dir {
			m.durable[p] = n
		}
	}
	return nil
}

// Lock takes a lock that a restart releases.
func (m *Mem) Lock(path string) (io.Closer, error) {
	m.init()
	if m.dead {
		return nil, ErrDead
	}
	if m.locked[path] {
		return nil, disk.ErrLocked
	}
	m.locked[path] = true
	return unlock(func() { delete(m.locked, path) }), nil
}

type unlock func()

func (u unlock) Close() error { u(); return nil }

type file struct {
	m    *Mem
	n    *inode
	path string
}

func (f *file) Write(b []byte) (int, error) {
	if err := f.m.Step("write %s", f.path); err != nil {
		if f.m.Half && len(f.m.Calls) == f.m.DieAt {
			f.n.data = append(f.n.data, b[:len(b)/2]...)
			f.n.durable = bytes.Clone(f.n.data) // the worst case: half of it reached the disk
			f.m.Half = false
		}
		return 0, err
	}
	if f.m.Limited && len(b) > f.m.FreeBytes {
		k := f.m.FreeBytes
		f.m.FreeBytes = 0
		f.n.data = append(f.n.data, b[:k]...)
		return k, f.m.ErrFull
	}
	if f.m.Limited {
		f.m.FreeBytes -= len(b)
	}
	f.n.data = append(f.n.data, b...)
	return len(b), nil
}

func (f *file) Truncate(size int64) error {
	if err := f.m.Step("truncate %s", f.path); err != nil {
		return err
	}
	if f.m.Limited {
		f.m.FreeBytes += len(f.n.data) - int(size)
	}
	f.n.data = f.n.data[:size]
	return nil
}

func (f *file) Sync() error {
	if err := f.m.Step("sync %s", f.path); err != nil {
		return err
	}
	f.n.durable = bytes.Clone(f.n.data)
	return nil
}

func (f *file) Close() error { return nil }
