package netns_test

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/lab"
)

func TestPath(t *testing.T) {
	for ref, want := range map[string]string{
		"": "/proc/thread-self/ns/net", "12": "/proc/12/ns/net", "blue": "/run/netns/blue",
		"/proc/1/ns/net": "/proc/1/ns/net", "./x": "./x", "99999999999": "/run/netns/99999999999", "-1": "/run/netns/-1",
	} {
		if got := netns.Path(ref); got != want {
			t.Errorf("Path(%q) = %q, want %q", ref, got, want)
		}
	}
}

func TestNotFound(t *testing.T) {
	for _, ref := range []string{"ctw-no-such", "2147483647", "/nowhere"} {
		if _, err := netns.Inode(ref); !errors.Is(err, netns.ErrNotFound) {
			t.Errorf("Inode(%q): %v", ref, err)
		}
		ran := false
		if err := netns.Do(ref, func() error { ran = true; return nil }); !errors.Is(err, netns.ErrNotFound) || ran {
			t.Errorf("Do(%q): %v, ran %t", ref, err, ran)
		}
	}
}

// TestDo enters a namespace by name, process and path from many goroutines at
// once, the main thread's among them, and checks that no thread stays there.
func TestDo(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "netns")
	sleep := exec.Command("ip", "netns", "exec", h.Name, "sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { sleep.Process.Kill(); sleep.Wait() }()
	want, err := netns.Inode(h.Name)
	if err != nil {
		t.Fatal(err)
	}
	own, err := netns.Inode("")
	if err != nil || own == want {
		t.Fatalf("own inode %d, %v", own, err)
	}
	waitInside(t, sleep.Process.Pid, want)
	failed := errors.New("failed")
	var wait sync.WaitGroup
	for i := range 60 {
		ref := []string{h.Name, h.Path(), strconv.Itoa(sleep.Process.Pid)}[i%3]
		wait.Go(func() {
			var got uint64
			err := netns.Do(ref, func() (err error) {
				got, err = netns.Inode("")
				return errors.Join(err, failed)
			})
			if got != want || !errors.Is(err, failed) {
				t.Errorf("Do(%q): inode %d, want %d, %v", ref, got, want, err)
			}
		})
	}
	wait.Wait()
	runtime.Gosched()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		link, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net")
		if err == nil && link == "net:["+strconv.FormatUint(want, 10)+"]" {
			t.Errorf("thread %s stayed inside", task.Name())
		}
	}
}

// waitInside waits until a process has entered its namespace.
func waitInside(t *testing.T, pid int, inode uint64) {
	t.Helper()
	for range 1000 {
		link, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net")
		if strings.Contains(link, strconv.FormatUint(inode, 10)) {
			return
		}
		exec.Command("sleep", "0.01").Run()
	}
	t.Fatal("the process did not enter its namespace")
}

func TestInitial(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "netns")
	for ref, want := range map[string]bool{"": true, h.Name: false} {
		if got, err := netns.Initial(ref); err != nil || got != want {
			t.Errorf("Initial(%q) = %t, %v", ref, got, err)
		}
	}
}

func TestDoInPlaceNeedsNothing(t *testing.T) {
	ran := false
	if err := netns.Do("", func() error { ran = true; return nil }); err != nil || !ran {
		t.Error(err)
	}
}
