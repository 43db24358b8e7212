package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestLinksStayInside(t *testing.T) {
	root := t.TempDir()
	for name, target := range map[string]string{
		"abs": "/etc/real", "up": "../../../../etc/real", "loop": "loop", "dir": "etc", "etc/rel": "real",
	} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/real"), []byte("inside"), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := Tree{Root: root}
	for _, name := range []string{"/abs", "/up", "/dir/real", "/dir/rel", "/etc/../etc/real"} {
		data, err := tree.ReadFile(name)
		if err != nil || string(data) != "inside" {
			t.Errorf("ReadFile(%q) = %q, %v", name, data, err)
		}
	}
	if _, err := tree.ReadFile("/loop"); err == nil {
		t.Error("a link to itself could be read")
	}
	if _, err := tree.ReadFile("/etc"); err == nil {
		t.Error("a directory could be read")
	}
}

func TestLargeFileIsCut(t *testing.T) {
	root := t.TempDir()
	f, err := os.Create(filepath.Join(root, "big"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(MaxFile + 1); err != nil {
		t.Fatal(err)
	}
	f.Close()
	data, err := Tree{Root: root}.ReadFile("big")
	if !errors.Is(err, ErrTooLarge) || len(data) != MaxFile {
		t.Errorf("read %d bytes, %v", len(data), err)
	}
}
