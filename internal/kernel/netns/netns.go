// Package netns enters network namespaces.
//
// A namespace belongs to a thread, and a Go routine moves between threads. So
// every visit runs on a thread of its own that goes back before the visit ends
// and is given up afterwards: no other code ever runs on a thread that has
// been elsewhere, and nothing keeps the visited namespace alive.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotFound says that no namespace answers to a name, process id or path.
var ErrNotFound = errors.New("no such network namespace")

// Path returns the file that stands for a namespace: "" is that of the calling
// thread, a number a process id, anything with a slash a path, and any other
// word a name made by ip-netns(8). To name a namespace whose name is a number,
// give its path.
func Path(ref string) string {
	switch {
	case ref == "":
		return "/proc/thread-self/ns/net"
	case strings.Contains(ref, "/"):
		return ref
	case isNumber(ref):
		return "/proc/" + ref + "/ns/net"
	}
	return filepath.Join("/run/netns", ref)
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

// Do runs fn inside a namespace and returns its error. fn must not start
// goroutines that rely on the namespace: they run outside. Sockets and files
// under /proc/sys that fn opens stay bound to the namespace; those under
// /proc/net must be opened as /proc/thread-self/net.
//
// It needs CAP_SYS_ADMIN in the namespace's user namespace and in its own;
// with ref "" it needs nothing.
func Do(ref string, fn func() error) error {
	if ref == "" {
		return fn()
	}
	done := make(chan error, 1)
	go visit(ref, fn, done)
	return <-done
}

// visit never unlocks its thread, which therefore ends with it. The main
// thread would be parked instead of ended, and must not go visiting: /proc/self
// would show what it saw last.
func visit(ref string, fn func() error, done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		inner := make(chan error, 1)
		go visit(ref, fn, inner)
		done <- <-inner
		runtime.UnlockOSThread()
		return
	}
	done <- visitHere(ref, fn)
}

func visitHere(ref string, fn func() error) (err error) {
	home, err := open(Path(""))
	if err != nil {
		return err
	}
	defer unix.Close(home)
	target, err := open(Path(ref))
	if err != nil {
		return fmt.Errorf("open network namespace %q: %w", ref, err)
	}
	err = unix.Setns(target, unix.CLONE_NEWNET)
	unix.Close(target)
	if err != nil {
		return fmt.Errorf("enter network namespace %q: %w", ref, err)
	}
	defer func() {
		if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("leave network namespace %q: %w", ref, back))
		}
	}()
	return fn()
}

func open(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return -1, fmt.Errorf("%w: %s", ErrNotFound, path)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// Inode returns the inode number of a namespace: the number in "net:[N]", in
// "ip netns list-id" and, from 6.17, in the kernel's "table full in netns N".
func Inode(ref string) (uint64, error) {
	path := Path(ref)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return 0, fmt.Errorf("%w: %s", ErrNotFound, path)
		}
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// Initial reports whether a namespace is the one the machine booted with, the
// only one where nf_conntrack_max and nf_conntrack_buckets can be written. It
// looks for a sysctl that exists in no other (net_core_table in
// net/core/sysctl_net_core.c), because process 1 of a container is no witness.
func Initial(ref string) (bool, error) {
	initial := false
	err := Do(ref, func() error {
		if _, err := os.Stat("/proc/sys/net/core"); err != nil {
			return err
		}
		_, err := os.Stat("/proc/sys/net/core/netdev_max_backlog")
		initial = err == nil
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return initial, err
}
