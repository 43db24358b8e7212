package cli

import (
	"bytes"
	"context"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/census"
	"github.com/ctwarden/ctwarden/internal/tune"
	"github.com/ctwarden/ctwarden/internal/workload"
	"github.com/ctwarden/ctwarden/sim"
)

var updateExample = flag.Bool("update-example", false, "rewrite the documentation's example")

const (
	exampleTraffic = "../../docs/examples/attack.yaml"
	examplePicture = "../../docs/examples/attack.svg"
	examplePage    = "../../docs/examples/attack.md"
	exampleEra     = "5.10"
)

// The three answers that docs/examples/attack.md compares. The last is what
// ctwarden plan says of the server in the middle of the attack.
func exampleSettings(t *testing.T) [3]string {
	t.Helper()
	return [3]string{
		"name=stock",
		"name=pasted advice,max=524288,generic_timeout=120,tcp_timeout_established=54000,tcp_timeout_close_wait=60,tcp_timeout_fin_wait=60,tcp_timeout_time_wait=60",
		"name=ctwarden's plan," + planInAttack(t),
	}
}

// planInAttack simulates the first minutes under stock settings, looks at the
// table as check would, twice, and asks for a plan.
func planInAttack(t *testing.T) string {
	t.Helper()
	era, err := sim.EraByName(exampleEra)
	if err != nil {
		t.Fatal(err)
	}
	cfg := sim.DefaultConfig(era)
	real := cfg
	// A tenth of the server is as good as all of it, and ten times as fast.
	const tenth = 10
	cfg.Seed, cfg.Scale = 1, 1./tenth
	cfg.Max, cfg.Buckets = cfg.Max/tenth, cfg.Buckets/tenth
	born := map[sim.ID]bool{}
	cfg.Events = func(e sim.Event) {
		if e.Kind == sim.EventNew {
			born[e.Entry] = true
		} else {
			delete(born, e.Entry)
		}
	}
	table, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(exampleTraffic)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spec, err := workload.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	g, err := workload.New(spec, 0, 1./tenth)
	if err != nil {
		t.Fatal(err)
	}
	var results [sim.BatchSize]sim.Result
	sink := func(at []sim.Time, ps []sim.Packet, verdicts []sim.Verdict) {
		table.Packets(at, ps, results[:len(ps)])
		for i := range ps {
			verdicts[i] = results[i].Verdict
		}
	}
	const looked, interval = 240 * time.Second, 10 * time.Second
	run := func(until time.Duration) {
		if err := g.RunUntil(context.Background(), sim.Time(until), sink); err != nil {
			t.Fatal(err)
		}
	}
	run(looked - interval)
	clear(born)
	first, before := table.Count(), table.Counters().Drop
	run(looked)
	s := &ct.Snapshot{
		Host: "web", Release: "5.10.0-1-amd64", Version: ct.KernelVersion{Major: 5, Minor: 10}, Timeouts: cfg.Timeouts,
		Netns: ct.Netns{Inode: 4026531840, Initial: ct.Yes},
		Limits: ct.Limits{Count: ct.Known(int64(tenth * table.Count())), Max: ct.Known(int64(real.Max)),
			Buckets: ct.Known(int64(real.Buckets)), MaxWritable: ct.Yes},
		Memory:   ct.Memory{TotalBytes: ct.Known(16 << 30), AvailableBytes: ct.Known(12 << 30), SlabObjectBytes: ct.Known(256)},
		Tracking: ct.Tracking{ModuleLoaded: ct.Yes, Active: ct.Yes, NAT: ct.No, Users: []string{"nft inet filter input: ct state"}},
		Rates:    &ct.Rates{Interval: interval, Panel: true, CountStart: ct.Known(int64(tenth * first)), CountEnd: ct.Known(int64(tenth * table.Count()))},
	}
	s.Rates.Counters.SetByName("drop", tenth*(table.Counters().Drop-before))
	counts := census.New(census.Options{})
	births := map[ct.ClassKey]float64{}
	for id, flow := range table.Dump() {
		counts.Add(flow)
		if born[id] {
			births[census.ClassOf(flow)] += tenth / interval.Seconds()
			s.Rates.BirthsPerSecond += tenth / interval.Seconds()
		}
	}
	s.Census = counts.Result()
	s.Census.Complete = false // so that it stands for the count
	for k, n := range births {
		s.Rates.BirthsByClass = append(s.Rates.BirthsByClass, ct.ClassRate{ClassKey: k, PerSecond: n})
	}
	plan, err := tune.New(s, tune.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var items []string
	for _, it := range plan.Items {
		items = append(items, strings.TrimPrefix(it.Key, tune.Prefix)+"="+it.To)
		t.Logf("%s: %s → %s: %s", it.Key, it.From, it.To, it.Why)
	}
	return strings.Join(items, ",")
}

func TestAttackExample(t *testing.T) {
	args := []string{"simulate", exampleTraffic, "--era", exampleEra, "--scale", "0.05", "-o", "svg"}
	settings := exampleSettings(t)
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	var out, errs bytes.Buffer
	code := Run(t.Context(), &Env{Args: args, Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }, Now: time.Now})
	if code != ExitOK {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	if *updateExample {
		if err := os.WriteFile(examplePicture, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(examplePicture)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("%s is not what the command makes: run with -update-example and look at it", examplePicture)
	}
	page, err := os.ReadFile(examplePage)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings {
		if !strings.Contains(string(page), "--set '"+s+"'") && !strings.Contains(string(page), `--set "`+s+`"`) {
			t.Errorf("%s does not compare --set %q", examplePage, s)
		}
	}
}
