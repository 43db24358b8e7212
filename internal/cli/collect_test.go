package cli

import (
	"bytes"
	"context"
	"encoding/json"
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
		"--from /nowhere":              `open "/nowhere": no such file`,
		"--from " + text:               "invalid input: magic number",
		"--from " + filepath.Dir(text): "nothing of a machine in it",
		"--from " + text + " --full":   "--from reads no namespace",
		"--from " + text + " --log x":  "--from reads no namespace",
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

// TestCheckFromSOSReport reads what sos itself laid out; testdata/sosreport
// says how it came about. Its figures are those of the files: 568 entries of
// 10.0.3.7 among 600, to 160 addresses, 1,601 refusals, 20 lines of log.
func TestCheckFromSOSReport(t *testing.T) {
	code, stdout, stderr := runCommand("check", "--json", "--from", "testdata/sosreport")
	if code != ExitFound || stderr != "" {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	var a answer
	if err := json.Unmarshal([]byte(stdout), &a); err != nil {
		t.Fatal(err)
	}
	s := a.Snapshot
	if got := s.Time.UTC().Format(time.DateTime); got != "2026-11-25 22:55:04" || s.Host != "gw1" || s.Release != "6.18.44" {
		t.Errorf("taken at %s on %s, kernel %s", got, s.Host, s.Release)
	}
	if s.Limits.Count.Or(0) != 600 || s.Limits.Max.Or(0) != 600 || s.Counters.Drop != 893+708 || s.Counters.EarlyDrop != 27+24 {
		t.Errorf("limits %+v, counters %+v", s.Limits, s.Counters)
	}
	if s.UptimeSeconds.Or(0) != 1795647304-1795644861 {
		t.Errorf("up for %v s", s.UptimeSeconds)
	}
	if !s.Census.Complete || s.Census.Entries != 600 {
		t.Errorf("census %+v", s.Census)
	}
	if len(a.Log.Episodes) != 1 || a.Log.Episodes[0].Lines != 20 {
		t.Errorf("episodes %+v", a.Log.Episodes)
	}
	for _, code := range []string{"scan-outbound", "one-source", "table-full", "early-drop-defeated", "setting-not-live"} {
		if a.finding(code) == nil {
			t.Errorf("no %s among %q", code, a.codes())
		}
	}
	if len(a.Findings) != 5 || len(a.Blind) != 0 || !strings.Contains(a.Verdict.Text, "one host, 10.0.3.7, scans outward") {
		t.Errorf("%s\nfindings %q\nnot seen %+v", a.Verdict.Text, a.codes(), a.Blind)
	}
}

// TestNPD asks as node-problem-detector does: one line, and 0 for a machine
// that is well, 1 for one that is not, 2 where nothing could be seen.
func TestNPD(t *testing.T) {
	well, blind := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"sos_commands/kernel/sysctl_-a": "net.netfilter.nf_conntrack_count = 900\nnet.netfilter.nf_conntrack_max = 262144\nnet.netfilter.nf_conntrack_buckets = 262144\nnet.nf_conntrack_max = 262144\n",
		"sos_commands/kernel/uname_-a":  "Linux db7 6.12.0 #1 SMP x86_64 GNU/Linux\n",
		"proc/meminfo":                  "MemTotal:       16000000 kB\nMemAvailable:   14000000 kB\n",
	} {
		p := filepath.Join(well, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for from, want := range map[string]int{well: 0, "testdata/sosreport": 1, blind: 2} {
		code, stdout, stderr := runCommand("check", "--npd", "--from", from)
		if code != want || code != 2 && (strings.Count(stdout, "\n") != 1 || stderr != "") {
			t.Errorf("%s: exit code %d, want %d\n%s%s", from, code, want, stdout, stderr)
		}
	}
}
