package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

const crashEnv = "CTWARDEN_LAB_CRASH"

// TestCrashVictim is the run that TestCrashLeavesNothing kills. It reports what
// the limits were, the namespace that it made and a process inside, and waits.
func TestCrashVictim(t *testing.T) {
	if os.Getenv(crashEnv) == "" {
		return
	}
	Require(t)
	l := ExclusiveLimits(t)
	p := Server(t)
	l.SetMax(l.Max() - 1000)
	l.SetBuckets(l.Buckets() - 512)
	sleeper := exec.Command("sleep", "1000")
	p.Server.Start(sleeper)
	fmt.Printf("victim %d %d %s %d\n", l.original.Max, l.original.Buckets, p.Server.Name, sleeper.Process.Pid)
	time.Sleep(time.Minute)
}

func TestCrashLeavesNothing(t *testing.T) {
	Require(t)
	cmd := exec.Command(os.Args[0], "-test.run", "^TestCrashVictim$", "-test.timeout", "10m")
	cmd.Env = append(os.Environ(), crashEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var was limitValues
	var name string
	var pid int
	for sc := bufio.NewScanner(out); sc.Scan(); {
		if n, _ := fmt.Sscanf(sc.Text(), "victim %d %d %s %d", &was.Max, &was.Buckets, &name, &pid); n == 4 {
			break
		}
		if strings.Contains(sc.Text(), "FAIL") || strings.Contains(sc.Text(), "lab:") {
			t.Log(sc.Text())
		}
	}
	killErr := cmd.Process.Kill()
	_ = cmd.Wait()
	if name == "" || killErr != nil {
		t.Fatalf("the victim did not get ready, or was not killed: %v", killErr)
	}
	if _, err := os.Stat("/proc/" + fmt.Sprint(pid)); err != nil {
		t.Errorf("the process inside did not outlive the run: %v", err)
	}

	if err := recoverDeadRuns(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(netnsDir + "/" + name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("namespace %s is still there: %v", name, err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) || zombie(pid) {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("process %d is still there", pid)
			break
		}
	}
	SharedLimits(t)
	now, err := readLimits()
	if err != nil {
		t.Fatal(err)
	}
	if now != was {
		t.Errorf("limits are %+v, were %+v", now, was)
	}
	if _, err := os.Stat(journalPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the journal is still there: %v", err)
	}
}

// zombie reports whether a process has ended and waits for its parent.
func zombie(pid int) bool {
	_, err := processStart(pid)
	return errors.Is(err, fs.ErrNotExist)
}

// A process that lives keeps its namespaces, whatever recovers.
func TestRecoveryLeavesTheLivingAlone(t *testing.T) {
	Require(t)
	h := NewHost(t, "living")
	if err := recoverDeadRuns(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.Path()); err != nil {
		t.Error(err)
	}
}

// The lock is refused to who holds it, rather than waited for.
func TestLimitsAreNotTakenTwice(t *testing.T) {
	for _, name := range []string{"TestA", "TestA/sub", "TestA/sub/deeper"} {
		held.Store("TestA", 0)
		if !holdsLimits(name) {
			t.Errorf("%s is part of TestA, which holds the limits", name)
		}
		held.Delete("TestA")
		if holdsLimits(name) {
			t.Errorf("nobody holds the limits for %s", name)
		}
	}
	held.Store("TestA", 0)
	defer held.Delete("TestA")
	if holdsLimits("TestAB") {
		t.Error("TestAB is no part of TestA")
	}
}

// Whoever gets the lock next must not find the entries of the one before.
func TestHostsGoBeforeTheLock(t *testing.T) {
	Require(t)
	t.Run("hold", func(t *testing.T) {
		path := NewHost(t, "late").Path()
		t.Cleanup(func() { // after the lock's own, before the host's
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is still there when the lock is free: %v", path, err)
			}
		})
		SharedLimits(t)
	})
}
