package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
)

const module = "github.com/ctwarden/ctwarden/"

// event is one line of go test -json; see go doc test2json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build events
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// report collects events and prints what matters of them.
type report struct {
	out   io.Writer
	known map[string]string // tests whose skip is explained, by their path

	output  map[string][]string // lines by package and test
	skipped map[string]string   // reasons by path
	inPkg   map[string]int      // tests passed by package

	passed, failed, broken int
}

func newReport(out io.Writer) *report {
	return &report{out: out, output: make(map[string][]string),
		skipped: make(map[string]string), inPkg: make(map[string]int)}
}

func (r *report) read(in io.Reader) error { return decodeEvents(in, r.add) }

// add takes one event. A package's events come in order; those of several
// packages are mixed.
func (r *report) add(e event) {
	key := e.Package + " " + e.Test
	switch {
	case e.Action == "output":
		r.output[key] = append(r.output[key], e.Output)
	case e.Action == "build-output":
		fmt.Fprint(r.out, e.Output)
	case e.Test == "":
		r.endPackage(e)
	case e.Action == "pass":
		r.passed++
		r.inPkg[e.Package]++
		delete(r.output, key)
	case e.Action == "skip":
		r.skipped[path(e)] = reason(r.output[key])
		delete(r.output, key)
	case e.Action == "fail":
		r.failed++
		r.print(r.output[key])
		delete(r.output, key)
	}
}

const (
	mostLines = 120 // of one failed test
	mostWidth = 400 // bytes of a line
)

// print shows what a test said: its first and last lines if it said too much.
func (r *report) print(said []string) {
	for i, line := range said {
		switch {
		case len(said) > mostLines && i == mostLines/2:
			fmt.Fprintf(r.out, "    … %d lines …\n", len(said)-mostLines)
		case len(said) > mostLines && i > mostLines/2 && i < len(said)-mostLines/2:
		case len(line) > mostWidth:
			fmt.Fprintf(r.out, "%s…\n", line[:mostWidth])
		default:
			fmt.Fprint(r.out, line)
		}
	}
}

func (r *report) endPackage(e event) {
	name := strings.TrimPrefix(e.Package, module)
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok    %-28s %6.1fs  %d tests\n", name, e.Elapsed, r.inPkg[e.Package])
	case "fail":
		r.broken++
		r.unfinished(e.Package)
		r.print(r.output[e.Package+" "])
		fmt.Fprintf(r.out, "FAIL  %-28s %6.1fs\n", name, e.Elapsed)
	}
	if e.Action == "pass" || e.Action == "fail" || e.Action == "skip" {
		delete(r.output, e.Package+" ")
	}
}

// unfinished prints what tests said that never ended: the process died.
func (r *report) unfinished(pkg string) {
	var keys []string
	for key := range r.output {
		if strings.HasPrefix(key, pkg+" ") && key != pkg+" " {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	for _, key := range keys {
		r.print(r.output[key])
		delete(r.output, key)
	}
}

// finish prints the skips and the count, and reports whether the run failed.
func (r *report) finish(ci bool) (failed bool) {
	var paths []string
	for p := range r.skipped {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	unexplained := 0
	for _, p := range paths {
		why, ok := r.explain(p)
		if !ok {
			why = r.skipped[p]
			unexplained++
		}
		fmt.Fprintf(r.out, "skip  %s: %s\n", p, why)
	}
	if ci && unexplained > 0 {
		fmt.Fprintf(r.out, "FAIL  %d skips that scripts/skips.txt does not explain\n", unexplained)
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, len(paths))
	return r.failed > 0 || r.broken > 0 || ci && unexplained > 0
}

// explain looks for a test, or one that it is part of, in the known skips.
func (r *report) explain(p string) (string, bool) {
	for {
		if why, ok := r.known[p]; ok {
			return why, true
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			return "", false
		}
		p = p[:i]
	}
}

func path(e event) string { return strings.TrimPrefix(e.Package, module) + "/" + e.Test }

// reason is what a skipped test said, without go test's own lines.
func reason(lines []string) string {
	var said []string
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, "=== ") && !strings.HasPrefix(l, "--- ") {
			said = append(said, l)
		}
	}
	return strings.Join(said, " ")
}

// lines reads lines of any length, of which only the first megabyte is kept.
type lines struct{ r *bufio.Reader }

func newLines(in io.Reader) *lines { return &lines{bufio.NewReaderSize(in, 64<<10)} }

func (l *lines) next() ([]byte, error) {
	var line []byte
	for {
		part, err := l.r.ReadSlice('\n')
		if len(line) < 1<<20 {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
