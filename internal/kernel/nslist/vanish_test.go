package nslist_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/kernel/nslist"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// process makes a process of a recorded machine whose counters are a pipe, so
// that a test can act while they are read.
func process(t *testing.T, root string, pid int, inode uint64) (counters string) {
	t.Helper()
	dir := filepath.Join(root, "proc", strconv.Itoa(pid))
	for _, d := range []string{"ns", "net/stat"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "comm"), []byte("nginx\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	lives(t, root, pid, inode)
	counters = filepath.Join(dir, "net/stat/nf_conntrack")
	if err := unix.Mkfifo(counters, 0o600); err != nil {
		t.Fatal(err)
	}
	return counters
}

// lives puts a process into a namespace.
func lives(t *testing.T, root string, pid int, inode uint64) {
	t.Helper()
	link := filepath.Join(root, "proc", strconv.Itoa(pid), "ns/net")
	os.Remove(link)
	if err := os.Symlink(fmt.Sprintf("net:[%d]", inode), link); err != nil {
		t.Error(err)
	}
}

// TestProcessIDIsReused gives the id of a process to one in another namespace
// while its counters are read: they must not be taken for the first one's. A
// second process of that namespace is asked instead, where there is one.
func TestProcessIDIsReused(t *testing.T) {
	for _, second := range []bool{false, true} {
		root := t.TempDir()
		feed := func(file, text string, then func()) {
			f, err := os.OpenFile(file, os.O_WRONLY, 0) // waits for the reader
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			then()
			fmt.Fprint(f, text)
		}
		first := process(t, root, 4711, 4026532001)
		go feed(first, "entries drop\n000003e7 00000001\n", func() { lives(t, root, 4711, 4026532002) })
		if second {
			go feed(process(t, root, 4712, 4026532001), "entries drop\n00000007 00000000\n", func() {})
		}
		r, err := nslist.List(context.Background(), nslist.Options{Root: root, Limit: 10 * time.Second})
		if err != nil || len(r.Namespaces) != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		ns := r.Namespaces[0]
		switch {
		case second && (ns.Count.Or(-1) != 7 || ns.Pid != 4712 || ns.Counters.Drop != 0):
			t.Errorf("with a second process: %+v", ns)
		case !second && (ns.Count.Known || ns.Counters.Drop != 0 || ns.Pid != 0 || ns.Problem == ""):
			t.Errorf("the counters of another namespace were taken: %+v", ns)
		}
	}
}

// TestNamespacesVanish lists while namespaces come and go by the hundred: no
// error, and each is either counted or said to have gone.
func TestNamespacesVanish(t *testing.T) {
	lab.Require(t, "ip", "unshare")
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	var churn sync.WaitGroup
	for range 3 {
		churn.Go(func() {
			for ctx.Err() == nil {
				_ = exec.Command("unshare", "--net", "true").Run()
			}
		})
	}
	lists, gone := 0, 0
	for ; ctx.Err() == nil; lists++ {
		r, err := nslist.List(t.Context(), nslist.Options{Limit: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		for _, ns := range r.Namespaces {
			if !ns.Count.Known {
				gone++
				if ns.Problem == "" {
					t.Errorf("neither counted nor said to have gone: %+v", ns)
				}
			}
		}
	}
	churn.Wait()
	t.Logf("%d lists, %d namespaces gone while they were read", lists, gone)
}

// TestKeepsNoNamespaceAlive ends the process of a namespace that was listed,
// and waits for the namespace to go: the end of a veth in it takes the other
// end along.
func TestKeepsNoNamespaceAlive(t *testing.T) {
	lab.Require(t, "ip", "unshare")
	h := lab.NewHost(t, "watcher")
	cmd := exec.Command("unshare", "--net", "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	defer end()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for { // until unshare has unshared
		if theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)); err == nil && theirs != own {
			break
		}
		time.Sleep(time.Millisecond)
	}
	h.IP(fmt.Sprintf("link add v0 type veth peer name v1 netns %d", cmd.Process.Pid))
	r, err := nslist.List(t.Context(), nslist.Options{Limit: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	listed := false
	for _, ns := range r.Namespaces {
		listed = listed || ns.Pid == cmd.Process.Pid && ns.Count.Known
	}
	if !listed {
		t.Fatal("the namespace was not read")
	}
	end()
	for range 1000 {
		if _, err := h.TryExec("ip", "link", "show", "v0"); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the namespace is still there ten seconds after its last process")
}
