package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/diagnose"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/nslist"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/report"
)

const checkLong = `Says whether the connection tracking table is full, where and since when, how
much was refused; what fills it and who; and what to do now and for good, with
the cost and the risk of each step.

It reads and changes nothing. Without root it tells what can be seen, and what
cannot.

Exit code 0: nothing at warning or above. 1: a warning or worse. 2: could not
look.`

const checkExample = `  ctwarden check
  ctwarden check --full --observe 10s
  ctwarden check --netns 4711
  ctwarden check --netns all
  ctwarden check --log /var/log/kern.log --log-only
  journalctl -k | ctwarden check --log - --log-only
  ctwarden check --from server.tar.zst
  ctwarden check --json | jq -r .verdict.text`

// checker is one run of the command.
type checker struct {
	env     *Env
	netns   string
	observe time.Duration
	full    bool
	output  string
	json    bool
	npd     bool
	logs    []string
	logOnly bool
	from    string
	noColor bool
	verbose bool
}

func newCheck(env *Env) *cobra.Command {
	c := &checker{env: env}
	cmd := &cobra.Command{
		Use: "check", Short: "Say why the table fills, and what to do about it",
		Long: checkLong, Example: checkExample, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	fs := cmd.Flags()
	fs.StringVar(&c.netns, "netns", "", "network namespace: a name, a process id, a path, or all to list them (default the own one)")
	fs.DurationVar(&c.observe, "observe", observe.DefaultObserve, "time between two readings; 0 for one reading, without rates")
	fs.BoolVar(&c.full, "full", false, "read every entry rather than a sample")
	fs.StringArrayVar(&c.logs, "log", nil, "read this log instead of the machine's; - is standard input (repeatable)")
	fs.BoolVar(&c.logOnly, "log-only", false, "look at the logs alone; needs no rights")
	fs.StringVar(&c.from, "from", "", "read what ctwarden collect wrote, or the folder of a recorded machine (sosreport), instead of this machine")
	fs.StringVarP(&c.output, "output", "o", "text", "format: text, json or npd")
	fs.BoolVar(&c.json, "json", false, "the same as -o json")
	fs.BoolVar(&c.npd, "npd", false, "one line, as a plugin of node-problem-detector (the same as -o npd)")
	fs.BoolVar(&c.noColor, "no-color", false, "no colour (also: NO_COLOR in the environment)")
	fs.BoolVarP(&c.verbose, "verbose", "v", false, "all the evidence, also of what follows from something else")
	return cmd
}

func (c *checker) run(ctx context.Context) error {
	if err := c.validate(); err != nil {
		return err
	}
	in, err := c.read(ctx)
	if err != nil {
		return err
	}
	r := diagnose.Run(in)
	if err := c.print(r); err != nil {
		return err
	}
	return c.exit(r)
}

// read reads the machine and its logs, or what was recorded of them.
func (c *checker) read(ctx context.Context) (diagnose.Input, error) {
	if c.from != "" {
		return readRecorded(ctx, c.env, c.from)
	}
	in := diagnose.Input{Now: c.env.Now()}
	p := newProgress(c.env)
	defer p.clear()
	logs := c.startLogs(ctx)
	if !c.logOnly {
		if err := c.look(ctx, &in, p); err != nil {
			return in, err
		}
	}
	p.show("reading the logs", -1)
	l := <-logs
	in.Log, in.Blind = l.report, append(in.Blind, l.blind...)
	return in, l.err
}

// look reads the machine, and its namespaces while it is watched.
func (c *checker) look(ctx context.Context, in *diagnose.Input, p *progress) error {
	type listed struct {
		nslist.Result
		err error
	}
	others := make(chan listed, 1)
	go func() {
		r, err := nslist.List(ctx, nslist.Options{})
		others <- listed{r, err}
	}()
	ref := c.netns
	if ref == allNamespaces {
		ref = ""
	}
	snap, err := observe.Machine(ctx, observe.Options{Netns: ref, Observe: c.observe, Full: c.full, Progress: p.show})
	if err != nil {
		return c.cannotLook(err)
	}
	in.Snapshot, in.Now = snap, snap.Time
	in.Owners = observe.Owners(ctx, "", snap)
	o := <-others
	snap.Namespaces = o.Namespaces
	in.Blind = append(in.Blind, c.unlisted(o.Result, o.err)...)
	return nil
}

// allNamespaces is the value of --netns that lists every namespace.
const allNamespaces = "all"

// unlisted says what of the other namespaces was not seen, if they were asked
// for.
func (c *checker) unlisted(r nslist.Result, err error) []ct.Blind {
	b := ct.Blind{What: "other network namespaces", How: "run it as root"}
	switch {
	case c.netns != allNamespaces:
		return nil
	case err != nil:
		b.Why = err.Error()
	case r.Cut:
		b.Why, b.How = "there are too many to look at in two seconds", "name one with --netns"
	case r.Hidden > 0 && os.Geteuid() != 0:
		b.Why = fmt.Sprintf("those of %d processes are hidden from this user", r.Hidden)
	default:
		return nil
	}
	return []ct.Blind{b}
}

func (c *checker) validate() error {
	if c.npd {
		c.output = "npd"
	}
	if c.json {
		c.output = "json"
	}
	switch {
	case c.output != "text" && c.output != "json" && c.output != "npd":
		return &HintError{fmt.Errorf("unknown output format %q", c.output), "formats are text, json and npd"}
	case c.observe < 0:
		return &HintError{fmt.Errorf("cannot observe for %s", c.observe), "--observe takes a duration of 0 or more, such as 5s"}
	case c.from != "" && (c.netns != "" || c.full || c.logOnly || len(c.logs) > 0):
		return &HintError{errors.New("--from reads no namespace, table or log of this machine"), "leave out --netns, --full, --log and --log-only"}
	case c.logOnly && c.netns != "":
		return &HintError{errors.New("--log-only looks at no network namespace"), "leave out --netns or --log-only"}
	}
	return nil
}

// cannotLook words the errors of a machine that cannot be read at all.
func (c *checker) cannotLook(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, netns.ErrNotFound):
		return &HintError{err, "ip netns list and lsns -t net show the namespaces of this host"}
	case errors.Is(err, observe.ErrCannotEnter):
		return &HintError{err, "run it as root; a process id can be looked at in part without"}
	}
	return err
}

func (c *checker) print(r *report.Report) error {
	switch c.output {
	case "json":
		return r.WriteJSON(c.env.Stdout)
	case "npd":
		return r.WriteNPD(c.env.Stdout)
	}
	return r.WriteText(c.env.Stdout, report.Style{
		Width:   c.env.Width,
		Colour:  c.env.StdoutTTY && !c.noColor && c.env.Getenv("NO_COLOR") == "" && c.env.Getenv("TERM") != "dumb",
		Verbose: c.verbose, Namespaces: c.netns == allNamespaces,
	})
}

// exit gives the code of what was found. A report in which the state of the
// table is unknown and the logs told nothing has not looked.
func (c *checker) exit(r *report.Report) error {
	switch {
	case r.Worst() >= report.Warning:
		return found
	case r.Blank():
		return &ExitError{Code: ExitFailed}
	}
	return nil
}
