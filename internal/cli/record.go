package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/simulate"
)

func newRecord(env *Env) *cobra.Command {
	var netns string
	var watch, length time.Duration
	cmd := &cobra.Command{
		Use: "record", Short: "Write a workload file fitted to the live table",
		Long: `Watches the table and writes a workload (YAML) with the same arrivals and
lifetimes, so that "ctwarden simulate" can answer what the live traffic would do
under other settings. It reads only.`,
		Example: "  ctwarden record --observe 30s > live.yaml\n  ctwarden simulate live.yaml --set-from live --set tcp_timeout_time_wait=30",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := newProgress(env)
			snap, err := observe.Machine(cmd.Context(), observe.Options{Netns: netns, Observe: watch, Progress: p.show})
			p.clear()
			if err != nil {
				return err
			}
			spec, notes, err := simulate.Fit(snap, length)
			if err != nil {
				return blindHint(err, snap)
			}
			for _, n := range notes {
				if _, err := fmt.Fprintf(env.Stdout, "# %s\n", n); err != nil {
					return err
				}
			}
			return spec.Write(env.Stdout)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&netns, "netns", "", "network namespace: a name, a process id or a path (default the own one)")
	fs.DurationVar(&watch, "observe", 10*time.Second, "how long to watch")
	fs.DurationVar(&length, "length", simulate.Horizon, "the length of the workload written")
	return cmd
}

// blindHint adds what could not be seen to an error about a reading.
func blindHint(err error, s *ct.Snapshot) error {
	for _, b := range s.Blind {
		if b.How != "" {
			return &HintError{err, fmt.Sprintf("%s could not be read (%s): %s", b.What, b.Why, b.How)}
		}
	}
	return err
}

// forecastDocument is the JSON of a forecast.
type forecastDocument struct {
	Schema string    `json:"schema"`
	Time   time.Time `json:"time"`
	Host   string    `json:"host"`
	Kernel string    `json:"kernel"`
	Netns  ct.Netns  `json:"netns"`
	simulate.Forecast
}

func newForecast(env *Env) *cobra.Command {
	var netns, output string
	var asJSON bool
	var watch time.Duration
	cmd := &cobra.Command{
		Use: "forecast", Short: "Say when the table will be full, and how large a flood it survives",
		Long: `From two readings of the live table: the time until it is full at the present
growth, how long it would hold against floods of three kinds, and how many
entries each timeout keeps. It reads only.

Exit code 0: there is room for an hour. 1: full within the hour, or full now.
2: could not look.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				output = "json"
			}
			if output != "text" && output != "json" {
				return &HintError{fmt.Errorf("unknown output format %q", output), "formats are text and json"}
			}
			p := newProgress(env)
			snap, err := observe.Machine(cmd.Context(), observe.Options{Netns: netns, Observe: watch, Progress: p.show})
			p.clear()
			if err != nil {
				return err
			}
			f, err := simulate.Predict(snap)
			if err != nil {
				return blindHint(err, snap)
			}
			if output == "json" {
				e := json.NewEncoder(env.Stdout)
				e.SetIndent("", "  ")
				err = e.Encode(forecastDocument{"ctwarden.forecast/1", snap.Time, snap.Host, snap.Release, snap.Netns, f})
			} else {
				err = f.WriteText(env.Stdout)
			}
			if err == nil && f.Limited && (f.Count >= f.Max || f.FullIn >= 0 && f.FullIn < 3600) {
				return found
			}
			return err
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&netns, "netns", "", "network namespace: a name, a process id or a path (default the own one)")
	fs.DurationVar(&watch, "observe", 10*time.Second, "how long to watch")
	fs.StringVarP(&output, "output", "o", "text", "format: text or json")
	fs.BoolVar(&asJSON, "json", false, "the same as -o json")
	return cmd
}
