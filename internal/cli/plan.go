package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/nslist"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// planning are the flags from which a plan is made.
type planning struct {
	role     string
	peakNew  string
	memory   string
	keepIdle time.Duration
	flood    string
	observe  time.Duration
}

func (o *planning) register(fs *pflag.FlagSet) {
	roles := make([]string, len(tune.Roles))
	for i, r := range tune.Roles {
		roles[i] = string(r)
	}
	fs.StringVar(&o.role, "for", "auto", "what the machine does: auto, "+strings.Join(roles, ", "))
	fs.StringVar(&o.peakNew, "peak-new", "", "new flows at the peak, as 20000/s; default twice what is seen")
	fs.StringVar(&o.memory, "memory", "5%", "part of the memory that a full table may take")
	fs.DurationVar(&o.keepIdle, "keep-idle", 0, "how long an idle connection must live, as 2h")
	fs.StringVar(&o.flood, "flood", "10000/s", "flood for which survival is told")
	fs.DurationVar(&o.observe, "observe", 5*time.Second, "time between two readings; 0 reads once")
}

func newPlan(env *Env) *cobra.Command {
	var o planning
	var k keeping
	var out output
	c := &cobra.Command{
		Use:   "plan",
		Short: "What to change on this machine, computed, priced and with its risks",
		Long: `Reads the machine and computes the size of the table and the timeouts that its
load needs, what each change costs and could break, and what must stay as it
is. It changes nothing: ctwarden apply carries a plan out, on trial.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := out.choice()
			if err != nil {
				return err
			}
			p, err := o.makePlan(cmd.Context(), env, k.owners())
			if err != nil {
				return err
			}
			return p.Print(env.Stdout, format)
		},
	}
	o.register(c.Flags())
	k.register(env, c.Flags())
	out.register(c.Flags(), tune.Formats...)
	return c
}

// makePlan reads the machine and plans for it.
func (o *planning) makePlan(ctx context.Context, env *Env, who machineOwners) (*tune.Plan, error) {
	opt, err := o.options()
	if err != nil {
		return nil, err
	}
	opt.Owners, opt.Actors = who, who.actors()
	s, err := observe.Machine(ctx, observe.Options{Observe: o.observe, Full: true})
	if err != nil {
		return nil, err
	}
	opt.BusyNetns, opt.OtherEntries, opt.Unreached = neighbours(ctx, s)
	p, err := tune.New(s, opt)
	if err != nil {
		return nil, &HintError{err, "`ctwarden check` says what switches tracking on"}
	}
	return p, nil
}

func (o *planning) options() (opt tune.Options, err error) {
	if opt.For, err = tune.ParseRole(o.role); err != nil {
		return opt, err
	}
	if opt.PeakNew, err = parseRate(o.peakNew); err != nil {
		return opt, fmt.Errorf("--peak-new: %w", err)
	}
	if opt.FloodRate, err = parseRate(o.flood); err != nil {
		return opt, fmt.Errorf("--flood: %w", err)
	}
	if opt.MemoryShare, err = parseShare(o.memory); err != nil {
		return opt, fmt.Errorf("--memory: %w", err)
	}
	if opt.KeepIdle = o.keepIdle; opt.KeepIdle < 0 {
		return opt, fmt.Errorf("--keep-idle: %s is negative", o.keepIdle)
	}
	if opt.KeepIdle > tune.MaxTimeout {
		return opt, fmt.Errorf("--keep-idle: %s is longer than a kernel keeps anything, %s", o.keepIdle, tune.MaxTimeout)
	}
	return opt, nil
}

// parseRate reads "20000/s", "20000" or "1200000/m"; "" is 0.
func parseRate(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	text, unit, _ := strings.Cut(s, "/")
	per, ok := map[string]float64{"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}[unit]
	n, err := strconv.ParseFloat(text, 64)
	if !ok || err != nil || !(n >= 0 && n <= 1e9) {
		return 0, fmt.Errorf("%q is not a rate such as 20000/s", s)
	}
	return n / per, nil
}

// parseShare reads "5%".
func parseShare(s string) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !(n > 0 && n <= 50) {
		return 0, fmt.Errorf("%q is not a share of the memory from 0%% to 50%%", s)
	}
	return n / 100, nil
}

// busyShare of the limit makes a namespace one that could fill its table.
const busyShare = 0.1

// neighbours counts the namespaces that could fill their tables, this one
// included, the entries of the others, and names those that the plan does not
// reach.
func neighbours(ctx context.Context, s *ct.Snapshot) (busy int, entries int64, unreached []string) {
	busy = 1
	all, err := nslist.List(ctx, nslist.Options{})
	if err != nil {
		return busy, 0, nil
	}
	for _, n := range all.Namespaces {
		if n.Inode == s.Netns.Inode || n.Count.Or(0) == 0 {
			continue
		}
		if float64(n.Count.N) >= busyShare*float64(s.Limits.Max.Or(0)) {
			busy++
		}
		entries += n.Count.N
		unreached = append(unreached, n.Label())
	}
	return busy, entries, unreached
}

// loadPlan reads a saved plan; "-" is standard input.
func loadPlan(env *Env, name string) (*tune.Plan, error) {
	in := env.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = io.Reader(f)
	}
	p, err := tune.ReadPlan(in)
	if err != nil {
		return nil, fmt.Errorf("plan %q: %w", name, err)
	}
	return p, nil
}
