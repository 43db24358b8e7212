package survival

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// Build makes the binary that is measured.
func Build(t testing.TB) string {
	t.Helper()
	built.Do(func() {
		dir, err := os.MkdirTemp("", "ctwarden-survival-")
		if err != nil {
			buildErr = err
			return
		}
		builtFile = filepath.Join(dir, "ctwarden")
		cmd := exec.Command("go", "build", "-o", builtFile, "github.com/ctwarden/ctwarden/cmd/ctwarden")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			buildErr = fmt.Errorf("build ctwarden: %w: %s", err, out)
		}
	})
	if buildErr != nil {
		t.Fatal(buildErr)
	}
	return builtFile
}

var (
	built     sync.Once
	builtFile string
	buildErr  error
)

// logLine is one line that the guard wrote, with the moment it was read.
type logLine struct {
	at   time.Time
	text string
}

// guard is ctwarden's daemon at work.
type guard struct {
	cmd     *exec.Cmd
	host    *lab.Host
	binary  string
	state   string
	mu      sync.Mutex
	lines   []logLine
	written chan struct{}
	once    sync.Once
	gone    chan error
	ended   error
}

func startGuard(f *field, d Defence) *guard {
	f.t.Helper()
	dir := f.t.TempDir()
	g := &guard{host: f.guarded, binary: f.p.Binary, state: filepath.Join(dir, "state"), written: make(chan struct{})}
	args := []string{"guard", "--mode", "enforce", "--netns", f.guarded.Name, "--state-dir", g.state}
	if d == GuardFixed {
		file := filepath.Join(dir, "guard.yaml")
		if err := os.WriteFile(file, []byte(fixedMax), 0o600); err != nil {
			f.t.Fatalf("survival: %v", err)
		}
		args = append(args, "--config", file)
	}
	ready, err := notifySocket(filepath.Join(dir, "notify"))
	if err != nil {
		f.t.Fatalf("survival: %v", err)
	}
	f.t.Cleanup(func() { ready.Close() }) // it goes on to speak to its manager
	g.cmd = exec.Command(f.p.Binary, args...)
	g.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, w, err := os.Pipe()
	if err != nil {
		f.t.Fatalf("survival: %v", err)
	}
	g.cmd.Stdout, g.cmd.Stderr = w, w
	if err := g.start(); err != nil {
		f.t.Fatalf("survival: start the guard: %v", err)
	}
	w.Close()
	go g.read(out)
	f.t.Cleanup(func() { _ = g.stop() })
	if err := awaitReady(ready, g.written); err != nil {
		_ = g.stop()
		f.t.Fatalf("survival: the guard is not ready: %v\n%s", err, strings.Join(g.log(), "\n"))
	}
	return g
}

// start starts the process and waits for it on a thread that lives as long as
// the process: the kernel kills the child of a thread that ends.
func (g *guard) start() error {
	started := make(chan error)
	g.gone = make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := g.cmd.Start()
		started <- err
		if err == nil {
			g.gone <- g.cmd.Wait()
		}
	}()
	return <-started
}

// fixedMax is the configuration of [GuardFixed].
const fixedMax = "means:\n  headroom: false\n"

func notifySocket(path string) (*net.UnixConn, error) {
	return net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
}

// awaitReady waits for READY=1, as systemd does.
func awaitReady(c *net.UnixConn, ended <-chan struct{}) error {
	buf := make([]byte, 4096)
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); {
		select {
		case <-ended:
			return errors.New("it ended")
		default:
		}
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := c.Read(buf)
		if err == nil && strings.Contains(string(buf[:n]), "READY=1") {
			return nil
		}
	}
	return errors.New("no notification within 15 s")
}

func (g *guard) read(r io.ReadCloser) {
	defer close(g.written)
	defer r.Close()
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 1<<20)
	for s.Scan() {
		g.mu.Lock()
		g.lines = append(g.lines, logLine{time.Now(), s.Text()})
		g.mu.Unlock()
	}
}

// log is what it wrote.
func (g *guard) log() (list []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.lines {
		list = append(list, l.at.Format("15:04:05.000 ")+l.text)
	}
	return list
}

// moments are those at which it wrote lines of a kind, in an interval.
func (g *guard) moments(of func(string) bool, from, to time.Time) (list []time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.lines {
		if of(l.text) && l.at.After(from) && l.at.Before(to) {
			list = append(list, l.at)
		}
	}
	return list
}

// stop asks the guard to end and waits until it has put everything back.
func (g *guard) stop() error {
	g.once.Do(func() {
		_ = g.cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(30*time.Second, func() { _ = g.cmd.Process.Kill() })
		g.ended = <-g.gone
		if !kill.Stop() {
			g.ended = errors.New("did not end within 30 s of SIGTERM")
		}
		<-g.written
	})
	return g.ended
}

// cleanup finishes what could not be put back when the guard ended.
func (g *guard) cleanup() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, g.binary, "guard", "cleanup", "--state-dir", g.state).CombinedOutput()
	if err != nil {
		return fmt.Errorf("guard cleanup: %w: %s", err, out)
	}
	return nil
}

// cost is what a process has used.
type cost struct {
	cpu time.Duration
	// rss is the most it has held, in bytes.
	rss int64
}

// cost reads /proc/PID/stat and status; zero where the process is gone.
func (g *guard) cost() (c cost) {
	dir := fmt.Sprintf("/proc/%d/", g.cmd.Process.Pid)
	stat, _ := os.ReadFile(dir + "stat")
	if at := strings.LastIndex(string(stat), ") "); at >= 0 {
		if fields := strings.Fields(string(stat)[at+2:]); len(fields) > 12 {
			user, _ := strconv.Atoi(fields[11])
			system, _ := strconv.Atoi(fields[12])
			c.cpu = time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
		}
	}
	status, _ := os.ReadFile(dir + "status")
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			c.rss = kib << 10
		}
	}
	return c
}
