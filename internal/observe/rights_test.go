package observe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// asNobody reads a namespace in a process without any rights.
func asNobody(t *testing.T, ns string) (s ct.Snapshot, stderr string) {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("ctw-observe-%d", os.Getpid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "reader")
	copyFile(t, os.Args[0], bin)
	cmd := exec.Command(bin, "-test.run=^TestNobodyReads$")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CTW_NOBODY="+ns, "HOME=/", "TMPDIR=/tmp")
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s%s", err, out, errs.String())
	}
	if err := json.NewDecoder(strings.NewReader(string(out))).Decode(&s); err != nil && errs.Len() == 0 {
		t.Fatalf("%v in %s", err, out)
	}
	return s, errs.String()
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestNobodyReads is the process without rights.
func TestNobodyReads(t *testing.T) {
	ns, ok := os.LookupEnv("CTW_NOBODY")
	if !ok {
		t.Skip("it runs as a child of another test only")
	}
	s, err := Machine(context.Background(), Options{Netns: ns, Observe: 10 * time.Millisecond, Seed: 1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err, errors.Is(err, ErrCannotEnter))
		return
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s\n", b)
}

func TestWithoutRights(t *testing.T) {
	lab.Require(t)
	s, _ := asNobody(t, "")
	if !s.Limits.Max.Known || !s.Limits.Count.Known || s.Counters.Has&ct.CounterDrop == 0 || s.Rates == nil {
		t.Errorf("what everybody may read is missing: %+v", s.Limits)
	}
	if s.Census != nil || s.Tracking.NAT == ct.No || s.Tracking.Active == ct.No {
		t.Errorf("what was not seen is told: census %+v, tracking %+v", s.Census, s.Tracking)
	}
	for _, what := range []string{"entries of the table", "nftables rules", "memory that entries take"} {
		told(t, &s, what)
	}
	for _, b := range s.Blind {
		if !strings.Contains(b.How, "root") {
			t.Errorf("no word of rights: %+v", b)
		}
	}
}

// TestProcessOfAnother reads the namespace of a process that may not be
// entered.
func TestProcessOfAnother(t *testing.T) {
	lab.Require(t, "sleep")
	h := lab.NewHost(t, "other")
	h.Track()
	h.Fill(lab.Class{Count: 100, TimeoutSeconds: 100_000})
	sleeper := exec.Command("ip", "netns", "exec", h.Name, "setpriv", "--reuid=65534", "--clear-groups", "sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
	for range 100 {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", sleeper.Process.Pid))
		if strings.TrimSpace(string(comm)) == "sleep" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	s, stderr := asNobody(t, fmt.Sprint(sleeper.Process.Pid))
	if s.Limits.Count != ct.Known(100) || !s.Limits.Max.Known || s.Counters.Insert != 100 {
		t.Errorf("limits %+v, insert %d: %s", s.Limits, s.Counters.Insert, stderr)
	}
	told(t, &s, "settings, rules and entries")
	if _, stderr := asNobody(t, h.Path()); !strings.Contains(stderr, "true") {
		t.Errorf("a named namespace: %q", stderr)
	}
}
