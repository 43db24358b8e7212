package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// TestApplyAsks: nothing is changed without a yes.
func TestApplyAsks(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "asks")
	dir := t.TempDir()
	key := tune.Prefix + "tcp_timeout_time_wait"
	data, err := json.Marshal(tune.Plan{Schema: tune.PlanSchema, Items: []tune.Item{{Key: key, From: "120", To: "30"}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "plan.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		tty    bool
		answer string
		want   string
	}{
		"nobody there":   {false, "y\n", "--yes applies without asking"},
		"no":             {true, "n\n", "nothing was changed"},
		"only return":    {true, "\n", "nothing was changed"},
		"the line ended": {true, "", "nothing was changed"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, said strings.Builder
			var code int
			err := h.Do(func() error {
				env := NewEnv()
				env.Args = []string{"apply", file, "--state-dir", filepath.Join(dir, "state"), "--root", dir}
				env.Stdin, env.Stdout, env.Stderr, env.StdinTTY = strings.NewReader(tt.answer), &out, &said, tt.tty
				code = Run(t.Context(), env)
				return nil
			})
			if err != nil || code != ExitFailed || h.Sysctl(key) != "120" || !strings.Contains(said.String(), tt.want) {
				t.Errorf("%v, exit code %d, %s\n%s%s", err, code, h.Sysctl(key), out.String(), said.String())
			}
			if !strings.Contains(out.String(), key+": 120 -> 30") || strings.Contains(out.String(), "Left as it is") {
				t.Errorf("it shows:\n%s", out.String())
			}
			if _, err := os.Stat(filepath.Join(dir, "state")); err == nil {
				t.Error("a journal was begun")
			}
		})
	}
}

// TestCtrlCAtTheQuestion: it is a no, and need not wait for a line.
func TestCtrlCAtTheQuestion(t *testing.T) {
	silent, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	env := &Env{Stdin: silent, Stderr: new(strings.Builder), StdinTTY: true}
	done := make(chan error, 1)
	go func() { done <- new(applyFlags).agree(ctx, env) }()
	select {
	case err := <-done:
		if !errors.Is(err, errDeclined) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it still waits for a line")
	}
}
