package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/kernel/disk"
)

// TestReadableUnderAnyUmask: hardened machines give root one of 077, and a file
// of settings is to be read by all.
func TestReadableUnderAnyUmask(t *testing.T) {
	root := t.TempDir()
	old := unix.Umask(0o077)
	err := disk.Files{FS: disk.OS{Root: root}}.WriteFile("/etc/ctwarden/x.conf", []byte("x"))
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"etc": 0o755, "etc/ctwarden": 0o755, "etc/ctwarden/x.conf": 0o644} {
		if fi, err := os.Stat(filepath.Join(root, name)); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, fi.Mode(), err)
		}
	}
}

// TestSharedDirectory: where others may make files, a journal and a program to
// be run later could be theirs.
func TestSharedDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving a directory away needs root")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, -1, 12345); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o777 | os.ModeSticky, 0o770} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if l, err := (disk.OS{}).Lock(filepath.Join(dir, "lock")); !errors.Is(err, disk.ErrShared) {
			t.Errorf("%v: %v, %v", mode, l, err)
		}
	}
}
