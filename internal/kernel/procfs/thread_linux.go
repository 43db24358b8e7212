package procfs

import (
	"time"

	"golang.org/x/sys/unix"
)

// CPUTime returns the processor time that this process has used, in the kernel
// too; 0 if the kernel does not tell.
func CPUTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func gettid() int { return unix.Gettid() }
