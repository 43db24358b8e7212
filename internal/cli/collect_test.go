package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// runCommand runs a command line in this process.
func runCommand(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	env := &Env{Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &err,
		Getenv: func(string) string { return "" }, Now: time.Now, Width: 80}
	code = Run(context.Background(), env)
	return code, out.String(), err.String()
}

// TestCollectAndCheck collects this machine, with whatever rights the test has,
// and reads it back: from the archive, and from a folder it was unpacked to.
func TestCollectAndCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "server.tar.zst")
	log := filepath.Join(t.TempDir(), "kern.log")
	line := "2025-11-22T10:00:00+00:00 gw kernel: nf_conntrack: nf_conntrack: table full, dropping packet\n"
	if err := os.WriteFile(log, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := runCommand("collect", "--observe", "0", "--log", log, "-o", file)
	if code != ExitOK || !strings.Contains(stderr, "ctwarden check --from "+file) {
		t.Fatalf("collect: exit code %d\n%s", code, stderr)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	_, first, stderr := runCommand("check", "--from", file)
	if !strings.Contains(first, "was full on host gw") {
		t.Errorf("check --from:\n%s%s", first, stderr)
	}
	if _, again, _ := runCommand("check", "--from", file); again != first {
		t.Error("read again it differs")
	}
	if code, _, stderr := runCommand("collect", "--observe", "0", "--log", log, "-o", file); code != ExitFailed || !strings.Contains(stderr, "is there already") {
		t.Errorf("written over: exit code %d\n%s", code, stderr)
	}
}

func TestCheckFromRefuses(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no archive at all, but a text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"--from /nowhere":             `open "/nowhere": no such file`,
		"--from " + text:              "invalid input: magic number",
		"--from " + text + " --full":  "--from reads no namespace",
		"--from " + text + " --log x": "--from reads no namespace",
	} {
		code, stdout, stderr := runCommand(append([]string{"check"}, strings.Fields(args)...)...)
		if code != ExitFailed || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("check %s: exit code %d\n%s%s", args, code, stdout, stderr)
		}
	}
	if code, _, stderr := runCommand("collect"); code != ExitFailed || !strings.Contains(stderr, "no file to write to") {
		t.Errorf("collect: exit code %d\n%s", code, stderr)
	}
}

// TestCheckFromTree reads a folder as a sosreport unpacks to.
func TestCheckFromTree(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"sos_commands/kernel/sysctl_-a": "net.netfilter.nf_conntrack_count = 65536\nnet.netfilter.nf_conntrack_max = 65536\nnet.netfilter.nf_conntrack_buckets = 16384\n",
		"sos_commands/kernel/uname_-a":  "Linux db7 5.14.0-503.el9.x86_64 #1 SMP x86_64 GNU/Linux\n",
		"proc/meminfo":                  "MemTotal:       16000000 kB\nMemAvailable:   14000000 kB\n",
		"var/log/messages":              "Nov 22 10:00:00 db7 kernel: nf_conntrack: nf_conntrack: table full, dropping packet\n",
	} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := runCommand("check", "--from", root)
	if code != ExitFound || !strings.Contains(stdout, "65,536 of 65,536") || !strings.Contains(stdout, "host db7, kernel 5.14.0-503.el9.x86_64") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}
