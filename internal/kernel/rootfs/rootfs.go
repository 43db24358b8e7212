// Package rootfs reads files of this machine, or of a fixture or container
// tree, following symbolic links as a process inside that tree would.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// MaxFile bounds what is read of one file. Configuration is small; a file
// beyond it is cut and reported with [ErrTooLarge].
const MaxFile = 4 << 20

// ErrTooLarge is returned with the first [MaxFile] bytes of a larger file.
var ErrTooLarge = errors.New("file is too large")

const maxLinks = 40

// Tree is a file tree below Root; the empty Root is the machine itself.
// Paths are absolute inside the tree, and no link leads out of it.
type Tree struct{ Root string }

// Resolve follows every symbolic link and returns the path inside the tree at
// which the file really stands.
func (t Tree) Resolve(name string) (string, error) {
	rest := strings.Split(path.Clean("/"+name), "/")
	done, links := "/", 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		target, err := os.Readlink(t.host(next))
		if err != nil {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("resolve %q: too many links", name)
		}
		if path.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done, nil
}

func (t Tree) host(name string) string { return filepath.Join("/", t.Root, name) }

// ReadFile reads a regular file, at most [MaxFile] bytes of it. A device or a
// pipe in its place is not opened.
func (t Tree) ReadFile(name string) ([]byte, error) {
	real, err := t.Resolve(name)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(t.host(real))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, errors.Unwrap(err))
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read %q: %w: not a regular file", name, fs.ErrInvalid)
	}
	f, err := os.Open(t.host(real))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, errors.Unwrap(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	if len(data) > MaxFile {
		return data[:MaxFile], fmt.Errorf("read %q: %w", name, ErrTooLarge)
	}
	return data, nil
}

// List returns the names in a directory, sorted.
func (t Tree) List(dir string) ([]string, error) {
	real, err := t.Resolve(dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(t.host(real))
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, err
}

// Exists reports whether something stands at the path.
func (t Tree) Exists(name string) bool {
	real, err := t.Resolve(name)
	if err != nil {
		return false
	}
	_, err = os.Lstat(t.host(real))
	return err == nil
}
