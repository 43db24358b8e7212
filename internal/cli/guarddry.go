package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/guardsim"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
	"github.com/ctwarden/ctwarden/internal/simulate"
	"github.com/ctwarden/ctwarden/internal/workload"
	"github.com/ctwarden/ctwarden/sim"
)

// dryTail is for how long the machine is watched after the traffic has ended,
// so that it is seen how things are taken back.
const dryTail = 5 * time.Minute

// runGuardDry plays a workload against the model of the kernel, without and with
// the guard, and prints what it would have done.
func runGuardDry(ctx context.Context, env *Env, scenario, set string, c guard.Config) error {
	data, err := os.ReadFile(scenario)
	if err != nil {
		return &HintError{fmt.Errorf("read scenario: %w", err), "a scenario is a workload file: docs/workload.md, or `ctwarden record`"}
	}
	spec, err := workload.Parse(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("scenario %q: %w", scenario, err)
	}
	s, err := dryMachine(set)
	if err != nil {
		return err
	}
	s.Traffic, s.Guard, s.Tail = spec, c, dryTail
	fmt.Fprintf(env.Stderr, "playing %s for %s against max %d, buckets %d, kernel %s, twice\n",
		scenario, time.Duration(spec.Duration), s.Machine.Max, s.Machine.Buckets, s.Machine.Era.Label())
	shown := newProgress(env)
	half := 0.0
	s.Progress = func(done float64) { shown.show("playing", half+done/2) }
	bare := *s
	bare.Guard.Enforce = false
	without, err := guardsim.Run(ctx, bare)
	if err != nil {
		return err
	}
	s.Guard.Enforce, half = true, 0.5
	with, err := guardsim.Run(ctx, *s)
	shown.clear()
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Stdout, "Without the guard: %s\nWith the guard:    %s\n\nWhat it would have done:\n%s", without.Summary(), with.Summary(), with)
	return nil
}

// dryMachine is this machine as the model sees it, where it can be read, with
// the settings asked for over it.
func dryMachine(set string) (*guardsim.Setup, error) {
	era, v := sim.Latest(), ct.KernelVersion{}
	if release, err := (procfs.FS{}).Release(); err == nil {
		if v, err = ct.ParseKernelVersion(release); err == nil {
			era = sim.EraFor(v)
		}
	}
	var live *ct.Snapshot
	if t, err := (sysctl.Tree{}).Conntrack(); err == nil && t.Limits.Max.Known {
		live = &ct.Snapshot{Limits: t.Limits, Timeouts: t.Timeouts, Knobs: t.Knobs}
	}
	m := simulate.Base(era, live, 1)
	if set != "" {
		chosen, err := simulate.ParseSetting(set, m, live != nil)
		if err != nil {
			return nil, err
		}
		m = chosen.Config
	}
	s := &guardsim.Setup{Machine: m, Around: guard.Surroundings{Version: v, MaxOurs: true, Policies: true, Admission: true}}
	if _, available, err := (procfs.FS{}).Meminfo(); err == nil {
		s.AvailableBytes = available.Or(0)
	}
	return s, nil
}
