package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/simulate"
)

func matchesSchema(t *testing.T, schema string, doc []byte) {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile("../../docs/schema/" + schema + ".json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatalf("%v: %s", err, doc)
	}
	if err := s.Validate(v); err != nil {
		t.Error(err)
	}
}

func TestSimulateMatchesItsSchema(t *testing.T) {
	for _, args := range [][]string{
		{"../../docs/examples/attack.yaml", "--scale", "0.001", "--set", "max=100000", "--set", "default"},
		{"../../docs/examples/handshakes.yaml", "--scale", "0.01", "--find", "buckets", "--target", "peak > 0", "--from", "65536", "--to", "65540"},
	} {
		var out, errs bytes.Buffer
		code := Run(t.Context(), &Env{Args: append([]string{"simulate", "--json", "--era", "6.1"}, args...), Stdout: &out, Stderr: &errs,
			Getenv: func(string) string { return "" }, Now: time.Now})
		if code == ExitFailed {
			t.Fatalf("%s: %s", args, errs.String())
		}
		matchesSchema(t, "simulate", out.Bytes())
	}
}

func TestForecastMatchesItsSchema(t *testing.T) {
	v := ct.KernelVersion{Major: 6, Minor: 1}
	for _, s := range []*ct.Snapshot{
		{Version: v, Limits: ct.Limits{Count: ct.Known(5), Max: ct.Known(0)}},
		{Version: v, Timeouts: ct.DefaultTimeouts(v), Limits: ct.Limits{Count: ct.Known(500), Max: ct.Known(1000), Buckets: ct.Known(1000)},
			Census: &ct.Census{Entries: 500, Classes: []ct.Class{{ClassKey: ct.ClassKey{Proto: ct.UDP}, Entries: 500}}},
			Rates:  &ct.Rates{Interval: 10 * time.Second, CountStart: ct.Known(400), CountEnd: ct.Known(500)}},
	} {
		f, err := simulate.Predict(s)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := json.Marshal(forecastDocument{"ctwarden.forecast/1", s.Time, "h", "6.1.0", s.Netns, f})
		if err != nil {
			t.Fatal(err)
		}
		matchesSchema(t, "forecast", doc)
	}
}

func TestWorkloadsMatchTheirSchema(t *testing.T) {
	files, err := filepath.Glob("../../docs/examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range append(files, "../simulate/testdata/hour.yaml") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := yaml.YAMLToJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		matchesSchema(t, "workload", doc)
	}
}
