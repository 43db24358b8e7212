package netns

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Scratch calls fn on a thread in a namespace made for it, with the loopback
// up, that goes when fn returns. It needs CAP_SYS_ADMIN.
func Scratch(fn func() error) error {
	done := make(chan error, 1)
	go scratch(fn, done)
	return <-done
}

// scratch never unlocks its thread, as visit.
func scratch(fn func() error, done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		inner := make(chan error, 1)
		go scratch(fn, inner)
		done <- <-inner
		runtime.UnlockOSThread()
		return
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		done <- fmt.Errorf("make a network namespace: %w", err)
		return
	}
	if err := loopbackUp(); err != nil {
		done <- fmt.Errorf("bring the loopback up: %w", err)
		return
	}
	done <- fn()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
