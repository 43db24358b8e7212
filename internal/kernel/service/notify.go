// Package service is what a daemon needs of the system that runs it: the
// service manager's protocol, priority, locked memory, and a socket on which it
// answers questions.
package service

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// States for [Notify], sd_notify(3).
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	Alive    = "WATCHDOG=1"
)

// Notify tells the service manager a state. Without one it does nothing.
func Notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the service manager %q: %w", state, err)
	}
	_, err = c.Write([]byte(state))
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return err
}

// Reloading is the state of a service that reads its configuration anew, until
// it is [Ready] again.
func Reloading(monotonic time.Duration) string {
	return "RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(monotonic.Microseconds(), 10)
}

// Watchdog returns how often the service manager wants to hear [Alive]; 0 if it
// does not.
func Watchdog() time.Duration {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// OnHangup takes SIGHUP away from whoever else listened to it, for a daemon that
// reads its configuration anew, and calls f for it until stop is called.
func OnHangup(f func()) (stop func()) {
	c, ended := make(chan os.Signal, 1), make(chan struct{})
	signal.Ignore(syscall.SIGHUP) // takes it from others, and leaves no moment in which it would kill
	signal.Notify(c, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-c:
				f()
			case <-ended:
				return
			}
		}
	}()
	return func() {
		signal.Stop(c)
		signal.Ignore(syscall.SIGHUP) // its end is no reason to be killed
		close(ended)
	}
}

// Monotonic is CLOCK_MONOTONIC, which the service manager compares reloads by.
func Monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
