// Package procs lists the processes of a machine as far as connection tracking
// is concerned: which network namespace each lives in, and which container,
// pod or unit it belongs to.
package procs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process is one process. What could not be read stays zero: processes vanish
// while they are looked at, and other users' namespaces are not shown to an
// unprivileged reader.
type Process struct {
	Pid        int
	Comm       string
	NetnsInode uint64
	Kernel     bool // a kernel thread: no command line, no files
}

// FS is where /proc stands: Root "" is the live machine.
type FS struct{ Root string }

func (f FS) path(pid int, name string) string {
	return filepath.Join("/", f.Root, "proc", strconv.Itoa(pid), name)
}

// maxFile bounds what is read of one file of /proc.
const maxFile = 256 << 10

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxFile))
}

// Each calls fn for every process, in the order of /proc, until fn returns
// false or the context ends. A process that vanishes meanwhile is passed over.
func (f FS) Each(ctx context.Context, fn func(Process) bool) error {
	dir, err := os.Open(filepath.Join("/", f.Root, "proc"))
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(512)
		for _, n := range names {
			pid, perr := strconv.Atoi(n)
			if perr != nil || pid <= 0 {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			p, ok := f.process(pid)
			if ok && !fn(p) {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list processes: %w", err)
		}
	}
}

func (f FS) process(pid int) (Process, bool) {
	comm, err := read(f.path(pid, "comm"))
	if err != nil {
		return Process{}, false
	}
	p := Process{Pid: pid, Comm: string(bytes.TrimSpace(comm))}
	if link, err := os.Readlink(f.path(pid, "ns/net")); err == nil {
		p.NetnsInode, _ = inode(link)
	}
	return p, true
}

func inode(link string) (uint64, error) {
	s, ok := strings.CutPrefix(link, "net:[")
	if !ok {
		return 0, fmt.Errorf("%q is not a network namespace", link)
	}
	return strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
}

// Args returns the command line of a process, at most 256 KiB of it; nil for
// kernel threads.
func (f FS) Args(pid int) []string {
	data, err := read(f.path(pid, "cmdline"))
	if err != nil || len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
}

// NetnsInode reads the namespace of a process once more, so that a reader can
// tell whether the process that it looked at is still the same.
func (f FS) NetnsInode(pid int) (uint64, error) {
	link, err := os.Readlink(f.path(pid, "ns/net"))
	if err != nil {
		return 0, err
	}
	return inode(link)
}

// Owner says which container, pod or unit a process belongs to, by its control
// groups; "" where they tell nothing.
func (f FS) Owner(pid int) string {
	data, err := read(f.path(pid, "cgroup"))
	if err != nil {
		return ""
	}
	return ParseCgroup(string(data))
}
