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
		if len(got) != len(Columns()) {
			t.Errorf("%s: %d outcomes of %d", s.Name, len(got), len(Columns()))
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
