package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowrec"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
)

const sideSuffix = ".entries"

// A side file is sideMagic and then records of flowrec. They are binary because
// several hundred thousand are written while a full table waits for relief.
const sideMagic = "ctwarden entries 1\n"

// MaxSideBytes bounds a side file: 2.6 million IPv4 entries, or half as many of
// IPv6.
const MaxSideBytes = 128 << 20

// ErrSideFull is returned when a side file would outgrow [MaxSideBytes]: act
// on fewer entries at a time.
var ErrSideFull = errors.New("more entries than a side file of the journal holds")

// SideEntry is one entry as it was before an action on it.
type SideEntry = flowrec.Entry

// NewSideEntry takes from a flow what would be needed to make it again.
func NewSideEntry(f *ct.Flow) SideEntry { return flowrec.Of(f) }

// Side writes a side file. It counts only once Close has returned without
// error; then name it in [Entries] and begin the operation.
type Side struct {
	f    disk.File
	w    *bufio.Writer
	fs   disk.FS
	dir  string
	name string
	size int
	buf  []byte
	err  error
}

// Side starts the side file of an operation that has not begun yet; take the
// id from [Tx.NewID].
func (tx *Tx) Side(id string) (*Side, error) {
	dir := filepath.Join(tx.j.dir, sideDir)
	if err := tx.j.fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory %q: %w", dir, err)
	}
	if err := tx.thinSideFiles(dir); err != nil {
		return nil, err
	}
	name := id + sideSuffix
	f, err := tx.j.fs.Create(filepath.Join(dir, name), 0o600)
	if err != nil {
		return nil, fmt.Errorf("make side file: %w", err)
	}
	s := &Side{f: f, w: bufio.NewWriterSize(f, 64<<10), fs: tx.j.fs, dir: dir, name: name}
	_ = s.write([]byte(sideMagic)) // the first error sticks and is told by Add and Close
	return s, nil
}

// maxSideFiles is how many side files are kept, those of open operations aside.
const maxSideFiles = 16

// thinSideFiles makes room for one more: the oldest go first. Their names are
// ids, which sort by time.
func (tx *Tx) thinSideFiles(dir string) error {
	names, err := tx.j.fs.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read directory %q: %w", dir, err)
	}
	for i := 0; i <= len(names)-maxSideFiles; i++ {
		if o := tx.log.Op(strings.TrimSuffix(names[i], sideSuffix)); o != nil && o.State.Open() {
			continue
		}
		if err := tx.j.fs.Remove(filepath.Join(dir, names[i])); err != nil {
			return fmt.Errorf("remove side file %q: %w", names[i], err)
		}
	}
	return nil
}

// Name is the side file's name for [Entries].
func (s *Side) Name() string { return filepath.Join(sideDir, s.name) }

// Add writes one entry. The first error sticks.
func (s *Side) Add(e SideEntry) error {
	s.buf = flowrec.Append(s.buf[:0], &e)
	return s.write(s.buf)
}

// AddRecords writes entries that are records of flowrec already.
func (s *Side) AddRecords(b []byte) error { return s.write(b) }

func (s *Side) write(b []byte) error {
	if s.err == nil && s.size+len(b) > MaxSideBytes {
		s.err = ErrSideFull
	}
	if s.err == nil {
		s.size += len(b)
		_, s.err = s.w.Write(b)
	}
	return s.err
}

// parseSide reads a side file; a half-written end is passed over.
func parseSide(b []byte) ([]SideEntry, error) {
	if !bytes.HasPrefix(b, []byte(sideMagic)) {
		return nil, flowrec.ErrMalformed
	}
	b = b[len(sideMagic):]
	var all []SideEntry
	for {
		e, rest, ok, err := flowrec.Next(b)
		if err != nil || !ok {
			return all, err
		}
		all, b = append(all, e), rest
	}
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
	entries, err := parseSide(data)
	if err != nil {
		return entries, fmt.Errorf("read side file %q: %w", o.Entries.SideFile, err)
	}
	return entries, nil
}
