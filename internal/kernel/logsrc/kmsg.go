package logsrc

import (
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
)

// ringBuffer feeds what the kernel's log buffer holds.
func ringBuffer(to Collector, now time.Time) *ct.Blind {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) {
		return nil // a container without it
	}
	if err == nil {
		defer unix.Close(fd)
		err = to.Feed("/dev/kmsg", &kmsg{fd: fd}, klog.Hints{Boot: bootTime(now)})
	}
	if err == nil {
		return nil
	}
	return &ct.Blind{What: "the kernel's log buffer", Why: "/dev/kmsg: " + cause(err).Error(),
		How: "run as root, or: sysctl kernel.dmesg_restrict=0"}
}

// kmsg reads the records that are in the buffer now and then ends; it does not
// wait for more.
type kmsg struct {
	fd   int
	left []byte
	buf  [8192]byte // the longest record: CONSOLE_EXT_LOG_MAX
	// lost counts how often records were overwritten before they were read.
	lost int
}

func (k *kmsg) Read(p []byte) (int, error) {
	for len(k.left) == 0 {
		n, err := unix.Read(k.fd, k.buf[:])
		switch {
		case errors.Is(err, unix.EPIPE) && k.lost < 1000:
			k.lost++
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EINVAL) && k.lost < 1000:
			k.lost++
		case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
			return 0, io.EOF
		case err != nil:
			return 0, err
		default:
			k.left = k.buf[:n]
		}
	}
	n := copy(p, k.left)
	k.left = k.left[n:]
	return n, nil
}

// bootTime is when the kernel's clock, which stands still during suspend,
// began.
func bootTime(now time.Time) time.Time {
	var ts unix.Timespec
	if now.IsZero() || unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return time.Time{}
	}
	return now.Add(-time.Duration(ts.Nano()))
}
