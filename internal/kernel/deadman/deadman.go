// Package deadman keeps a process alive that undoes a trial when nobody else
// does: a private copy of this program, in a session of its own, and a systemd
// timer besides where systemd runs.
package deadman

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/kernel/netns"
)

// Deadman starts the processes that guard trials.
type Deadman struct {
	// Dir is the state directory; the copy of the program lives there, so that
	// the trial does not depend on the file it was started from.
	Dir string
	// Args are the arguments with which the copy guards an operation. It must
	// call [Ready] once it has understood its task.
	Args func(id string) []string
}

// notLoaded is systemctl's exit code for a unit that does not exist.
const notLoaded = 5

const (
	readyFD   = 3
	readyText = "ready\n"
	// A machine in trouble is slow.
	readyWait    = 30 * time.Second
	commandWait  = 45 * time.Second
	copyPrefix   = "guard-"
	maxProgram   = 256 << 20
	systemdAlive = "/run/systemd/system"
)

// Arm starts the guard of an operation and returns its name once it has said
// that it runs. deadline is on CLOCK_BOOTTIME.
func (d Deadman) Arm(id string, deadline time.Duration) (name string, err error) {
	program, err := d.copySelf(id)
	if err != nil {
		return "", fmt.Errorf("copy this program: %w", err)
	}
	pid, err := d.start(program, id)
	if err != nil {
		return "", errors.Join(err, os.Remove(program))
	}
	name = fmt.Sprintf("pid %d", pid)
	if timer := unitOf(id) + ".timer"; hasSystemd() {
		if err := d.startTimer(program, id, deadline); err != nil {
			return "", fmt.Errorf("start timer %q: %w", timer, err)
		}
		name += ", " + timer
	}
	return name, nil
}

// copySelf copies the running program, whose own file may be gone tomorrow.
func (d Deadman) copySelf(id string) (path string, err error) {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer in.Close()
	path = d.program(id)
	if _, err := os.Lstat(path); err == nil {
		return path, nil // of a guard that waits already
	}
	unfinished := path + ".new"
	out, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o700)
	if err != nil {
		return "", err
	}
	n, err := io.Copy(out, io.LimitReader(in, maxProgram))
	if err == nil && n == maxProgram {
		err = errors.New("it is too large")
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = os.Rename(unfinished, path)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(unfinished))
	}
	return path, nil
}

func (d Deadman) program(id string) string {
	return filepath.Join(d.Dir, copyPrefix+filepath.Base(id))
}

// start runs the copy in a session of its own, away from the terminal, and
// waits until it is ready.
func (d Deadman) start(program, id string) (pid int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	log, err := os.OpenFile(filepath.Join(d.Dir, "guard.log"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, errors.Join(err, w.Close())
	}
	defer log.Close()
	if err := closeOnExec(); err != nil {
		return 0, errors.Join(err, w.Close())
	}
	cmd := exec.Command(program, d.Args(id)...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: programs may not run there (mounted noexec?); --state-dir names another place", err)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return 0, fmt.Errorf("start guard: %w", err)
	}
	go cmd.Wait() //nolint:errcheck // reaped if this process lives on; the journal tells how it went
	if err := awaitReady(r); err != nil {
		return 0, errors.Join(fmt.Errorf("start guard: %w (see %s)", err, log.Name()), cmd.Process.Kill())
	}
	return cmd.Process.Pid, nil
}

// closeOnExec keeps what this process was born with, such as the descriptor by
// which flock(1) holds its lock, from living on in the guard.
func closeOnExec() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func awaitReady(r *os.File) error {
	if err := r.SetReadDeadline(time.Now().Add(readyWait)); err != nil {
		return err
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if line != readyText {
		return errors.Join(fmt.Errorf("it said %q", line), err)
	}
	return nil
}

// Ready tells the process that armed this one that it has taken over. Without
// such a process, as when a timer started it, it does nothing.
func Ready() {
	if _, err := unix.FcntlInt(readyFD, unix.F_GETFD, 0); err != nil {
		return
	}
	f := os.NewFile(readyFD, "ready")
	fi, err := f.Stat()
	if err != nil || fi.Mode()&fs.ModeNamedPipe == 0 {
		return
	}
	io.WriteString(f, readyText) //nolint:errcheck // the one who waits has a deadline
	f.Close()
}

// Disarm takes down the timer and the copy. The process itself notices by the
// journal that nothing is left to guard.
func (d Deadman) Disarm(id, name string) error {
	err := os.Remove(d.program(id))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if strings.Contains(name, ".timer") && hasSystemd() {
		stopped := run("systemctl", "stop", unitOf(id)+".timer")
		var exit *exec.ExitError
		if errors.As(stopped, &exit) && exit.ExitCode() == notLoaded {
			stopped = nil // it has run, or went with a reboot or an earlier stop
		}
		err = errors.Join(err, stopped)
	}
	return err
}

func hasSystemd() bool { return SystemdRuns() && inFirstNetns() }

// SystemdRuns reports whether systemd is this machine's init, as
// sd_booted(3) does.
func SystemdRuns() bool {
	_, err := os.Stat(systemdAlive)
	return err == nil
}

// inFirstNetns reports whether a unit of systemd would work in our namespace.
func inFirstNetns() bool {
	own, err1 := netns.Inode("")
	first, err2 := netns.Inode("1")
	return err1 == nil && err2 == nil && own == first
}

func unitOf(id string) string { return "ctwarden-trial-" + filepath.Base(id) }

// startTimer sets a transient timer that runs the copy at the deadline: it
// fires also when every process of ours has been killed.
func (d Deadman) startTimer(program, id string, deadline time.Duration) error {
	wait := max(deadline-Boottime(), 0) + time.Second // the process itself goes first
	unit := unitOf(id)
	args := append([]string{"--unit=" + unit, fmt.Sprintf("--on-active=%ds", int(wait.Seconds()+0.999)),
		"--timer-property=AccuracySec=1s", "--", program}, d.Args(id)...)
	if err := run("systemd-run", append([]string{"--collect"}, args...)...); err != nil {
		// Before version 236 it does not know how to collect a unit that failed.
		if run("systemd-run", args...) != nil {
			return err
		}
	}
	return run("systemctl", "--quiet", "is-active", unit+".timer")
}

// TimerWaits reports whether the timer of an operation will still fire.
func (d Deadman) TimerWaits(id string) bool {
	return hasSystemd() && run("systemctl", "--quiet", "is-active", unitOf(id)+".timer") == nil
}

func run(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandWait)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out[:min(len(out), 500)])))
	}
	return nil
}

// OutliveReaders lets this process go on where the reader of what it says has
// gone, as in "2>&1 | head -1": half a change would be worse than words that
// nobody hears. Call it before the first write.
func OutliveReaders() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// Boottime is CLOCK_BOOTTIME: time since the boot, time asleep included.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// BootID is the id of this boot.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the id of this boot: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Clock waits on CLOCK_BOOTTIME.
type Clock struct{}

// Until returns when CLOCK_BOOTTIME has reached t, or with the context's
// error. It looks anew each second, because other clocks stand still while the
// machine sleeps.
func (Clock) Until(ctx context.Context, t time.Duration) error {
	for {
		left := t - Boottime()
		if left <= 0 {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(left, time.Second)):
		}
	}
}
