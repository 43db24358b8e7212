package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/guardd"
)

// attack is an incident with every field set.
func attack() guard.Incident {
	start := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	return guard.Incident{Start: start, End: start.Add(92 * time.Second), Seconds: 92, Worst: guard.Emergency, Class: "handshakes left idle",
		Figures: guard.Figures{PeakCount: 261_000, PeakFill: 0.996, PeakNewPerSec: 10_012, Refused: 3, EarlyDropped: 12, OnProbation: 5000,
			Acquitted: 7, Evicted: 4993, SourcesLimited: 2, MaxRaisedTo: 393_216},
		Deeds: []guard.Deed{
			{AfterSeconds: 0.1, What: "nf_conntrack_max 262144 -> 393216", Why: "the table would be full in 1.2 s", Outcome: "done"},
			{AfterSeconds: 92, What: "nf_conntrack_max 393216 -> 262144", Why: "the table has drained", Undo: true},
		}}
}

func TestIncidentsAsPrinted(t *testing.T) {
	dir := t.TempDir()
	line, err := json.Marshal(guardd.Incident{NetnsInode: 4026531840, Incident: attack()})
	if err != nil {
		t.Fatal(err)
	}
	seen := attack()
	seen.Start, seen.Observed, seen.Deeds = seen.Start.Add(time.Hour), true, nil
	second, _ := json.Marshal(guardd.Incident{NetnsInode: 4026531840, Incident: seen})
	data := append(append(append(line, "\nnot json\n"...), second...), '\n')
	if err := os.WriteFile(filepath.Join(dir, "incidents.jsonl"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := ctw(t, "incidents", "--state-dir", dir, "--run-dir", t.TempDir())
	if s.code != ExitOK || !strings.Contains(s.err, "1 damaged lines") {
		t.Errorf("code %d, %s", s.code, s.err)
	}
	for _, want := range []string{
		"2026-01-31 12:00:00, 92 s, handshakes left idle, up to emergency: 261000 entries at most (100 % of max), 3 refused",
		"  what it cost: 5000 entries on probation, of which 7 moved and stayed and 4993 ended; 2 sources limited",
		"       0.1 s  nf_conntrack_max 262144 -> 393216, because the table would be full in 1.2 s: done",
		"; only observed",
	} {
		if !strings.Contains(s.out, want) {
			t.Errorf("%q is not in\n%s", want, s.out)
		}
	}
	s = ctw(t, "incidents", "--json", "--state-dir", dir, "--run-dir", t.TempDir())
	matches(t, "incidents", []byte(s.out))
	if s := ctw(t, "incidents", "--state-dir", t.TempDir(), "--run-dir", t.TempDir()); s.out != "No incident is on record.\n" {
		t.Errorf("without any: %q", s.out)
	}
}

func matches(t *testing.T, name string, doc []byte) {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("../../docs/schema/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatalf("%v: %s", err, doc)
	}
	if err := schema.Validate(v); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

func TestStatusMatchesItsSchema(t *testing.T) {
	s := guardd.Status{Schema: guardd.StatusSchema, Mode: "enforce", Level: guard.Pressure, Count: 5, Max: 10, MaxBefore: 5,
		Blind: []string{"rules: no permission"}, Incidents: []guard.Incident{attack()}}
	now := attack()
	s.UnderWay = &now
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	matches(t, "guard-status", b)
	var out strings.Builder
	if err := s.Text(&out); err != nil || !strings.HasPrefix(out.String(), "Pressure: the table holds 5 of 10 entries (50 %).") {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestGuardCommandLine(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "guard.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("mode: enforce\n")
	if s := ctw(t, "guard", "--config", file, "--check-config"); s.code != ExitOK || !strings.HasPrefix(s.out, file+": the configuration is good.\nmeans.synproxy: ") {
		t.Errorf("%+v", s)
	}
	write("mode: enforce\nkeep_idle: 2h\n")
	want := "ctwarden: " + file + ": line 2: keep_idle: unknown key; allowed here: mode, keep-idle,"
	if s := ctw(t, "guard", "--config", file, "--check-config"); s.code != ExitFailed || !strings.HasPrefix(s.err, want) {
		t.Errorf("%+v", s)
	}
	if s := ctw(t, "guard", "--mode", "attack", "--check-config"); s.code != ExitFailed || !strings.Contains(s.err, "observe or enforce") {
		t.Errorf("%+v", s)
	}
	if s := ctw(t, "guard", "--config", filepath.Join(dir, "none.yaml")); s.code != ExitFailed || !strings.Contains(s.err, "read configuration") {
		t.Errorf("%+v", s)
	}
	run := t.TempDir()
	if s := ctw(t, "guard", "status", "--run-dir", run); s.code != ExitFailed || !strings.Contains(s.err, "no guard runs for this namespace") {
		t.Errorf("%+v", s)
	}
	if s := ctw(t, "guard", "cleanup", "--run-dir", run, "--state-dir", filepath.Join(dir, "state")); s.code != ExitOK || s.out != "Nothing was left to put back.\n" {
		t.Errorf("%+v", s)
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); err == nil {
		t.Error("cleanup made a state directory just to say so")
	}
}
