package clitest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/cli"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestReaderGone: whoever stops reading what apply says, as `2>&1 | head -1`
// does, does not stop it between two values.
func TestReaderGone(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "reader")
	b := newBench(t, h)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	c := b.command("apply", b.plan(shorter()...), "--yes", "--now")
	c.Stderr = w
	err = c.Run()
	w.Close()
	if err != nil || h.Sysctl(timeWait) != "30" || h.Sysctl(synRecv) != "30" || b.last().State != journal.Confirmed {
		t.Errorf("%v: %s %s, %s", err, h.Sysctl(timeWait), h.Sysctl(synRecv), b.last().State)
	}
}

// TestNoTimeForATrial: a trial without time to confirm it is no way to say
// --now, nor are both at once.
func TestNoTimeForATrial(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "notime")
	b := newBench(t, h)
	for _, args := range [][]string{{"--trial", "0"}, {"--trial", "-5s"}, {"--now", "--trial", "5m"}} {
		out, code := b.run(append([]string{"apply", b.plan(shorter()...), "--yes"}, args...)...)
		if code != cli.ExitFailed || h.Sysctl(timeWait) != "120" || !strings.Contains(out, "trial") {
			t.Errorf("%q: %d, %s\n%s", args, code, h.Sysctl(timeWait), out)
		}
	}
}

// TestStateDirFromHere: the dead-man starts elsewhere and must find the state
// directory all the same.
func TestStateDirFromHere(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "here")
	b := newBench(t, h)
	c := b.command("apply", b.plan(shorter()...), "--yes", "--trial", "2s", "--state-dir", filepath.Base(b.state))
	c.Dir = b.dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	within(t, time.Minute, "back to the old values", func() bool { return h.Sysctl(timeWait) == "120" })
}

// TestInterrupted: Ctrl-C before the first write changes nothing.
func TestInterrupted(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "ctrlc")
	b := newBench(t, h)
	c := b.command("apply", b.plan(shorter()...), "--yes", "--trial", "1m")
	var said strings.Builder
	c.Stderr = &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // it watches the machine for two
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	err := c.Wait()
	if !errors.As(err, &exit) || exit.ExitCode() != cli.ExitFailed || h.Sysctl(timeWait) != "120" || !strings.Contains(said.String(), "nothing was changed") {
		t.Errorf("%v, %s\n%s", err, h.Sysctl(timeWait), said.String())
	}
}
