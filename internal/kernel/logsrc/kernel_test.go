package logsrc_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/logsrc"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestRealRefusals lets the kernel refuse entries in a namespace and reads what
// it says about that from its ring buffer and from a journal that a real
// systemd-journald writes: one episode, the right namespace, each line once.
func TestRealRefusals(t *testing.T) {
	lab.Require(t, "journalctl", "dmesg", "unshare")
	journald := "/lib/systemd/systemd-journald"
	if _, err := os.Stat(journald); err != nil {
		t.Skipf("no journald: %v", err)
	}
	lab.SharedLimits(t)
	h := unmentioned(t)
	h.Track()
	root := t.TempDir()
	dir := filepath.Join(root, "run/log/journal")
	stop := startJournald(t, journald, dir)

	limit, err := strconv.Atoi(h.Sysctl("net.netfilter.nf_conntrack_max"))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for i := range 3 {
		if err := h.TryFill(lab.Class{Count: limit + 1, Port: uint16(1000 + i), Targets: netip.MustParsePrefix("192.0.2.0/28"), State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured}); err == nil {
			t.Fatal("the table took more than its max")
		}
		time.Sleep(3 * time.Second) // the limiter tells what it kept back after its 5 s
	}
	inode := inodeOf(t, h.Path())
	printed := linesInDmesg(t, inode)
	if printed == 0 {
		t.Fatalf("the kernel said nothing of netns %d", inode)
	}

	// The number may have been another namespace's before: all its episodes
	// together are what dmesg has.
	var ring, both *seen
	deadline, patience := time.Now().Add(time.Minute), time.Now().Add(20*time.Second)
	for both == nil || both.lines < printed || !both.journal {
		switch now := time.Now(); {
		case now.After(deadline):
			t.Fatalf("ring buffer %+v, with journal %+v; dmesg has %d lines", ring, both, printed)
		case now.After(patience):
			// Now and then it hears nothing more of the kernel; one that starts
			// reads the ring buffer from its beginning.
			t.Log("journald is started anew")
			patience = deadline
			stop()
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			startJournald(t, journald, dir)
		}
		time.Sleep(100 * time.Millisecond)
		ring, both = read(t, "", inode), read(t, root, inode)
	}
	for _, s := range []*seen{ring, both} {
		if s.lines != printed {
			t.Errorf("%d lines, dmesg has %d; journal %v", s.lines, printed, s.journal)
		}
		if e := s.last; e.End.Before(began.Add(-time.Second)) || e.End.After(time.Now().Add(time.Second)) {
			t.Errorf("the last line at %v, but it began at %v", e.End, began)
		}
		if s.last.Era != klog.EraNetns || s.last.Uncounted {
			t.Errorf("era %q, uncounted %v", s.last.Era, s.last.Uncounted)
		}
	}
}

// unmentioned makes a namespace of whose number the kernel has said nothing yet:
// numbers are used again, and lines about an earlier namespace may fall out of
// the ring buffer while the test runs.
func unmentioned(t *testing.T) *lab.Host {
	t.Helper()
	const tries = 30
	for i := range tries {
		h := lab.NewHost(t, fmt.Sprintf("log%d", i))
		if linesInDmesg(t, inodeOf(t, h.Path())) == 0 {
			return h
		}
	}
	t.Fatalf("the numbers of %d new namespaces are all in the log", tries)
	return nil
}

// seen is what was read about one namespace.
type seen struct {
	lines   uint64
	last    klog.Episode
	journal bool // it contributed
}

// read reads the ring buffer, and the journal of root if there is one.
func read(t *testing.T, root string, inode uint64) *seen {
	t.Helper()
	c := klog.NewCollector(klog.Options{Now: time.Now(), Location: time.Local})
	o := logsrc.Options{Now: time.Now(), Since: time.Now().Add(-24 * time.Hour)}
	blind := logsrc.Machine(context.Background(), c, o)
	if root != "" {
		o.Root = root
		blind = append(blind, logsrc.Machine(context.Background(), c, o)...)
	}
	if len(blind) > 0 {
		t.Fatalf("not seen: %+v", blind)
	}
	s := &seen{}
	for _, e := range c.Report().Episodes {
		if e.NetnsInode == inode {
			s.lines += e.Lines
			s.last = e
			s.journal = slices.Contains(e.Sources, "journal")
		}
	}
	return s
}

// startJournald runs a journald of its own in a mount namespace, where it sees
// the machine's ring buffer and writes to dir, until it is stopped.
func startJournald(t *testing.T, journald, dir string) (stop func()) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := `mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal &&
		mount --bind "$1" /run/log/journal && exec "$2"`
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", dir, journald)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("journald: %s", said.String())
		}
	})
	deadline := time.Now().Add(10 * time.Second)
	for {
		if found, _ := filepath.Glob(filepath.Join(dir, "*/system.journal")); len(found) > 0 {
			return stop
		}
		if time.Now().After(deadline) {
			t.Fatal("journald writes no journal")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// linesInDmesg counts the lines about a namespace as dmesg shows them.
func linesInDmesg(t *testing.T, inode uint64) (n uint64) {
	t.Helper()
	out, err := exec.Command("dmesg").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("table full in netns %d, dropping packet", inode)
	return uint64(strings.Count(string(out), want))
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
