package advice

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab/vm"
	"github.com/ctwarden/ctwarden/internal/tune"
)

var (
	whole   = flag.Bool("advice.whole", false, "all scenes, whole times")
	write   = flag.String("advice.write", "", "page to write the table into")
	results = flag.String("advice.results", "", "file that keeps outcomes between runs")
	scene   = flag.String("advice.only", "", "this scene only")
)

const series = "6.1"

// inGuest runs a scene under all columns.
func inGuest(t *testing.T, s *Scene, short bool) []Outcome {
	t.Helper()
	k := vm.Need(t, series)
	args := []string{"-advice.scene=" + strings.ReplaceAll(s.Name, " ", "_")}
	if short {
		args = append(args, "-advice.short")
	}
	out, err := k.Boot(t.Context(), t.TempDir(), vm.Options{Package: "./internal/lab/advice", Run: "^TestGuestTrial$", Args: args,
		Modules: vm.NetfilterModules, Load: []string{"nf_conntrack", "nf_conntrack_netlink", "nf_nat", "veth"},
		Programs:  []string{"ip", "nft", "conntrack", "sh"},
		MemoryMiB: 1024, VirtualTime: true, Timeout: 40 * time.Minute})
	if err != nil {
		t.Errorf("%s: %v\n%s", s.Name, err, out)
	}
	var list []Outcome
	for line := range strings.Lines(out) {
		if text, ok := strings.CutPrefix(line, resultMark); ok {
			var o Outcome
			if err := json.Unmarshal([]byte(text), &o); err != nil {
				t.Fatal(err)
			}
			list = append(list, o)
		}
	}
	return list
}

// TestAdvice prints the table: scenes by columns. A scene whose outcomes are in
// the file of results already is not run again.
func TestAdvice(t *testing.T) {
	if !*whole {
		t.Skip("long: make advice")
	}
	list := readResults(t)
	for _, s := range Scenes() {
		if *scene != "" && s.Name != *scene || slices.ContainsFunc(list, func(o Outcome) bool { return o.Scene == s.Name }) {
			continue
		}
		start := time.Now()
		got := inGuest(t, &s, false)
		t.Logf("%s took %s", s.Name, time.Since(start).Round(time.Second))
		if len(got) != len(s.columns()) {
			t.Errorf("%s: %d outcomes of %d", s.Name, len(got), len(s.columns()))
			continue
		}
		list = append(list, got...)
		keepResults(t, list)
	}
	page := Page(list)
	os.Stdout.WriteString(page)
	if *write != "" && !t.Failed() {
		if err := os.WriteFile(*write, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func readResults(t *testing.T) (list []Outcome) {
	t.Helper()
	data, err := os.ReadFile(*results)
	if *results == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func keepResults(t *testing.T, list []Outcome) {
	t.Helper()
	if *results == "" {
		return
	}
	data, err := json.MarshalIndent(list, "", " ")
	if err == nil {
		err = os.WriteFile(*results, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRevertedAdvice is the part of the table that every run makes: a table full
// of connections that were left idle. It shows what the table must keep showing.
func TestRevertedAdvice(t *testing.T) {
	scenes := Scenes()
	i := slices.IndexFunc(scenes, func(s Scene) bool { return s.Name == "left idle" })
	list := inGuest(t, &scenes[i], true)
	if len(list) != len(scenes[i].columns()) {
		t.Fatalf("%d outcomes", len(list))
	}
	t.Log(scenes[i].table(list))
	for _, o := range list {
		served, whole := float64(o.Answered)/float64(o.Asked), o.Refused == 0
		switch o.Column {
		case "stock", "pasted, then \"reverted\"":
			if served > 0.5 || whole {
				t.Errorf("%s: the table refused %d and %d of %d were served", o.Column, o.Refused, o.Answered, o.Asked)
			}
		default:
			if served < 0.8 || !whole { // some are slow on a busy host
				t.Errorf("%s: the table refused %d and %d of %d were served", o.Column, o.Refused, o.Answered, o.Asked)
			}
		}
		if strings.HasPrefix(o.Column, "plan") && o.IdleBroken+o.ActiveBroken > 0 {
			t.Errorf("%s broke %d idle and %d active connections", o.Column, o.IdleBroken, o.ActiveBroken)
		}
	}
}

// TestCommandsAreUnderstood: every pasted line sets something, scaled where it
// counts entries.
func TestCommandsAreUnderstood(t *testing.T) {
	for line := range strings.Lines(pasted + "\n" + tried + "\n" + reverted) {
		if _, _, err := parseCommand(strings.TrimSpace(line)); err != nil {
			t.Error(err)
		}
	}
	if key, v, err := parseCommand("echo 131072 >/sys/module/nf_conntrack/parameters/hashsize"); err != nil || key != tune.KeyBuckets || v != "2048" {
		t.Errorf("%s = %s, %v", key, v, err)
	}
}
