// Package sysctl reads and writes kernel settings under /proc/sys, and knows
// the connection-tracking settings under the names of every kernel era.
//
// /proc/sys shows the network namespace of the calling thread, so a caller
// that means another namespace enters it first, on a locked thread.
package sysctl

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxValueBytes bounds what is read of one setting. The kernel hands out at
// most a page for the settings meant here.
const maxValueBytes = 64 << 10

// ErrBadName is the error of a name that cannot stand for a setting.
var ErrBadName = errors.New("not the name of a setting")

// Tree is a sysctl tree. The zero Tree is the live /proc/sys; with a Root it
// is Root/proc/sys, a recorded one.
type Tree struct {
	Root string
}

// MismatchError is the error of a write that the kernel took without an error
// and that yet left another value.
type MismatchError struct {
	Name, Want, Got string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("write %q to %s: it reads %q afterwards", e.Want, e.Name, e.Got)
}

// Normalize returns a setting's name in dotted form. It takes either form of
// sysctl(8): the first separator decides, so that in a dotted name a slash
// stands for a dot inside a component ("net.ipv4.conf.eth0/1.forwarding").
func Normalize(name string) string {
	name = strings.TrimPrefix(strings.TrimSpace(name), "/proc/sys/")
	i := strings.IndexAny(name, "./")
	if i < 0 || name[i] == '.' {
		return name
	}
	return swapSeparators(name)
}

func swapSeparators(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, s)
}

// Path returns the file of a setting, or ErrBadName.
func (t Tree) Path(name string) (string, error) {
	rel := swapSeparators(Normalize(name))
	if !filepath.IsLocal(rel) || filepath.Clean(rel) != rel || strings.ContainsRune(rel, 0) {
		return "", fmt.Errorf("setting %q: %w", name, ErrBadName)
	}
	return filepath.Join(t.dir(), rel), nil
}

func (t Tree) dir() string {
	if t.Root == "" {
		return "/proc/sys"
	}
	return filepath.Join(t.Root, "proc/sys")
}

// Read returns a setting's value without the white space around it. A setting
// that this kernel or namespace lacks is an fs.ErrNotExist.
func (t Tree) Read(name string) (string, error) {
	path, err := t.Path(name)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read setting %s: %w", Normalize(name), err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxValueBytes))
	if err != nil {
		return "", fmt.Errorf("read setting %s: %w", Normalize(name), err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Int returns a setting's value as a number.
func (t Tree) Int(name string) (int64, error) {
	s, err := t.Read(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("setting %s: %q is not a number", Normalize(name), clip(s))
	}
	return n, nil
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// Write sets a value in one write call, reads it back and returns what stands
// there. If that is not what was written the error is a *MismatchError; the
// kernel's rounding of nf_conntrack_buckets up to whole pages is none.
func (t Tree) Write(name, value string) (string, error) {
	path, err := t.Path(name)
	if err != nil {
		return "", err
	}
	if err := writeOnce(path, value); err != nil {
		return "", fmt.Errorf("write %q to %s: %w", value, Normalize(name), err)
	}
	got, err := t.Read(name)
	if err != nil {
		return "", err
	}
	if !taken(name, value, got) {
		return got, &MismatchError{Name: Normalize(name), Want: value, Got: got}
	}
	return got, nil
}

func writeOnce(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(value + "\n"))
	return errors.Join(err, f.Close())
}

// taken reports whether got is what the kernel makes of want.
func taken(name, want, got string) bool {
	if strings.Join(strings.Fields(want), " ") == strings.Join(strings.Fields(got), " ") {
		return true
	}
	w, errW := strconv.ParseInt(strings.TrimSpace(want), 0, 64)
	g, errG := strconv.ParseInt(got, 10, 64)
	if errW != nil || errG != nil {
		return false
	}
	return w == g || Canonical(name) == Buckets && g == roundBuckets(w)
}

// HeadsInPage is how many buckets fit a page of memory.
func HeadsInPage() int64 { return int64(os.Getpagesize()) / (strconv.IntSize / 8) }

// roundBuckets does what nf_ct_alloc_hashtable does: whole pages of list heads.
func roundBuckets(n int64) int64 {
	heads := HeadsInPage()
	return (n + heads - 1) / heads * heads
}

// Writable reports whether the setting's mode lets anybody write. Settings
// that belong to the host alone are read-only in other namespaces.
func (t Tree) Writable(name string) (bool, error) {
	path, err := t.Path(name)
	if err != nil {
		return false, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return false, fmt.Errorf("look at setting %s: %w", Normalize(name), err)
	}
	return fi.Mode().Perm()&0o222 != 0, nil
}

// Exists reports whether this kernel and namespace have the setting.
func (t Tree) Exists(name string) bool {
	path, err := t.Path(name)
	if err != nil {
		return false
	}
	_, err = os.Stat(path)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}
