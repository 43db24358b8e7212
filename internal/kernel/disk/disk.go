// Package disk writes files so that a crash leaves either the old or the new
// content: through a small interface, behind which tests enumerate every point
// at which a machine can die.
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FS is the part of a file system that durable writing needs. Paths are
// absolute. Implementations report a missing file as fs.ErrNotExist.
type FS interface {
	MkdirAll(dir string, perm fs.FileMode) error
	ReadFile(path string) ([]byte, error)
	// ReadDir returns the names in a directory, sorted.
	ReadDir(dir string) ([]string, error)
	// Create opens a new, empty file for writing, replacing what was there.
	Create(path string, perm fs.FileMode) (File, error)
	// Append opens a file for writing at its end and makes it if need be.
	Append(path string, perm fs.FileMode) (File, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// Lock takes the exclusive lock of a file, made if need be, and returns
	// what releases it; ErrLocked if somebody else holds it.
	Lock(path string) (io.Closer, error)
}

// File is a file open for writing.
type File interface {
	io.WriteCloser
	// Truncate cuts the file to a size in bytes; writing goes on there.
	Truncate(size int64) error
	// Sync makes the content durable.
	Sync() error
}

// ErrLocked is returned by Lock while somebody else holds the lock.
var ErrLocked = errors.New("locked by another process")

// Errors of a disk on which callers decide.
var (
	ErrReadOnly error = unix.EROFS
	ErrFull     error = unix.ENOSPC
)

// OS is the machine's file system. A Root other than "" is put before every
// path, so that a command can be run against a tree of its own.
type OS struct{ Root string }

var _ FS = OS{}

func (o OS) path(p string) string {
	if o.Root == "" {
		return p
	}
	return filepath.Join(o.Root, filepath.Join("/", p))
}

// MkdirAll makes a directory and what lies above it, each with the mode asked
// for, and makes each new name durable.
func (o OS) MkdirAll(dir string, perm fs.FileMode) error {
	dir = o.path(dir)
	var made []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil || d == filepath.Dir(d) {
			break
		}
		made = append(made, d)
	}
	if err := os.MkdirAll(dir, perm); err != nil {
		return err
	}
	for _, d := range made {
		if err := os.Chmod(d, perm); err != nil {
			return err
		}
		if err := syncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

// ReadFile reads a whole file.
func (o OS) ReadFile(path string) ([]byte, error) { return os.ReadFile(o.path(path)) }

// ReadDir returns the names in a directory, sorted.
func (o OS) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(o.path(dir))
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// Create opens a new, empty file for writing. Its mode is the one asked for,
// whatever the umask.
func (o OS) Create(path string, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(o.path(path), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, perm)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(perm); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Append opens a file for writing at its end.
func (o OS) Append(path string, perm fs.FileMode) (File, error) {
	return open(o.path(path), os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, perm)
}

func open(path string, flags int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(path, flags, perm)
	if err != nil {
		return nil, err // an interface holding a nil *os.File would not be nil
	}
	return f, nil
}

// Rename moves a file over another.
func (o OS) Rename(from, to string) error { return os.Rename(o.path(from), o.path(to)) }

// Remove deletes a file.
func (o OS) Remove(path string) error { return os.Remove(o.path(path)) }

// SyncDir makes the names in a directory durable.
func (o OS) SyncDir(dir string) error { return syncDir(o.path(dir)) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock takes a flock(2), which the kernel releases when the process dies. Of a
// file system that has become read-only since, a lock can be had, too.
func (o OS) Lock(path string) (io.Closer, error) {
	path = o.path(path)
	if err := private(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, ErrReadOnly) {
		f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		if err == unix.EWOULDBLOCK {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock %q: %w", path, err)
	}
	return f, nil
}

// ErrShared is returned by Lock for a directory in which others may make files:
// what they put there would be believed, and run.
var ErrShared = errors.New("others may write in it")

func private(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&0o002 != 0 || st.Mode&0o020 != 0 && int(st.Gid) != os.Getegid() {
		return fmt.Errorf("directory %q: %w", dir, ErrShared)
	}
	return nil
}

// TempSuffix ends the name of a file that [WriteFile] has not finished.
const TempSuffix = ".ctwarden-new"

// WriteFile replaces a file: after a crash at any point its content is the old
// or the new, whole. The directory must exist.
func WriteFile(fsys FS, path string, data []byte, perm fs.FileMode) error {
	tmp := path + TempSuffix
	if err := fill(fsys, tmp, data, perm); err != nil {
		return errors.Join(fmt.Errorf("write %q: %w", tmp, err), removeIfThere(fsys, tmp))
	}
	if err := fsys.Rename(tmp, path); err != nil {
		return errors.Join(fmt.Errorf("rename %q: %w", tmp, err), removeIfThere(fsys, tmp))
	}
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("sync %q: %w", filepath.Dir(path), err)
	}
	return nil
}

func fill(fsys FS, path string, data []byte, perm fs.FileMode) error {
	f, err := fsys.Create(path, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func removeIfThere(fsys FS, path string) error {
	err := fsys.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Files reads and replaces whole files of a file system.
type Files struct{ FS }

// WriteFile replaces a file whole, readable by all, and makes its directory if
// need be.
func (f Files) WriteFile(path string, data []byte) error {
	if err := f.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return WriteFile(f.FS, path, data, 0o644)
}

// RemoveFile deletes a file durably; one that is not there is no error.
func (f Files) RemoveFile(path string) error { return RemoveFile(f.FS, path) }

// RemoveFile deletes a file durably; a file that is not there is no error.
func RemoveFile(fsys FS, path string) error {
	if err := removeIfThere(fsys, path); err != nil {
		return err
	}
	err := fsys.SyncDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
