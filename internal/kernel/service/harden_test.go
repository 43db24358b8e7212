package service

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGently gives up the raised priority of one thread, for as long as asked.
func TestGently(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	nice := func() int {
		n, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
		if err != nil {
			t.Error(err)
		}
		return 20 - n
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -5); err != nil {
			t.Error(err)
		}
		if before := Lower(); before != -5 || nice() != 0 {
			t.Errorf("it was %d before and is %d", before, nice())
		}
		if before := Lower(); before != 0 || nice() != 0 {
			t.Errorf("once more, it was %d before and is %d", before, nice())
		}
	}()
	<-done
	if err := raisePriority(); err != nil {
		t.Fatal(err)
	}
	Gently(func() {
		if n := nice(); n != 0 {
			t.Errorf("gently is a niceness of %d", n)
		}
	})
	for range 100 { // no thread was left behind that is slower
		Gently(func() {})
	}
	in := make(chan int, 8)
	for range cap(in) {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			in <- nice()
		}()
	}
	for range cap(in) {
		if n := <-in; n != niceness {
			t.Errorf("another goroutine has a niceness of %d, not %d", n, niceness)
		}
	}
}
