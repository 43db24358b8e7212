package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/hugepages"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/simulate"
	"github.com/ctwarden/ctwarden/sim"
)

const simulateLong = `Runs traffic through a model of the kernel's connection tracking and says what
would happen: would the table fill, when, who would be refused, and what other
settings would change about it. It touches nothing on the machine.

Traffic is a workload file (YAML; see docs/workload.md) or packet captures (pcap
or pcapng, plain, gzip or zstd; several are merged; "-" is standard input).
Captures may be of any length; Ctrl-C ends one that never does, and the result is
what was seen until then.

Each --set is one configuration; all see the same packets.

A long workload is thinned with --scale: with 0.05 one connection in twenty is
simulated, on a table a twentieth of the size; all figures are those of the whole.

Exit code 0: at least one setting refuses nothing. 1: every setting refuses
packets. 2: it could not be simulated.`

const simulateExample = `  ctwarden simulate attack.yaml --set max=262144 --set max=524288,buckets=524288
  ctwarden simulate capture.pcap.gz --set-from live --set tcp_timeout_time_wait=30
  ctwarden simulate live.yaml --times 2 --set-from live
  ctwarden simulate attack.yaml --find max --target 'refused == 0'
  ctwarden simulate attack.yaml --set default -o html > attack.html`

type simulator struct {
	env     *Env
	sets    []string
	from    string
	era     string
	seed    uint64
	scale   float64
	times   float64
	find    string
	low     int
	high    int
	target  string
	output  string
	json    bool
	workers int
}

func newSimulate(env *Env) *cobra.Command {
	s := &simulator{env: env}
	cmd := &cobra.Command{
		Use: "simulate TRAFFIC...", Short: "Say what would happen under other settings, by a model of the kernel",
		Long: simulateLong, Example: simulateExample, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return s.run(cmd.Context(), args) },
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&s.sets, "set", nil, "a configuration: key=value,... over the base; repeatable")
	fs.StringVar(&s.from, "set-from", "default", "the base: default (of the kernel era) or live (this machine)")
	fs.StringVar(&s.era, "era", "", "kernel era: "+strings.Join(eraNames(), ", ")+" (default this machine's)")
	fs.Uint64Var(&s.seed, "seed", 0, "seed of all that is random (default the workload's)")
	fs.Float64Var(&s.scale, "scale", 1, "simulate this part of a workload, 0 to 1, on a table as much smaller")
	fs.Float64Var(&s.times, "times", 1, "so many times the arrivals of a workload, above 0: 2 is twice the traffic")
	fs.StringVar(&s.find, "find", "", "search the smallest max or buckets, or the longest timeout, that meets --target")
	fs.IntVar(&s.low, "from", 1, "the search's lower end")
	fs.IntVar(&s.high, "to", 8<<20, "the search's upper end; of timeouts at most five days")
	fs.StringVar(&s.target, "target", "refused == 0", "condition over the results, such as: served >= 0.995")
	fs.IntVar(&s.workers, "jobs", 0, "settings that run at once (default the number of CPUs)")
	fs.StringVarP(&s.output, "output", "o", "text", "format: text, json, csv, html or svg")
	fs.BoolVar(&s.json, "json", false, "the same as -o json")
	return cmd
}

func eraNames() []string {
	var names []string
	for _, e := range sim.Eras() {
		names = append(names, e.Name)
	}
	return names
}

func (s *simulator) run(ctx context.Context, files []string) error {
	if s.json {
		s.output = "json"
	}
	switch s.output {
	case "text", "json", "csv", "html", "svg":
	default:
		return &HintError{fmt.Errorf("unknown output format %q", s.output), "formats are text, json, csv, html and svg"}
	}
	if s.scale <= 0 || s.scale > 1 {
		return fmt.Errorf("--scale %g is not above 0 and at most 1", s.scale)
	}
	if !(s.times > 0 && s.times <= 1e6) {
		return fmt.Errorf("--times %g is not above 0 and at most a million", s.times)
	}
	base, err := s.base(ctx)
	if err != nil {
		return err
	}
	settings, err := s.settings(base)
	if err != nil {
		return err
	}
	in, err := s.input(files)
	if err != nil {
		return err
	}
	defer in.close()
	if s.find != "" {
		if len(settings) > 1 {
			return &HintError{errors.New("--find searches over one configuration, and several were given"), "put everything into one --set, separated by commas"}
		}
		return s.search(ctx, settings[0], in)
	}
	p := newProgress(s.env)
	o := simulate.Options{Workers: s.workers, Scale: s.scale, Memory: hugepages.Advise, Progress: together(p, "simulating", in, len(settings))}
	var rs []simulate.Result
	if in.spec != nil {
		rs, err = simulate.Compare(ctx, settings, in.generated(s), o)
	} else {
		rs, err = simulate.Stream(ctx, settings, in.captures, o)
	}
	p.clear()
	if err != nil {
		return err
	}
	in.report(s.env.Stderr)
	if err := in.empty(); err != nil {
		return err
	}
	if err := s.print(rs, nil, in); err != nil {
		return err
	}
	for i := range rs {
		if rs[i].Refused == 0 {
			return nil
		}
	}
	return found
}

func (s *simulator) base(ctx context.Context) (sim.Config, error) {
	var snap *ct.Snapshot
	era := sim.Latest()
	if s.from == "live" || s.era == "" {
		live, err := observe.Machine(ctx, observe.Options{Observe: 0, Panel: 1})
		if err != nil && s.from == "live" {
			return sim.Config{}, err
		}
		if err == nil && !live.Version.IsZero() {
			era = sim.EraFor(live.Version)
		}
		if s.from == "live" {
			snap = live
		}
	}
	if s.from != "live" && s.from != "default" {
		return sim.Config{}, &HintError{fmt.Errorf("--set-from %q is not understood", s.from), "it is default or live"}
	}
	if s.era != "" {
		e, err := sim.EraByName(s.era)
		if err != nil {
			return sim.Config{}, &HintError{err, "eras are " + strings.Join(eraNames(), ", ")}
		}
		era = e
	}
	return simulate.Base(era, snap, s.seed), nil
}

func (s *simulator) settings(base sim.Config) ([]simulate.Setting, error) {
	sets := s.sets
	if len(sets) == 0 {
		sets = []string{s.from}
	}
	out := make([]simulate.Setting, len(sets))
	for i, text := range sets {
		set, err := simulate.ParseSetting(text, base, s.from == "live")
		if err != nil {
			return nil, err
		}
		out[i] = set
	}
	return out, nil
}

func (s *simulator) search(ctx context.Context, set simulate.Setting, in *trafficInput) error {
	target, err := simulate.ParseTarget(s.target)
	if err != nil {
		return err
	}
	traffic, err := in.again(s)
	if err != nil {
		return err
	}
	tell := func(v int, met bool) {
		fmt.Fprintf(s.env.Stderr, "%s=%d: target %s\n", s.find, v, map[bool]string{true: "met", false: "missed"}[met])
	}
	o := simulate.Options{Workers: 1, Scale: s.scale, Memory: hugepages.Advise}
	f, err := simulate.Find(ctx, set, s.find, s.low, s.high, target, traffic, o, tell)
	if errors.Is(err, simulate.ErrNotFound) {
		return &ExitError{ExitFound, err}
	}
	if err != nil {
		return err
	}
	in.report(s.env.Stderr)
	if err := in.empty(); err != nil {
		return err
	}
	return s.print(f.Runs[len(f.Runs)-1:], f, in)
}

// document is the JSON of a simulation.
type document struct {
	Schema  string          `json:"schema"`
	Time    time.Time       `json:"time"`
	Host    string          `json:"host"`
	Kernel  string          `json:"kernel"`
	Netns   ct.Netns        `json:"netns"`
	Found   *foundValue     `json:"found,omitempty"`
	Capture []captureCounts `json:"captures,omitempty"`
	// StateNames are the kinds of entries that "states" counts, in its order.
	StateNames []string          `json:"state_names"`
	Results    []simulate.Result `json:"results"`
}

type foundValue struct {
	Key    string `json:"key"`
	Value  int    `json:"value"`
	Target string `json:"target"`
}

func (s *simulator) print(rs []simulate.Result, f *simulate.Found, in *trafficInput) error {
	w := s.env.Stdout
	switch s.output {
	case "json":
		d := document{Schema: "ctwarden.simulate/1", Time: s.env.Now(), Results: rs, Capture: in.counts(), StateNames: simulate.StateNames}
		d.Host, _ = os.Hostname()
		if len(rs) > 0 {
			d.Kernel = rs[0].Era
		}
		if f != nil {
			d.Found = &foundValue{f.Key, f.Value, f.Target}
		}
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(d)
	case "csv":
		return simulate.WriteCSV(w, rs)
	case "html":
		return simulate.WriteHTML(w, rs, s.caption(in))
	case "svg":
		return simulate.WriteSVG(w, rs, s.caption(in))
	}
	return simulate.WriteText(w, rs, s.note(f))
}

// note says what one must know about the figures.
func (s *simulator) note(f *simulate.Found) string {
	var parts []string
	if f != nil {
		parts = append(parts, fmt.Sprintf("The %s %s with %s is %d.", f.Which(), f.Key, f.Target, f.Value))
	}
	if s.times != 1 {
		parts = append(parts, fmt.Sprintf("With %g times the workload's arrivals.", s.times))
	}
	if s.scale < 1 {
		parts = append(parts, fmt.Sprintf("Thinned: %g of the connections were simulated, on a table of that size; the figures are those of all.", s.scale))
	}
	return strings.Join(parts, " ")
}

func (s *simulator) caption(in *trafficInput) simulate.Caption {
	c := simulate.Caption{Note: s.note(nil)}
	if in.spec != nil {
		c.Title = in.spec.Title
	}
	return c
}
