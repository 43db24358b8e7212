package disk_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
)

// TestReadOnlyDisk: file systems become read-only when they find errors. What
// the journal announced before can still be undone, under its lock; nothing new
// can be begun.
func TestReadOnlyDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	j := journal.New(disk.OS{}, dir, journal.Options{})
	if _, err := j.Begin(t.Context(), journal.Op{Actor: "test"}); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(dir+"/journal.jsonl", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("half a rec"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skip("mount: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skip("remount: ", err)
	}
	ran := false
	err = j.Do(context.Background(), func(tx *journal.Tx) error {
		ran = len(tx.Log().Ops) == 1
		if _, err := tx.Begin(journal.Op{Actor: "test"}); !errors.Is(err, disk.ErrReadOnly) {
			t.Errorf("begun: %v", err)
		}
		return nil
	})
	if !ran {
		t.Errorf("no undo: %v", err)
	}
}
