package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// twoLines is all that a person pasted: the second line is cut short.
const twoLines = "kernel: nf_conntrack: table full, dropping packet.\nkernel: __ratelimit: 15812 callbacks suppresse"

type ran struct {
	code     int
	out, err string
}

// run executes a command line with an input, on a terminal if tty.
func runCLI(input string, tty bool, vars map[string]string, args ...string) ran {
	var out, errOut bytes.Buffer
	code := Run(context.Background(), &Env{
		Args: args, Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errOut, StdoutTTY: tty,
		Getenv: func(k string) string { return vars[k] }, Now: time.Now, Width: 80,
	})
	return ran{code, out.String(), errOut.String()}
}

func TestCheckTwoLinesOfLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kern.log")
	if err := os.WriteFile(path, []byte(twoLines), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]ran{
		"a file":         runCLI("", false, nil, "check", "--log", path, "--log-only"),
		"standard input": runCLI(twoLines, false, nil, "check", "--log", "-", "--log-only"),
	} {
		if r.code != ExitFound || r.err != "" {
			t.Errorf("%s: exit code %d, stderr %q", name, r.code, r.err)
		}
		for _, want := range []string{"The table was full", "at least 1 packet", "15,813", "not on memory", "ctwarden check", "2.6.18 to 3.3"} {
			if !strings.Contains(strings.Join(strings.Fields(r.out), " "), want) {
				t.Errorf("%s: the answer lacks %q:\n%s", name, want, r.out)
			}
		}
	}
	r := runCLI(twoLines, false, nil, "check", "--json", "--log", "-", "--log-only")
	validate(t, []byte(r.out))
}

func TestCheckLogWithoutMessage(t *testing.T) {
	r := runCLI("Mar  1 03:12:00 gw1 sshd[99]: somebody asks why the table is full\n", false, nil, "check", "--log", "-", "--log-only")
	if r.code != ExitOK || !strings.Contains(r.out, "says nothing of a full table") {
		t.Errorf("exit code %d:\n%s%s", r.code, r.out, r.err)
	}
}

// Hostile text in a log must not reach the terminal as control codes.
func TestCheckLogCannotSteerTerminal(t *testing.T) {
	evil := "Mar  1 03:12:00 \x1b]0;pwned\x07host kernel: nf_conntrack: table full, dropping packet\n" + twoLines
	r := runCLI(evil, false, nil, "check", "--log", "-", "--log-only", "--verbose")
	if strings.ContainsAny(r.out, "\x1b\x07\u009b") {
		t.Errorf("control codes of the log in the answer:\n%q", r.out)
	}
}

func TestCheckRefuses(t *testing.T) {
	for name, args := range map[string][]string{
		"a format that does not exist": {"-o", "yaml"},
		"a negative time":              {"--observe", "-1s"},
		"a missing log":                {"--log", "/nonexistent/kern.log", "--log-only"},
		"a namespace for logs alone":   {"--netns", "x", "--log-only"},
		"an argument":                  {"now"},
	} {
		r := runCLI("", false, nil, append([]string{"check"}, args...)...)
		if r.code != ExitFailed || r.out != "" || !strings.HasPrefix(r.err, "ctwarden: ") {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", name, r.code, r.out, r.err)
		}
	}
}

// Colour repeats what words say: without it the text is the same, and nobody
// who asked for none gets any.
func TestCheckColourIsNeverTheOnlyCarrier(t *testing.T) {
	args := []string{"check", "--log", "-", "--log-only"}
	plain := runCLI(twoLines, false, nil, args...).out
	colour := runCLI(twoLines, true, nil, args...).out
	if !strings.Contains(colour, "\x1b[") {
		t.Fatal("no colour on a terminal")
	}
	if got := stripColour(colour); cutTime(got) != cutTime(plain) {
		t.Errorf("without its colour the text differs:\n%s\n%s", got, plain)
	}
	for name, r := range map[string]ran{
		"NO_COLOR":   runCLI(twoLines, true, map[string]string{"NO_COLOR": "1"}, args...),
		"--no-color": runCLI(twoLines, true, nil, append(args, "--no-color")...),
		"TERM=dumb":  runCLI(twoLines, true, map[string]string{"TERM": "dumb"}, args...),
		"a pipe":     runCLI(twoLines, false, nil, args...),
	} {
		if strings.Contains(r.out, "\x1b") {
			t.Errorf("colour in spite of %s", name)
		}
	}
}

func stripColour(s string) string {
	for {
		i := strings.Index(s, "\x1b[")
		if i < 0 {
			return s
		}
		j := strings.IndexByte(s[i:], 'm')
		s = s[:i] + s[i+j+1:]
	}
}

// cutTime takes the line with the time of the reading away.
func cutTime(s string) string {
	var kept []string
	for line := range strings.Lines(s) {
		if !strings.HasPrefix(line, "from logs alone") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// Lines fit a terminal of 80 columns, except commands, which are pasted whole.
func TestCheckFitsEightyColumns(t *testing.T) {
	out := runCLI(twoLines, false, nil, "check", "--log", "-", "--log-only").out
	for line := range strings.Lines(out) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 && !strings.HasPrefix(line, "      ") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}
