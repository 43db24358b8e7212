package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/cli"
)

// Command lines of ctwarden that are measured, as names of subjects.
const (
	listBySrc  = "list --by src --top 20"
	listLines  = "list -o conntrack"
	evictCmd   = "evict -s 10.99.0.0/16 --yes"
	evictSoft  = "evict -s 10.99.0.0/16 --soft 1s --yes"
	shellBySrc = `conntrack -L 2>/dev/null | awk '{for (i = 1; i <= NF; i++) if ($i ~ /^src=/) {print $i; break}}' | sort | uniq -c | sort -rn | head -20`
)

func init() {
	for _, line := range []string{listBySrc, listLines, evictCmd, evictSoft} {
		subjects[line] = commandLine(line)
	}
}

// commandLine runs a command line as the program would, what it prints going
// nowhere.
func commandLine(line string) func(string) (int, error) {
	return func(ns string) (int, error) {
		state, err := os.MkdirTemp("", "ctwarden-bench-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(state)
		env := cli.NewEnv()
		env.Args = append(strings.Fields(line), "--netns", ns)
		env.Stdout, env.StdinTTY, env.StdoutTTY = io.Discard, false, false
		env.Getenv = func(key string) string {
			if key == "CTWARDEN_STATE_DIR" {
				return state
			}
			return os.Getenv(key)
		}
		if code := cli.Run(context.Background(), env); code != cli.ExitOK {
			return 0, fmt.Errorf("exit code %d", code)
		}
		return 0, nil
	}
}

// softWait is how long evictSoft waits before it clears away what has run down.
const softWait = 2 * time.Second

// program is the size of the program itself, which measures have the test
// binary's added to: what a whole process takes that lists the table.
func program(t *testing.T, ns string) sample {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ctwarden")
	build := exec.Command("go", "build", "-o", path, "github.com/ctwarden/ctwarden/cmd/ctwarden")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return measureTool(t, ns, path, "list", "-o", "conntrack")
}

// lists measures the command line on a table of n entries, against the bare
// receive loop and what people do without it.
func lists(t *testing.T, n int) {
	ns, _ := filled(t, n)
	all := make(map[string][]sample)
	for round := range rounds(3) {
		for _, name := range []string{"bare receive loop", listBySrc, listLines} {
			all[name] = append(all[name], measure(t, name, ns))
		}
		if round < 2 {
			all[shellBySrc] = append(all[shellBySrc], measureTool(t, ns, "sh", "-c", shellBySrc))
		}
	}
	const itself = "the program: list -o conntrack"
	all[itself] = []sample{program(t, ns)}
	fmt.Printf("\ncommands on %d entries\n\n", n)
	all["conntrack -L | awk | sort | …"] = all[shellBySrc]
	report([]string{"bare receive loop", listBySrc, listLines, itself, "conntrack -L | awk | sort | …"}, all, "bare receive loop", n)
	emptied(t, ns)
}

// evictions measures whole commands, journal and preview included. A soft
// eviction clears away what has run down too; what it waits for that is not
// counted.
func evictions(t *testing.T, n int) {
	const deleteTool = "conntrack -D -s PREFIX"
	all := make(map[string][]sample)
	for range rounds(3) {
		for _, name := range []string{evictCmd, evictSoft} {
			ns, _ := filled(t, n)
			s := measure(t, name, ns)
			if name == evictSoft {
				s.Wall -= softWait
			}
			all[name] = append(all[name], s)
			expect(t, ns, n-n/5)
			emptied(t, ns)
		}
		ns, _ := filled(t, n)
		all[deleteTool] = append(all[deleteTool], measureTool(t, ns, "conntrack", "-D", "-s", prefix.String()))
		emptied(t, ns)
	}
	fmt.Printf("\n%d of %d entries by prefix: whole commands, without the %s that a soft one waits\n\n", n/5, n, softWait)
	report([]string{evictCmd, evictSoft, deleteTool}, all, evictCmd, n/5)
}
