// Package procfs reads what a Linux machine tells about connection tracking in
// /proc, /sys and a few files of /etc and /run, without opening any subsystem
// that a read would load.
//
// The parsers take readers and never fail on fields or columns that they do
// not know.
package procfs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// maxFileBytes bounds what is read of one file.
const maxFileBytes = 1 << 20

// FS is where the files are. The zero FS is the live machine, seen from the
// network namespace of the calling thread.
type FS struct {
	// Root is the folder of a recorded machine, with proc, sys, etc and run in
	// it; "" is the live one.
	Root string
	// Pid is a process whose network namespace is meant. It needs no rights
	// for the files that everybody may read. 0 is the calling thread.
	Pid int
}

// Live reports whether the files are those of the running machine.
func (f FS) Live() bool { return f.Root == "" }

func (f FS) path(name string) string {
	if f.Live() {
		return "/" + name
	}
	return filepath.Join(f.Root, name)
}

// net is the path of a file of the network namespace. /proc/net and
// /proc/self/net show the namespace of the process's first thread whatever
// thread reads them.
func (f FS) net(name string) string {
	switch {
	case f.Pid != 0:
		return f.path("proc/" + strconv.Itoa(f.Pid) + "/net/" + name)
	case f.Root != "":
		return f.path("proc/net/" + name)
	}
	if _, err := os.Stat("/proc/thread-self"); err != nil { // before 3.17
		return "/proc/self/task/" + strconv.Itoa(gettid()) + "/net/" + name
	}
	return "/proc/thread-self/net/" + name
}

// read returns at most limit bytes of a file.
func read(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func openNet[T any](f FS, name, what string, parse func(io.Reader) (T, error)) (T, error) {
	return open(f.net(name), what, parse)
}

// open parses a file, saying in errors what was looked for.
func open[T any](path, what string, parse func(io.Reader) (T, error)) (T, error) {
	var zero T
	f, err := os.Open(path)
	if err != nil {
		return zero, fmt.Errorf("read %s: %w", what, err)
	}
	defer f.Close()
	v, err := parse(f)
	if err != nil {
		return v, fmt.Errorf("read %s from %s: %w", what, path, err)
	}
	return v, nil
}
