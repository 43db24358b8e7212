// Package quick is for a process that wakes up ten times a second for years and
// is to cost nothing: what a wake-up needs, without waking the Go runtime's
// other threads.
//
// A system call through package syscall tells the runtime that it may block,
// and each time the runtime's monitor thread wakes up and watches for a while:
// more work than the call itself. So does a timer of the runtime's.
package quick

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReadAt reads from a file whose reading never blocks: one of proc. Unlike
// os.File it may return fewer bytes than there are without an error, and none at
// the end of the file.
func ReadAt(f *File, b []byte, at int64) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_PREAD64, f.fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(at), 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
			continue
		}
		return 0, &os.PathError{Op: "read", Path: f.f.Name(), Err: e}
	}
}

// File is a file of proc that is kept open.
type File struct {
	f  *os.File
	fd uintptr
}

// Open opens a file.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &File{f, f.Fd()}, nil
}

// Name is the path that was opened.
func (f *File) Name() string { return f.f.Name() }

// Close closes it.
func (f *File) Close() error { return f.f.Close() }

// Alarm wakes one goroutine at a moment, and then again and again, or as soon as
// somebody else wants it.
type Alarm struct {
	f    *os.File
	conn syscall.RawConn
	fd   uintptr
	buf  [8]byte
	read func(uintptr) bool
	rung atomic.Bool
	// every is nanoseconds. An alarm always goes on by itself: a Ring and a Set at
	// the same time can delay it, and never end it.
	every int64
}

// NewAlarm makes an alarm that is not set. Once it is, it goes off every so
// often.
func NewAlarm(every time.Duration) (*Alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	a := &Alarm{f: os.NewFile(uintptr(fd), "timer"), fd: uintptr(fd), every: int64(every)}
	if a.conn, err = a.f.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("watch a timer: %w", err), a.f.Close())
	}
	a.read = func(fd uintptr) bool {
		n, _, e := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&a.buf[0])), uintptr(len(a.buf)))
		return e == 0 && n > 0 || e != 0 && e != unix.EAGAIN && e != unix.EINTR
	}
	return a, nil
}

// Set has Wait return after a time, and from then on every so often. It forgets
// what was set before and any Ring.
func (a *Alarm) Set(after time.Duration) {
	t := unix.ItimerSpec{Value: unix.NsecToTimespec(max(int64(after), 1)), Interval: unix.NsecToTimespec(a.every)}
	_, _, _ = unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, a.fd, 0, uintptr(unsafe.Pointer(&t)), 0, 0, 0)
}

// Ring has Wait return now, and from then on every so often. Anybody may call
// it. Whoever waits looks, after each Set and before Wait, at what others may
// have rung for.
func (a *Alarm) Ring() {
	a.rung.Store(true)
	a.Set(0)
}

// Wait waits for the moment that was set, or for Ring, of which it tells.
func (a *Alarm) Wait() (rung bool, err error) {
	err = a.conn.Read(a.read)
	return a.rung.Swap(false), err
}

// Close ends it.
func (a *Alarm) Close() error { return a.f.Close() }
