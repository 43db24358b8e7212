package deadman

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if life := os.Getenv("DEADMAN_TEST_GUARD"); life != "" {
		Ready()
		d, _ := time.ParseDuration(life)
		time.Sleep(d)
		return
	}
	os.Exit(m.Run())
}

// TestArmRefusesAGuardThatIsNotReady: a program that ends without a word is no
// guard, and nothing of it stays.
func TestArmRefusesAGuardThatIsNotReady(t *testing.T) {
	d := Deadman{Dir: t.TempDir(), Args: func(string) []string { return []string{"-test.run=^$"} }}
	name, err := d.Arm("20260301-120000", Boottime()+time.Hour)
	if err == nil {
		t.Fatalf("armed as %q", name)
	}
	if left, _ := filepath.Glob(filepath.Join(d.Dir, "guard-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestGuardHoldsNothing: a lock that flock(1) took for apply is not held by the
// guard until the end of the trial.
func TestGuardHoldsNothing(t *testing.T) {
	if hasSystemd() && os.Geteuid() != 0 {
		t.Skip("setting a timer of systemd needs root")
	}
	t.Setenv("DEADMAN_TEST_GUARD", "1m")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	inherited, err := unix.Dup(int(w.Fd())) // as from a parent: not closed on exec
	if err != nil {
		t.Fatal(err)
	}
	d := Deadman{Dir: t.TempDir(), Args: func(string) []string { return nil }}
	name, err := d.Arm("20260301-120001", Boottime()+time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscanf(name, "pid %d", &pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(d.Disarm("20260301-120001", name), unix.Kill(pid, unix.SIGKILL)); err != nil {
			t.Error(err)
		}
	})
	w.Close()
	unix.Close(inherited)
	if err := r.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the guard holds it open: %v", err)
	}
}

// TestWhereNoProgramRuns: /run is mounted so on many machines.
func TestWhereNoProgramRuns(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, ""); err != nil {
		t.Skip("mount: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	d := Deadman{Dir: dir, Args: func(string) []string { return nil }}
	if name, err := d.Arm("20260301-120000", Boottime()+time.Hour); err == nil || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("armed as %q, %v", name, err)
	}
}

// TestTimerOfOldSystemd: version 219, which knows neither --collect nor --quiet,
// is still in service.
func TestTimerOfOldSystemd(t *testing.T) {
	dir := t.TempDir()
	for name, script := range map[string]string{
		"systemd-run": `for a in "$@"; do case $a in --collect|--quiet|-q) exit 1;; --) break;; esac; done; echo "$@" >` + dir + "/ran",
		"systemctl":   "exit 0",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	d := Deadman{Dir: dir, Args: func(id string) []string { return []string{"trial-guard", id} }}
	if err := d.startTimer("/state/guard-1", "1", Boottime()+time.Minute); err != nil {
		t.Fatal(err)
	}
	ran, err := os.ReadFile(filepath.Join(dir, "ran"))
	if err != nil || !strings.Contains(string(ran), "--on-active=61s") || !strings.Contains(string(ran), "-- /state/guard-1 trial-guard 1") {
		t.Errorf("%q, %v", ran, err)
	}
}

func TestArm(t *testing.T) {
	if hasSystemd() && os.Geteuid() != 0 {
		t.Skip("setting a timer of systemd needs root")
	}
	t.Setenv("DEADMAN_TEST_GUARD", "50ms")
	d := Deadman{Dir: t.TempDir(), Args: func(string) []string { return nil }}
	name, err := d.Arm("20260301-120000", Boottime()+time.Hour)
	if err != nil || !strings.HasPrefix(name, "pid ") {
		t.Fatalf("%q, %v", name, err)
	}
	if err := d.Disarm("20260301-120000", name); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.Dir, "guard-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestIDsStayInside: an id cannot lead the copy out of the state directory.
func TestIDsStayInside(t *testing.T) {
	d := Deadman{Dir: "/state"}
	if p := d.program("../../etc/x"); p != "/state/guard-x" {
		t.Errorf("%q", p)
	}
}

func TestClock(t *testing.T) {
	start := Boottime()
	if err := (Clock{}).Until(t.Context(), start+30*time.Millisecond); err != nil || Boottime() < start+30*time.Millisecond {
		t.Errorf("%v after %s", err, Boottime()-start)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Clock{}).Until(ctx, Boottime()+time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if id, err := BootID(); err != nil || len(id) != 36 {
		t.Errorf("%q, %v", id, err)
	}
}
