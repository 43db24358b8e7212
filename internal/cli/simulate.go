package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/capture"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/simulate"
	"github.com/ctwarden/ctwarden/internal/workload"
	"github.com/ctwarden/ctwarden/sim"
)

const simulateLong = `Runs traffic through a model of the kernel's connection tracking and says what
would happen: would the table fill, when, who would be refused, and what other
settings would change about it. It touches nothing on the machine.

Traffic is a workload file (YAML; see docs/workload.md) or packet captures (pcap
or pcapng, plain, gzip or zstd; several are merged; "-" is standard input).

Each --set is one configuration; all see the same packets.

Exit code 0: at least one setting refuses nothing. 1: every setting refuses
packets. 2: it could not be simulated.`

const simulateExample = `  ctwarden simulate attack.yaml --set max=262144 --set max=524288,buckets=524288
  ctwarden simulate capture.pcap.gz --set-from live --set tcp_timeout_time_wait=30
  ctwarden simulate attack.yaml --find max --target 'refused == 0'
  ctwarden simulate attack.yaml --set default -o html > attack.html`

// maxKept bounds the packets of standard input that several settings are to see.
const maxKept = 20_000_000

type simulator struct {
	env     *Env
	sets    []string
	from    string
	era     string
	seed    uint64
	scale   float64
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
	fs.Float64Var(&s.scale, "scale", 1, "thin a workload, its limit and its buckets by this factor, 0 to 1")
	fs.StringVar(&s.find, "find", "", "search the smallest value of this key that meets --target")
	fs.IntVar(&s.low, "from", 1, "the search's lower end")
	fs.IntVar(&s.high, "to", 8<<20, "the search's upper end")
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
	base, err := s.base(ctx)
	if err != nil {
		return err
	}
	traffic, err := s.traffic(files, max(len(s.sets), 1) > 1 || s.find != "")
	if err != nil {
		return err
	}
	if s.find != "" {
		return s.search(ctx, base, traffic)
	}
	settings, err := s.settings(base)
	if err != nil {
		return err
	}
	p := newProgress(s.env)
	rs, err := simulate.Compare(ctx, settings, traffic, simulate.Options{Workers: s.workers, Progress: together(p, "simulating", len(settings))})
	p.clear()
	if err != nil {
		return err
	}
	if err := s.print(rs, nil); err != nil {
		return err
	}
	for i := range rs {
		if rs[i].Refused == 0 {
			return nil
		}
	}
	return found
}

// together shows the mean progress of several runs.
func together(p *progress, doing string, n int) func(int, float64) {
	var mu sync.Mutex
	done := make([]float64, n)
	return func(i int, d float64) {
		mu.Lock()
		defer mu.Unlock()
		done[i] = d
		sum := 0.0
		for _, x := range done {
			sum += x
		}
		p.show(doing, sum/float64(n))
	}
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
		set, err := simulate.ParseSetting(text, base)
		if err != nil {
			return nil, err
		}
		s.thin(&set.Config)
		out[i] = set
	}
	return out, nil
}

// thin scales the table with the traffic, so that fill and chains stay what
// they are.
func (s *simulator) thin(c *sim.Config) {
	if s.scale < 1 {
		c.Max = int(float64(c.Max) * s.scale)
		c.Buckets = max(1, int(float64(c.Buckets)*s.scale))
	}
}

// traffic returns a maker of traffic; each run of a file opens it anew.
func (s *simulator) traffic(files []string, several bool) (func() (simulate.Traffic, error), error) {
	if len(files) == 1 && isYAML(files[0]) {
		f, err := os.Open(files[0])
		if err != nil {
			return nil, err
		}
		defer f.Close()
		spec, err := workload.Parse(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", files[0], err)
		}
		return func() (simulate.Traffic, error) {
			return &simulate.Generated{Spec: spec, Seed: s.seed, Scale: s.scale}, nil
		}, nil
	}
	if s.scale != 1 {
		return nil, errors.New("--scale thins workload files only")
	}
	stdin := false
	for _, f := range files {
		stdin = stdin || f == "-"
	}
	if stdin && several {
		m, err := s.open(files)
		if err != nil {
			return nil, err
		}
		kept, err := simulate.Keep(m, maxKept)
		return func() (simulate.Traffic, error) { c := *kept; return &c, nil }, err
	}
	return func() (simulate.Traffic, error) {
		m, err := s.open(files)
		if err != nil {
			return nil, err
		}
		return &simulate.Captured{Source: m}, nil
	}, nil
}

func isYAML(name string) bool {
	ext := strings.ToLower(filepath.Ext(name))
	return ext == ".yaml" || ext == ".yml"
}

func (s *simulator) open(files []string) (*capture.Merge, error) {
	readers := make([]*capture.Reader, len(files))
	for i, name := range files {
		var r io.Reader = s.env.Stdin
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				return nil, err
			}
			r = f
		}
		c, err := capture.NewReader(r)
		if err != nil {
			return nil, &HintError{fmt.Errorf("%s: %w", name, err), "a workload file must end in .yaml"}
		}
		readers[i] = c
	}
	return capture.NewMerge(readers, files), nil
}

func (s *simulator) search(ctx context.Context, base sim.Config, traffic func() (simulate.Traffic, error)) error {
	target, err := simulate.ParseTarget(s.target)
	if err != nil {
		return err
	}
	set := simulate.Setting{Name: "base", Config: base}
	if len(s.sets) > 0 {
		if set, err = simulate.ParseSetting(s.sets[0], base); err != nil {
			return err
		}
	}
	s.thin(&set.Config)
	tell := func(v int, met bool) {
		fmt.Fprintf(s.env.Stderr, "%s=%d: target %s\n", s.find, v, map[bool]string{true: "met", false: "missed"}[met])
	}
	f, err := simulate.Find(ctx, set, s.find, s.low, s.high, target, traffic, simulate.Options{Workers: 1}, tell)
	if errors.Is(err, simulate.ErrNotFound) {
		return &ExitError{ExitFound, err}
	}
	if err != nil {
		return err
	}
	return s.print(f.Runs[len(f.Runs)-1:], f)
}

// document is the JSON of a simulation.
type document struct {
	Schema  string            `json:"schema"`
	Time    time.Time         `json:"time"`
	Host    string            `json:"host"`
	Kernel  string            `json:"kernel"`
	Netns   ct.Netns          `json:"netns"`
	Found   *foundValue       `json:"found,omitempty"`
	Results []simulate.Result `json:"results"`
}

type foundValue struct {
	Key    string `json:"key"`
	Value  int    `json:"value"`
	Target string `json:"target"`
}

func (s *simulator) print(rs []simulate.Result, f *simulate.Found) error {
	w := s.env.Stdout
	switch s.output {
	case "json":
		d := document{Schema: "ctwarden.simulate/1", Time: s.env.Now(), Results: rs}
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
		return simulate.WriteHTML(w, rs)
	case "svg":
		return simulate.WriteSVG(w, rs)
	}
	note := ""
	if f != nil {
		note = fmt.Sprintf("The smallest %s with %s is %d.", f.Key, f.Target, f.Value)
	}
	if s.scale < 1 {
		note = strings.TrimSpace(note + fmt.Sprintf(" Thinned: traffic, limit and buckets are %g of the real ones.", s.scale))
	}
	return simulate.WriteText(w, rs, note)
}
