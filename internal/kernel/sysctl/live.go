package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hashsize is the parameter by which the number of buckets is set before 4.7.
// The kernel refuses it outside the initial network namespace.
const hashsize = "/sys/module/nf_conntrack/parameters/hashsize"

// Live reads and writes settings, and under its path the one module parameter
// that old kernels have in place of a setting.
type Live struct{ Tree }

func (l Live) isParam(name string) (string, bool) {
	return filepath.Join("/", l.Root, hashsize), name == hashsize
}

// Read returns a value without the white space around it.
func (l Live) Read(name string) (string, error) {
	path, ok := l.isParam(name)
	if !ok {
		return l.Tree.Read(name)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read module parameter: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Write sets a value, reads it back and returns what stands there.
func (l Live) Write(name, value string) (string, error) {
	path, ok := l.isParam(name)
	if !ok {
		return l.Tree.Write(name, value)
	}
	if err := writeOnce(path, value); err != nil {
		return "", fmt.Errorf("write %q to module parameter: %w", value, err)
	}
	got, err := l.Read(name)
	if err != nil {
		return "", err
	}
	if !taken(Buckets, value, got) {
		return got, &MismatchError{Name: name, Want: value, Got: got}
	}
	return got, nil
}

// Writable reports whether a write from here can succeed: by the mode, and by
// opening the file for writing, which tells of read-only mounts and missing
// rights and changes nothing.
func (l Live) Writable(name string) (bool, error) {
	path, ok := l.isParam(name)
	if !ok {
		var err error
		if path, err = l.Path(name); err != nil {
			return false, err
		}
	}
	fi, err := os.Stat(path)
	if err != nil {
		return false, fmt.Errorf("look at setting %s: %w", name, err)
	}
	if fi.Mode().Perm()&0o222 == 0 {
		return false, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}
