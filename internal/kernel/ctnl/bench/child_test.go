package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Every subject runs in a process of its own, so that memory and processor
// time are its own too.
const subjectEnv, netnsEnv = "CTWARDEN_BENCH_SUBJECT", "CTWARDEN_BENCH_NETNS"

func TestMain(m *testing.M) {
	if name := os.Getenv(subjectEnv); name != "" {
		if err := child(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// sample is one measurement.
type sample struct {
	Wall, CPU     time.Duration
	Entries       int
	Allocs, Bytes uint64 // by Go's allocator, where the subject is in Go
	MaxRSS        int64  // bytes, the most that the process ever had resident
}

func child(name string) error {
	f, ok := subjects[name]
	if !ok {
		return fmt.Errorf("unknown subject %q", name)
	}
	var s sample
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, wall := cpuTime(), time.Now()
	n, err := f(os.Getenv(netnsEnv))
	s.Wall, s.CPU = time.Since(wall), cpuTime()-cpu
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	runtime.ReadMemStats(&after)
	s.Entries, s.Allocs, s.Bytes = n, after.Mallocs-before.Mallocs, after.TotalAlloc-before.TotalAlloc
	if s.MaxRSS, err = highWater(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// highWater reads VmHWM. The kernel's ru_maxrss would include what the parent
// had when it forked.
func highWater() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	return kib << 10, err
}

func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// command prepares a subject's process.
func command(t testing.TB, name, ns string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), subjectEnv+"="+name, netnsEnv+"="+ns)
	cmd.Stderr = os.Stderr
	return cmd
}

// measure runs a subject once.
func measure(t testing.TB, name, ns string) sample {
	t.Helper()
	cmd := command(t, name, ns)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return result(t, out.Bytes())
}

func result(t testing.TB, out []byte) sample {
	t.Helper()
	var s sample
	if err := json.Unmarshal(out[bytes.IndexByte(out, '{'):], &s); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return s
}

// measureTool runs a program in a namespace, its output going nowhere.
func measureTool(t testing.TB, ns string, args ...string) sample {
	t.Helper()
	cmd := tool(ns, args...)
	wall := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	p := cmd.ProcessState
	return sample{Wall: time.Since(wall), CPU: p.UserTime() + p.SystemTime(), MaxRSS: maxRSS(cmd)}
}

func tool(ns string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + ns}, args...)...)
}

func maxRSS(cmd *exec.Cmd) int64 {
	return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
}
