package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/guardd"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/kernel/service"
)

const guardLong = `Watches how the table fills, ten times a second. With --mode observe, the
default, it says what it would do and changes nothing. With --mode enforce it
acts, from the softest means to the hardest, says why, and takes everything back
when it is over, when it ends, and after it was killed.

It runs in the foreground; a service manager keeps it. SIGHUP reads the
configuration anew, whole or not at all; SIGTERM ends it.

docs/guard.md tells what it does and what it never does.`

const guardExample = `  ctwarden guard
  ctwarden guard --mode enforce
  ctwarden guard --mode enforce --netns 0123456789ab
  ctwarden guard --check-config --config /etc/ctwarden/guard.yaml
  ctwarden guard status
  ctwarden incidents`

// guardConfig is read where no --config is given, if it exists.
const guardConfig = "/etc/ctwarden/guard.yaml"

// guardian is one run of the command.
type guardian struct {
	env      *Env
	mode     string
	netns    string
	config   string
	check    bool
	dryRun   string
	drySet   string
	stateDir string
	runDir   string
}

func newGuard(env *Env) *cobra.Command {
	g := &guardian{env: env}
	cmd := &cobra.Command{
		Use: "guard", Short: "Defend the table while it is under attack",
		Long: guardLong, Example: guardExample, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.run(cmd.Context()) },
	}
	fs := cmd.Flags()
	fs.StringVar(&g.mode, "mode", "", "observe, which changes nothing, or enforce (default observe, or what the configuration says)")
	fs.StringVar(&g.netns, "netns", "", "network namespace: a name, a process id, a path, or a container's label")
	fs.StringVar(&g.config, "config", "", "configuration file (default "+guardConfig+" if there is one)")
	fs.BoolVar(&g.check, "check-config", false, "check the configuration and end")
	fs.StringVar(&g.dryRun, "dry-run", "", "play a workload file against the model of the kernel, without and with the guard, and end")
	fs.StringVar(&g.drySet, "set", "", "settings of the modelled machine over those of this one, as max=20000,buckets=20480")
	g.registerDirs(cmd)
	cmd.AddCommand(newGuardStatus(env), newGuardCleanup(env))
	return cmd
}

func (g *guardian) registerDirs(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&g.stateDir, "state-dir", defaultStateDir(g.env), "where the journal and the incidents are kept")
	fs.StringVar(&g.runDir, "run-dir", defaultRunDir(g.env), "where a running guard can be found")
	fs.Lookup("run-dir").Hidden = true
}

func defaultRunDir(env *Env) string {
	if dir := env.Getenv("CTWARDEN_RUN_DIR"); dir != "" {
		return dir
	}
	return guardd.DefaultRunDir
}

func (g *guardian) run(ctx context.Context) error {
	// The same file from now on: one that goes is no reason to fall back to the
	// defaults.
	if _, err := os.Stat(guardConfig); g.config == "" && err == nil {
		g.config = guardConfig
	}
	c, err := g.readConfig()
	if err != nil {
		return err
	}
	if g.check {
		if g.config == "" {
			fmt.Fprintf(g.env.Stdout, "There is no configuration file (%s): the defaults hold.\n", guardConfig)
		} else {
			fmt.Fprintf(g.env.Stdout, "%s: the configuration is good.\n", g.config)
		}
		for _, r := range c.Remarks() {
			fmt.Fprintln(g.env.Stdout, r)
		}
		return nil
	}
	if g.dryRun != "" {
		return runGuardDry(ctx, g.env, g.dryRun, g.drySet, c)
	}
	o := guardd.Options{Netns: g.netns, StateDir: g.stateDir, RunDir: g.runDir, Config: c, Log: g.env.Stderr,
		SSHConnection: g.env.Getenv("SSH_CONNECTION")}
	if g.config != "" {
		o.Reload = g.readConfig
	}
	return explainGuard(guardd.Run(ctx, o), g.netns)
}

func explainGuard(err error, ref string) error {
	switch {
	case errors.Is(err, guardd.ErrSecond):
		return &HintError{err, "`ctwarden guard status` shows it"}
	case errors.Is(err, guardd.ErrGone):
		return nil // said in the log, and nothing to be done about
	}
	return explainDial(err, ref)
}

// readConfig reads the file, if there is one, and puts the flags above it.
func (g *guardian) readConfig() (guard.Config, error) {
	c := guard.DefaultConfig()
	if name := g.config; name != "" {
		b, err := os.ReadFile(name)
		if err != nil {
			return c, fmt.Errorf("read configuration: %w", err)
		}
		if c, err = guard.ParseConfig(b); err != nil {
			return c, fmt.Errorf("%s: %w", name, err)
		}
	}
	switch g.mode {
	case "":
	case "observe", "enforce":
		c.Enforce = g.mode == "enforce"
	default:
		return c, fmt.Errorf("unknown mode %q: observe or enforce", g.mode)
	}
	return c, nil
}

func newGuardStatus(env *Env) *cobra.Command {
	g := &guardian{env: env}
	var out output
	cmd := &cobra.Command{
		Use: "status", Short: "Show what the guard of a namespace is doing",
		Long: `Asks the guard that runs. It changes nothing. The exit code is 1 if the level is
pressure or emergency, 2 if no guard runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := out.choice()
			if err != nil {
				return err
			}
			s, err := guardd.AskStatus(cmd.Context(), g.netns, g.runDir)
			if err != nil {
				return explainNoGuard(err)
			}
			if format == "json" {
				err = writeJSON(env, s)
			} else {
				err = s.Text(env.Stdout)
			}
			if err == nil && s.Level >= guard.Pressure {
				return found
			}
			return err
		},
	}
	cmd.Flags().StringVar(&g.netns, "netns", "", "network namespace: a name, a process id, a path, or a container's label")
	g.registerDirs(cmd)
	out.register(cmd.Flags(), "text", "json")
	return cmd
}

func explainNoGuard(err error) error {
	if service.Nobody(err) {
		return &HintError{errors.New("no guard runs for this namespace"), "`ctwarden guard` starts one; --netns asks for that of another namespace"}
	}
	return explainDial(err, "")
}

func newGuardCleanup(env *Env) *cobra.Command {
	g := &guardian{env: env}
	cmd := &cobra.Command{
		Use: "cleanup", Short: "Put back what a guard that was killed has left",
		Long: `Restores nf_conntrack_max and nf_conntrack_buckets and gives entries on probation
their timeouts back, as the journal tells. What a running guard has changed is
left to it, and what somebody else has changed since stays. nf_conntrack_max is
never lowered below 1.2 times the fullest table: it is held, and the exit code
is 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := guardd.Cleanup(cmd.Context(), guardd.Options{StateDir: g.stateDir, RunDir: g.runDir, Log: env.Stderr})
			switch {
			case err != nil:
				return explainKeeper(err)
			case c.Found == 0:
				fmt.Fprintln(env.Stdout, "Nothing was left to put back.")
			case c.Deferred:
				fmt.Fprintln(env.Stdout, "revert-deferred: the table needs what stands. Run it again when it has drained.")
				return found
			default:
				fmt.Fprintln(env.Stdout, "Everything is as it was before the guard.")
			}
			return nil
		},
	}
	g.registerDirs(cmd)
	return cmd
}

func newIncidents(env *Env) *cobra.Command {
	g := &guardian{env: env}
	var out output
	cmd := &cobra.Command{
		Use: "incidents", Short: "Show what the guard has been through",
		Long: `Shows each attack or overload: when it was, what it was, its figures, what the
guard did when and why, and what it cost. It changes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.incidents(cmd.Context(), &out) },
	}
	cmd.Flags().StringVar(&g.netns, "netns", "", "namespace of a guard that only observes, and keeps nothing on disk")
	g.registerDirs(cmd)
	out.register(cmd.Flags(), "text", "json")
	return cmd
}

func (g *guardian) incidents(ctx context.Context, out *output) error {
	format, err := out.choice()
	if err != nil {
		return err
	}
	list, damaged, err := guardd.ReadIncidents(disk.OS{}, g.stateDir)
	if err != nil {
		return err
	}
	if damaged > 0 {
		fmt.Fprintf(g.env.Stderr, "ctwarden: %d damaged lines passed over\n", damaged)
	}
	if s, err := guardd.AskStatus(ctx, g.netns, g.runDir); err == nil {
		list = guardd.Merge(list, s)
	}
	if format == "json" {
		return writeJSON(g.env, struct {
			head
			Incidents []guardd.Incident `json:"incidents"`
		}{newHead(g.env, guardd.IncidentsSchema), append([]guardd.Incident{}, list...)})
	}
	return guardd.IncidentsText(g.env.Stdout, list)
}
