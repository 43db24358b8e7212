package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/internal/kernel/deadman"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// baselineFor is how long the machine is watched before a trial, so that worse
// can be told from as before.
const baselineFor = 2 * time.Second

type applyFlags struct {
	keeping
	planning
	trial time.Duration
	now   bool
	yes   bool
	why   string
	// existing brings lowered timeouts to entries that are there.
	existing bool
}

func newApply(env *Env) *cobra.Command {
	var o applyFlags
	c := &cobra.Command{
		Use:   "apply [PLAN]",
		Short: "Carry out a plan on trial: it takes itself back unless confirmed",
		Long: `Carries out a saved plan (ctwarden plan --json >FILE), or one made now. All is
checked before the first value is written, each value is read back, and if one
is refused the others go back. After --trial the old values return by
themselves unless ` + "`ctwarden confirm`" + ` came first: a lost session, a killed
process, a deleted program or a restart do not change that. During the trial
more resets or invalid packets take the timeouts back early, and a lack of
memory the sizes.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), env, args) },
	}
	fs := c.Flags()
	o.registerTrial(c)
	fs.BoolVar(&o.existing, "existing", false, "shorten existing entries, too, that have been idle beyond a lowered timeout")
	fs.StringVar(&o.why, "why", "", "a remark for the journal")
	o.keeping.register(env, fs)
	o.planning.register(fs)
	return c
}

// registerTrial adds the flags that say whether, and for how long, a change is
// on trial.
func (o *applyFlags) registerTrial(c *cobra.Command) {
	fs := c.Flags()
	fs.DurationVar(&o.trial, "trial", 10*time.Minute, "how long to wait for a confirmation")
	fs.BoolVar(&o.now, "now", false, "no trial: keep it at once, for every boot")
	fs.BoolVarP(&o.yes, "yes", "y", false, "ask nothing")
	c.MarkFlagsMutuallyExclusive("trial", "now")
}

// checkTrial refuses a trial that nobody could confirm.
func (o *applyFlags) checkTrial() error {
	if o.now || o.trial >= tune.MinTrial && o.trial <= tune.MaxTrial {
		return nil
	}
	return &HintError{fmt.Errorf("--trial: a trial lasts from %s to %s, not %s", tune.MinTrial, tune.MaxTrial, o.trial),
		"--now applies without a trial"}
}

func (o *applyFlags) run(ctx context.Context, env *Env, args []string) error {
	if err := o.checkTrial(); err != nil {
		return err
	}
	p, err := o.obtainPlan(ctx, env, args)
	if err != nil {
		return err
	}
	if err := p.Brief(env.Stdout); err != nil {
		return err
	}
	if len(p.Items) == 0 {
		return nil
	}
	if err := o.agree(ctx, env); err != nil {
		return err
	}
	k, err := o.keeper(env)
	if err != nil {
		return err
	}
	chosen, err := o.chooseExisting(ctx, env, p.Items)
	if err != nil {
		return err
	}
	if err := o.carryOut(ctx, env, k, p, "apply"); err != nil {
		return errors.Join(err, chosen.close())
	}
	return errors.Join(chosen.shorten(ctx), chosen.close())
}

// carryOut applies a plan that was agreed to and says how it went.
func (o *applyFlags) carryOut(ctx context.Context, env *Env, k *tune.Keeper, p *tune.Plan, command string) error {
	opt := tune.ApplyOptions{Trial: o.trial, Actor: actor(env, command), Why: o.why, Baseline: baseline(ctx)}
	if o.now {
		opt.Trial = 0
	}
	if ctx.Err() != nil {
		return errDeclined
	}
	deadman.OutliveReaders()
	id, err := k.Apply(ctx, p, opt)
	if errors.Is(err, tune.ErrNothing) {
		fmt.Fprintln(env.Stdout, "\nAll values stand already.")
		return nil
	}
	if err != nil {
		return explainKeeper(err)
	}
	if o.now {
		fmt.Fprintf(env.Stdout, "\n%s is applied and kept. `ctwarden revert %s` takes it back.\n", id, id)
		return nil
	}
	fmt.Fprintf(env.Stdout, "\n%s is applied on trial and will be taken back in %s.\nKeep it: ctwarden confirm\nTake it back now: ctwarden revert\n", id, o.trial)
	return nil
}

func (o *applyFlags) obtainPlan(ctx context.Context, env *Env, args []string) (*tune.Plan, error) {
	if len(args) > 0 {
		return loadPlan(env, args[0])
	}
	return o.makePlan(ctx, env, o.owners())
}

// errDeclined is the answer "no".
var errDeclined = errors.New("nothing was changed")

func (o *applyFlags) agree(ctx context.Context, env *Env) error {
	if o.yes {
		return nil
	}
	if !env.StdinTTY {
		return &HintError{errors.New("nobody is there to ask"), "--yes applies without asking"}
	}
	fmt.Fprint(env.Stderr, "\nApply it? [y/N] ")
	switch strings.ToLower(readAnswer(ctx, env.Stdin)) {
	case "y", "yes":
		return nil
	}
	return errDeclined
}

// readAnswer reads one line; "" if the context or the input ends before the line
// does.
func readAnswer(ctx context.Context, in io.Reader) string {
	typed := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil {
			line = ""
		}
		typed <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		return ""
	case line := <-typed:
		return line
	}
}

// baseline watches the machine for a moment; nil if it cannot be told.
func baseline(ctx context.Context) *tune.Health {
	a, err := health()
	if err != nil {
		return nil
	}
	if err := (deadman.Clock{}).Until(ctx, a.At+baselineFor); err != nil {
		return nil
	}
	b, err := health()
	if err != nil {
		return nil
	}
	return tune.Baseline(a, b)
}
