package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
)

const sideSuffix = ".jsonl"

// MaxSideBytes bounds a side file: about 100,000 entries.
const MaxSideBytes = 32 << 20

// ErrSideFull is returned when a side file would outgrow [MaxSideBytes]: act
// on fewer entries at a time.
var ErrSideFull = errors.New("more entries than a side file of the journal holds")

// SideEntry is one entry as it was before an action on it.
type SideEntry struct {
	Orig           ct.Tuple `json:"orig"`
	Reply          ct.Tuple `json:"reply"`
	Zone           uint16   `json:"zone,omitempty"`
	ID             uint32   `json:"id,omitempty"`
	State          string   `json:"state,omitempty"`
	Status         string   `json:"status,omitempty"`
	Mark           uint32   `json:"mark,omitempty"`
	TimeoutSeconds uint32   `json:"timeout_seconds"`
}

// NewSideEntry takes from a flow what would be needed to make it again.
func NewSideEntry(f *ct.Flow) SideEntry {
	return SideEntry{Orig: f.Orig, Reply: f.Reply, Zone: f.Zone, ID: f.ID,
		State: ct.StateName(f.Orig.Proto, f.State), Status: f.Status.String(),
		Mark: f.Mark, TimeoutSeconds: f.TimeoutSeconds}
}

// Side writes a side file. It counts only once Close has returned without
// error; then name it in [Entries] and begin the operation.
type Side struct {
	f    disk.File
	w    *bufio.Writer
	fs   disk.FS
	dir  string
	name string
	size int
	err  error
}

// Side starts the side file of an operation that has not begun yet; take the
// id from [Tx.NewID].
func (tx *Tx) Side(id string) (*Side, error) {
	dir := filepath.Join(tx.j.dir, sideDir)
	if err := tx.j.fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory %q: %w", dir, err)
	}
	name := id + sideSuffix
	f, err := tx.j.fs.Create(filepath.Join(dir, name), 0o600)
	if err != nil {
		return nil, fmt.Errorf("make side file: %w", err)
	}
	return &Side{f: f, w: bufio.NewWriterSize(f, 64<<10), fs: tx.j.fs, dir: dir, name: name}, nil
}

// Name is the side file's name for [Entries].
func (s *Side) Name() string { return filepath.Join(sideDir, s.name) }

// Add writes one entry. The first error sticks.
func (s *Side) Add(e SideEntry) error {
	if s.err != nil {
		return s.err
	}
	b, err := json.Marshal(e)
	if err == nil && s.size+len(b) > MaxSideBytes {
		err = ErrSideFull
	}
	if err == nil {
		s.size += len(b) + 1
		_, err = s.w.Write(append(b, '\n'))
	}
	s.err = err
	return err
}

// Close makes the file durable, or removes it if anything failed.
func (s *Side) Close() error {
	err := s.err
	if err == nil {
		err = s.w.Flush()
	}
	if err == nil {
		err = s.f.Sync()
	}
	err = errors.Join(err, s.f.Close())
	if err == nil {
		err = s.fs.SyncDir(s.dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write side file %q: %w", s.name, err),
			s.fs.Remove(filepath.Join(s.dir, s.name)))
	}
	return nil
}

// ReadSide reads the entries that an operation kept. A half-written end is
// passed over.
func (j *Journal) ReadSide(o *Op) ([]SideEntry, error) {
	if o.Entries == nil || o.Entries.SideFile == "" {
		return nil, nil
	}
	if !filepath.IsLocal(o.Entries.SideFile) {
		return nil, fmt.Errorf("side file %q lies outside the state directory", o.Entries.SideFile)
	}
	data, err := j.fs.ReadFile(filepath.Join(j.dir, o.Entries.SideFile))
	if err != nil {
		return nil, fmt.Errorf("read side file: %w", err)
	}
	var entries []SideEntry
	for ln := range bytes.Lines(data) {
		var e SideEntry
		if json.Unmarshal(ln, &e) == nil {
			entries = append(entries, e)
		}
	}
	return entries, nil
}
