package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/census"
	"github.com/ctwarden/ctwarden/internal/flowexpr"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/tui"
)

const topLong = `Shows the table as it fills: how full it is and when it will be, what comes and
goes, what it is made of and who holds most of it.

It reads a panel, the same few thousand entries each time, and says how precise
that is. It changes nothing: for eviction it shows what would be lost and the
command to do it.`

const topExample = `  ctwarden top
  ctwarden top --once
  ctwarden top --where 'proto == "udp"' --interval 5s`

// topper is one run of the command.
type topper struct {
	env      *Env
	sel      selection
	interval time.Duration
	panel    int
	once     bool
	json     bool
}

func newTop(env *Env) *cobra.Command {
	t := &topper{env: env}
	cmd := &cobra.Command{
		Use: "top", Short: "Show what fills the table, live",
		Long: topLong, Example: topExample, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return t.run(cmd.Context()) },
	}
	fs := cmd.Flags()
	t.sel.register(fs)
	fs.DurationVar(&t.interval, "interval", 2*time.Second, "time between readings")
	fs.IntVar(&t.panel, "panel", 10000, "entries of the panel")
	fs.BoolVar(&t.once, "once", false, "print one screen and end")
	fs.BoolVar(&t.json, "json", false, "print one reading as JSON and end")
	return cmd
}

func (t *topper) run(ctx context.Context) error {
	filter, err := t.sel.compile()
	switch {
	case err != nil:
		return err
	case t.interval < minPoll:
		return fmt.Errorf("--interval is at least %s", minPoll)
	case t.panel < 100 || t.panel > 1_000_000:
		return errors.New("--panel is 100 to 1000000 entries")
	}
	tab, err := t.sel.open(t.env)
	if err != nil {
		return err
	}
	defer tab.Close()
	if err := tab.readTimeouts(); err != nil {
		return err
	}
	src := &topSource{topper: t, table: tab, seed: rand.Uint64()}
	m := tui.New(ctx, src, t.options(tab, filter))
	if t.once || t.json {
		return t.printOnce(ctx, src, m)
	}
	if !t.env.StdoutTTY {
		return &HintError{errors.New("top needs a terminal"), "--once prints one screen, --json one reading"}
	}
	return t.interact(ctx, m)
}

func (t *topper) options(tab *table, filter *flowexpr.Filter) tui.Options {
	o := tui.Options{Title: tab.id.Host, Interval: t.interval, Filter: filter, Evict: "ctwarden evict --where"}
	if t.sel.netns != "" {
		o.Title += ", netns " + t.sel.netns
		o.Evict = "ctwarden evict --netns " + t.sel.netns + " --where"
	}
	o.Plain = t.once || t.env.Getenv("TERM") == "dumb"
	return o
}

// interact runs the display until it is left, and prints the eviction that was
// chosen in it.
func (t *topper) interact(ctx context.Context, m *tui.Model) error {
	_, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(t.env.Stdin), tea.WithOutput(t.env.Stdout),
		tea.WithEnvironment(os.Environ()), tea.WithFPS(10)).Run()
	if errors.Is(err, tea.ErrProgramKilled) || errors.Is(err, tea.ErrInterrupted) || errors.Is(err, context.Canceled) {
		err = nil
	}
	if c := m.Command(); err == nil && c != "" {
		_, err = fmt.Fprintln(t.env.Stdout, c)
	}
	return err
}

// printOnce reads twice, so that there are rates.
func (t *topper) printOnce(ctx context.Context, src *topSource, m *tui.Model) error {
	var r *tui.Reading
	for i := range 2 {
		if i > 0 {
			if err := sleep(ctx, t.interval); err != nil {
				return err
			}
		}
		var err error
		if r, err = src.Read(ctx); err != nil {
			return explainDial(err, t.sel.netns)
		}
		m.Show(r, nil)
	}
	if t.json {
		return t.printJSON(src, r)
	}
	m.Resize(t.env.Width, 24)
	_, err := fmt.Fprintln(t.env.Stdout, trimLines(m.Frame()))
	return err
}

func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// printJSON prints the last reading as ctwarden.top/1.
func (t *topper) printJSON(src *topSource, r *tui.Reading) error {
	c := census.New(census.Options{Timeouts: r.Timeouts, Seed: src.seed})
	for i := range r.Flows {
		c.Add(&r.Flows[i])
	}
	result := c.Result()
	result.Complete = r.Complete
	result.SampleError = 0
	if !r.Complete {
		result.SampleError = census.SampleError(uint64(len(r.Flows)), uint64(r.Limits.Count.Or(0)))
	}
	enc := json.NewEncoder(t.env.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Schema string `json:"schema"`
		identity
		Limits ct.Limits  `json:"limits"`
		Rates  *ct.Rates  `json:"rates,omitempty"`
		Census *ct.Census `json:"census"`
	}{"ctwarden.top/1", src.table.id, r.Limits, r.Rates, result})
}

// topSource reads panels for the display.
type topSource struct {
	*topper
	table *table
	seed  uint64
	// buffers hold the entries of the last two readings.
	buffers [2][]ct.Flow
	last    struct {
		time     time.Time
		panel    *census.Panel
		counters []ctnl.CPUCounters
		count    ct.Value
	}
}

// Read reads the panel once more and compares it with the last time.
func (s *topSource) Read(ctx context.Context) (*tui.Reading, error) {
	now, used := s.env.Now(), procfs.CPUTime()
	g, err := s.table.GlobalStats()
	if err != nil {
		return nil, err
	}
	counters, err := s.table.Stats()
	if err != nil {
		return nil, err
	}
	r := &tui.Reading{Time: now, Timeouts: s.table.timeouts}
	r.Limits.Count = ct.Known(int64(g.Count))
	if g.HasMax {
		r.Limits.Max = ct.Known(int64(g.Max))
	}
	panel, err := s.readPanel(ctx, now, r)
	if err != nil {
		return nil, err
	}
	s.compare(r, counters)
	r.Cost = procfs.CPUTime() - used
	s.last.time, s.last.panel, s.last.counters, s.last.count = now, panel, counters, r.Limits.Count
	return r, nil
}

// readPanel reads until both this panel is full and the one before has been
// met again.
func (s *topSource) readPanel(ctx context.Context, now time.Time, r *tui.Reading) (*census.Panel, error) {
	panel := census.NewPanel(s.panel, s.seed)
	old, elapsed := s.last.panel, now.Sub(s.last.time)
	growth := 1.0
	if n := s.last.count.Or(0); n > 0 {
		growth = max(1, float64(r.Limits.Count.N)/float64(n))
	}
	// The display keeps one reading while the next is taken, so two buffers do.
	s.buffers[0], s.buffers[1] = s.buffers[1], s.buffers[0][:0]
	if n := min(s.panel, int(r.Limits.Count.N)); cap(s.buffers[1]) < n {
		s.buffers[1] = make([]ct.Flow, 0, n)
	}
	r.Flows = s.buffers[1]
	more := true
	sum, err := s.table.Dump(ctx, ctnl.Query{Walk: s.table.walk}, func(f *ct.Flow) error {
		if old != nil {
			old.Second(f, elapsed)
		}
		if more {
			if more = panel.First(f); more {
				r.Flows = append(r.Flows, *f)
			}
		}
		if !more && (old == nil || old.Enough(growth)) {
			return ctnl.ErrStop
		}
		return nil
	})
	r.Complete = !sum.Stopped && more
	s.buffers[1] = r.Flows
	return panel, err
}

// compare fills in the rates since the last reading.
func (s *topSource) compare(r *tui.Reading, now []ctnl.CPUCounters) {
	if s.last.panel == nil {
		return
	}
	rates := &ct.Rates{Interval: r.Time.Sub(s.last.time), CountStart: s.last.count, CountEnd: r.Limits.Count}
	for i := range now {
		if i < len(s.last.counters) {
			rates.Counters.Add(now[i].Counters.Sub(s.last.counters[i].Counters))
		}
	}
	s.last.panel.Rates(rates, rates.Interval)
	r.Rates = rates
}

// Preview asks evict what it would do, with a command line that does nothing.
func (s *topSource) Preview(ctx context.Context, where string) (string, error) {
	var out bytes.Buffer
	env := *s.env
	env.Stdout, env.Stderr, env.StdinTTY = &out, &out, false
	cmd := newEvict(&env)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs([]string{"--netns", s.sel.netns, "--where", where})
	err := cmd.ExecuteContext(ctx)
	var exit *ExitError
	if errors.As(err, &exit) && exit.Err == nil {
		err = nil
	}
	return out.String(), err
}
