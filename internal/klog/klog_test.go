package klog

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/ctwarden/ctwarden/ct"
)

var update = flag.Bool("update", false, "rewrite the expected reports")

// TestExcerpts reads every excerpt of testdata: txtar files whose comment says
// what is known besides the text (now, mtime, zone, boot, kernel), with one or
// more logs, fed in the order of their names, and the report they must give.
func TestExcerpts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no excerpts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := reportOf(t, ar)
			i := slices.IndexFunc(ar.Files, func(f txtar.File) bool { return f.Name == "want" })
			if *update {
				ar.Files[i].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := string(ar.Files[i].Data); got != want {
				t.Errorf("report:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func reportOf(t *testing.T, ar *txtar.Archive) string {
	t.Helper()
	opts := Options{Now: time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)}
	var hints Hints
	families := map[string]string{}
	for line := range strings.Lines(string(ar.Comment)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		var err error
		switch name {
		case "now":
			opts.Now, err = time.Parse(time.RFC3339, value)
		case "mtime":
			hints.ModTime, err = time.Parse(time.RFC3339, value)
		case "boot":
			hints.Boot, err = time.Parse(time.RFC3339, value)
		case "zone":
			opts.Location, err = time.LoadLocation(value)
		case "kernel":
			opts.Version, err = ct.ParseKernelVersion(value)
		case "family":
			file, family, _ := strings.Cut(value, " ")
			families[file] = family
		default:
			err = fmt.Errorf("unknown setting %q", name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c := NewCollector(opts)
	for _, f := range ar.Files {
		if f.Name == "want" {
			continue
		}
		text := strings.NewReplacer("␍", "\r", "␀", "\x00", "␛", "\x1b").Replace(string(f.Data))
		h := hints
		h.Family = families[f.Name]
		if err := c.Feed(f.Name, strings.NewReader(text), h); err != nil {
			t.Fatal(err)
		}
	}
	return render(c.Report())
}

// render writes a report in one line an item.
func render(r *Report) string {
	var b strings.Builder
	for _, e := range r.Episodes {
		fmt.Fprintf(&b, "%s %s", e.Kind, span4(e.TimeKnown, e.Start, e.End))
		if e.UptimeEnd > 0 {
			fmt.Fprintf(&b, " up=%v..%v", e.UptimeStart, e.UptimeEnd)
		}
		fmt.Fprintf(&b, " host=%s netns=%d lines=%d suppressed=%d refused=%d..%d", e.Host, e.NetnsInode,
			e.Lines, e.Suppressed, e.RefusedMin, e.RefusedMax)
		for _, f := range []struct {
			on   bool
			name string
		}{{e.Shared, "shared"}, {e.TailUnreported, "tail-unreported"}, {e.Uncounted, "uncounted"}} {
			if f.on {
				b.WriteString(" " + f.name)
			}
		}
		if e.SuppressedAgain > 0 {
			fmt.Fprintf(&b, " again=%d", e.SuppressedAgain)
		}
		fmt.Fprintf(&b, " era=%q from=%s\n", e.Era, strings.Join(e.Sources, ","))
	}
	for _, n := range r.Neighbours {
		fmt.Fprintf(&b, "neighbour %s %s host=%s lines=%d", n.Kind, span4(n.TimeKnown, n.First, n.Last), n.Host, n.Lines)
		if n.Suppressed > 0 {
			fmt.Fprintf(&b, " suppressed=%d", n.Suppressed)
		}
		if n.Max.Known {
			fmt.Fprintf(&b, " buckets=%d max=%d", n.Buckets.N, n.Max.N)
		}
		fmt.Fprintf(&b, " detail=%q\n", n.Detail)
	}
	for _, s := range r.Sources {
		fmt.Fprintf(&b, "covers %s matched=%d %s\n", span4(!s.From.IsZero(), s.From, s.To), s.Matched, s.Name)
	}
	if s := r.Skipped; s != (Skipped{}) {
		fmt.Fprintf(&b, "skipped not-kernel=%d too-long=%d overflow=%d duplicate=%d\n", s.NotKernel, s.TooLong, s.Overflow, s.Duplicate)
	}
	return b.String()
}

func span4(known bool, from, to time.Time) string {
	if !known {
		return "untimed"
	}
	const layout = "2006-01-02T15:04:05.999999Z07:00"
	return from.Format(layout) + "/" + to.Format(layout)
}
