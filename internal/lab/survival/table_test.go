package survival

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "make the table in docs/survival.md anew")

const (
	doc     = "../../../docs/survival.md"
	results = "../../../docs/survival"
	opens   = "<!-- results -->\n"
	ends    = "<!-- end of results -->\n"
)

// TestTableIsOfTheResults makes the published table of the published results.
func TestTableIsOfTheResults(t *testing.T) {
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(text), opens)
	table, tail, ok2 := strings.Cut(rest, ends)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the results", doc)
	}
	files, err := filepath.Glob(filepath.Join(results, "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no results in %s: %v", results, err)
	}
	var all []Result
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		list, err := Read(f)
		f.Close()
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, list...)
	}
	for _, r := range all {
		if _, err := Find(r.Scenario); err != nil {
			t.Error(err)
		}
	}
	want := "\n" + Table(all) + "\n"
	if *update {
		if err := os.WriteFile(doc, []byte(head+opens+want+ends+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if table != want {
		t.Errorf("the table of %s is not that of the results: run go test ./internal/lab/survival -run Table -update", doc)
	}
}

func TestCounting(t *testing.T) {
	for _, c := range []struct {
		shares []float64
		want   int
	}{{nil, 0}, {[]float64{1, 1}, 0}, {[]float64{0.5, 1}, 1}, {[]float64{1, 0.9, 1, 0.98, 1}, 4}, {[]float64{1, 0}, -1}} {
		if got := recovery(c.shares); got != c.want {
			t.Errorf("recovery of %v is %d, want %d", c.shares, got, c.want)
		}
	}
	if got := thousands(1234567); got != "1,234,567" {
		t.Error(got)
	}
}
