package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const maxPath = "/proc/sys/net/netfilter/nf_conntrack_max"

// Require is the gate of every test that needs root, connection tracking in
// the running kernel, ip and nft, and the tools named besides. Where something
// is missing the test is skipped with the reason, and fails if CI is "true".
// Under -short such tests are always skipped.
//
// The first call in a process removes what killed runs have left behind.
func Require(t testing.TB, tools ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("lab: the running kernel is not used under -short")
	}
	if err := missing(append([]string{"ip", "nft"}, tools...)); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("lab: %v, and CI may not skip it", err)
		}
		t.Skipf("lab: %v", err)
	}
	prepare.Do(func() {
		raiseFileLimit()
		prepareErr = recoverDeadRuns()
	})
	if prepareErr != nil {
		t.Fatalf("lab: %v", prepareErr)
	}
}

var (
	prepare    sync.Once
	prepareErr error
)

// missing says what stands in the way of using the running kernel.
func missing(tools []string) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed to make network namespaces")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed; make deps installs it", tool)
		}
	}
	if _, err := os.Stat(maxPath); errors.Is(err, fs.ErrNotExist) {
		loadConntrack()
	}
	if _, err := os.Stat(maxPath); err != nil {
		return fmt.Errorf("connection tracking is not in this kernel: %w", err)
	}
	return nil
}

// loadConntrack asks for the modules that a kernel may have built apart. A
// failure shows in what is missing afterwards.
func loadConntrack() {
	for _, module := range []string{"nf_conntrack", "nf_conntrack_netlink", "nf_tables"} {
		_ = exec.Command("modprobe", "-q", module).Run()
	}
}

// raiseFileLimit lets a test hold as many connections as this process may. It
// asks for more than the hard limit first, which only some may have.
func raiseFileLimit() {
	const want = 200_000
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil || lim.Cur >= want {
		return
	}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: want, Max: max(lim.Max, want)}) != nil {
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: lim.Max, Max: lim.Max})
	}
}

// recoverDeadRuns removes namespaces whose process is gone, with the processes
// that still run in them, and restores limits that it had changed.
func recoverDeadRuns() error {
	names, err := namespaceNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		owner, ok := ownerOf(name)
		if !ok || owner.alive() {
			continue
		}
		if err := removeNamespace(name); err != nil {
			return fmt.Errorf("remove what a killed run left: %w", err)
		}
	}
	return recoverLimits()
}

// owner is the process that made something. The start time tells it from a
// later process with the same number.
type owner struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since boot
}

var self = sync.OnceValue(func() owner {
	start, err := processStart(os.Getpid())
	if err != nil {
		panic(fmt.Sprintf("lab: read my own start time: %v", err))
	}
	return owner{PID: os.Getpid(), Start: start}
})

func (o owner) alive() bool {
	start, err := processStart(o.PID)
	return err == nil && start == o.Start
}

// processStart reads field 22 of /proc/PID/stat. Zombies count as gone.
func processStart(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in field 2 may hold anything but ends at the last parenthesis.
	_, rest, ok := cutLast(string(b), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: too few fields", pid)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fs.ErrNotExist
	}
	var start uint64
	if _, err := fmt.Sscan(fields[19], &start); err != nil {
		return 0, fmt.Errorf("/proc/%d/stat: start time: %w", pid, err)
	}
	return start, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// run executes a command, with input on its standard input, and puts what it
// printed into the error.
func run(input string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, firstLines(string(out), 5))
	}
	return nil
}

func firstLines(s string, n int) string {
	var b strings.Builder
	sc := bufio.NewScanner(strings.NewReader(s))
	for i := 0; i < n && sc.Scan(); i++ {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(sc.Text())
	}
	return b.String()
}
