package bench

import (
	"context"
	"fmt"
	"io"
	"os"
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
	evictSoft  = "evict -s 10.99.0.0/16 --soft 1s --no-wait --yes"
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
	fmt.Printf("\ncommands on %d entries\n\n", n)
	all["conntrack -L | awk | sort | …"] = all[shellBySrc]
	report([]string{"bare receive loop", listBySrc, listLines, "conntrack -L | awk | sort | …"}, all, "bare receive loop", n)
	emptied(t, ns)
}

// evictions measures whole commands, journal and preview included.
func evictions(t *testing.T, n int) {
	const deleteTool = "conntrack -D -s PREFIX"
	const reaping = "ctwarden, soft: reaping dump"
	all := make(map[string][]sample)
	for range rounds(3) {
		for _, name := range []string{evictCmd, evictSoft} {
			ns, _ := filled(t, n)
			all[name] = append(all[name], measure(t, name, ns))
			if name == evictSoft {
				time.Sleep(1100 * time.Millisecond)
				all[reaping] = append(all[reaping], measure(t, reaping, ns))
			}
			expect(t, ns, n-n/5)
			emptied(t, ns)
		}
	}
	ns, _ := filled(t, n)
	all[deleteTool] = append(all[deleteTool], measureTool(t, ns, "conntrack", "-D", "-s", prefix.String()))
	emptied(t, ns)
	fmt.Printf("\n%d of %d entries by prefix: whole commands\n\n", n/5, n)
	report([]string{evictCmd, evictSoft, reaping, deleteTool}, all, evictCmd, n/5)
}
