package klog

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/tools/txtar"
)

// seeds are the lines of all excerpts.
func seeds(f *testing.F, add func(text []byte)) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range txtar.Parse(text).Files {
			add(file.Data)
		}
	}
}

func FuzzFeed(f *testing.F) {
	seeds(f, func(text []byte) { f.Add(text) })
	opts := Options{Now: time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC), Location: time.UTC}
	f.Fuzz(func(t *testing.T, text []byte) {
		whole, bytewise := NewCollector(opts), NewCollector(opts)
		if err := whole.Feed("log", bytes.NewReader(text), Hints{}); err != nil {
			t.Fatal(err)
		}
		if err := bytewise.Feed("log", iotest.OneByteReader(bytes.NewReader(text)), Hints{}); err != nil {
			t.Fatal(err)
		}
		r := whole.Report()
		if a, b := render(r), render(bytewise.Report()); a != b {
			t.Fatalf("the same text in other pieces:\n%s\n%s", a, b)
		}
		for _, e := range r.Episodes {
			if e.RefusedMin > e.RefusedMax || e.RefusedMin != e.Lines || e.End.Before(e.Start) || len(e.Sources) == 0 {
				t.Fatalf("impossible episode %+v", e)
			}
		}
	})
}

func FuzzParseLine(f *testing.F) {
	seeds(f, func(text []byte) {
		for line := range bytes.Lines(text) {
			f.Add(line)
		}
	})
	f.Fuzz(func(t *testing.T, line []byte) {
		p, message, ok := parseLine(line)
		if ok != (len(message) > 0) {
			t.Fatalf("ok %v with message %q", ok, message)
		}
		if s := p.stamp; s.form != formNone && s.form != formInstant && !s.valid() {
			t.Fatalf("impossible time %+v", s)
		}
		classify(p.program, message)
	})
}

func FuzzParseStamp(f *testing.F) {
	for _, s := range []string{"Nov 22 10:00:00", "Feb 29 23:59:60", "2025-11-22T10:00:00.123456+01:00",
		"[Sat Nov 22 10:00:00 2025]", "Sat 2025-11-22 10:00:00 CET", "[    1.000000 <    0.5>]", "1763805600.5 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := &cursor{[]byte(text)}
		s, ok := c.parseStamp()
		if !ok && len(c.s) != len(text) {
			t.Fatal("a failure moved the cursor")
		}
		if s.hasMono && s.mono < 0 {
			t.Fatalf("kernel clock %d", s.mono)
		}
		k := clock{loc: time.UTC, anchor: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		if a, pos := k.place(&s); a == axisYearless {
			for _, y := range k.years() {
				k.instant(a, pos, y)
			}
		}
	})
}
