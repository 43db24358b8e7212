package service

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// Niceness and place in the queue of those that are killed for memory. A
// real-time class is left alone on purpose: a mistake in it would take a core
// from the traffic that is to be helped.
const (
	niceness    = -10
	oomScoreAdj = -900
)

// Small makes this process content with little: one thread at a time, and a
// heap that is collected early.
func Small(memoryBytes int64) {
	Threads(1)
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(memoryBytes)
}

// Threads sets how many threads run at once, at most. With one the runtime wakes
// no other thread for each thing that becomes ready.
func Threads(n int) { runtime.GOMAXPROCS(min(n, runtime.NumCPU())) }

// Shrink gives memory back to the system.
func Shrink() { debug.FreeOSMemory() }

// Harden raises this process above the flood that it is to weather: priority,
// no swapping, last to be killed for memory. What could not be had is returned;
// nothing of it is needed.
func Harden() []error {
	var errs []error
	if err := lockMemory(); err != nil {
		errs = append(errs, fmt.Errorf("memory is not locked: %w", err))
	}
	if err := raisePriority(); err != nil {
		errs = append(errs, fmt.Errorf("priority is not raised: %w", err))
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(oomScoreAdj)), 0); err != nil {
		errs = append(errs, fmt.Errorf("it may be killed for memory like others: %w", err))
	}
	return errs
}

var errLimit = errors.New("needs CAP_IPC_LOCK or no limit of locked memory")

// lockMemory keeps pages in memory once they were there. Without the right to
// lock any amount it does nothing: later allocations would fail.
func lockMemory() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err != nil {
		return err
	}
	if lim.Cur != unix.RLIM_INFINITY && !capable(unix.CAP_IPC_LOCK) {
		return errLimit
	}
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}

func capable(c int) bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		return false
	}
	return d[c/32].Effective&(1<<(c%32)) != 0
}

// raisePriority raises each thread that there is; later ones inherit it.
func raisePriority() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		err = unix.Setpriority(unix.PRIO_PROCESS, tid, niceness)
		if err != nil && !errors.Is(err, unix.ESRCH) { // a thread that has ended meanwhile
			return err
		}
	}
	return nil
}

// Gently runs fn without the raised priority, for what takes a while and is not
// urgent: ahead of everybody it would hold up the services of the machine for as
// long.
func Gently(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		before := Lower()
		fn()
		if before >= 0 || unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), before) == nil {
			runtime.UnlockOSThread() // else the thread ends with the goroutine
		}
	}()
	<-done
}

// Lower gives up the raised priority of the calling thread, to which the goroutine
// must be locked. It returns the niceness that the thread had.
func Lower() int {
	// The system call returns 20 less the niceness.
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
	if nice := 20 - raw; err == nil && nice < 0 {
		if unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 0) == nil {
			return nice
		}
	}
	return 0
}

// ResidentBytes is how much memory this process occupies.
func ResidentBytes() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
