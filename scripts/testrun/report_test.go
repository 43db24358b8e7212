package main

import (
	"strings"
	"testing"
)

const events = `{"Action":"start","Package":"github.com/ctwarden/ctwarden/ct"}
{"Action":"run","Package":"github.com/ctwarden/ctwarden/ct","Test":"TestA"}
{"Action":"output","Package":"github.com/ctwarden/ctwarden/ct","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"github.com/ctwarden/ctwarden/ct","Test":"TestA","Elapsed":0}
{"Action":"output","Package":"github.com/ctwarden/ctwarden/ct","Test":"TestB/sub","Output":"    b_test.go:9: needs root\n"}
{"Action":"output","Package":"github.com/ctwarden/ctwarden/ct","Test":"TestB/sub","Output":"--- SKIP: TestB/sub (0.00s)\n"}
{"Action":"skip","Package":"github.com/ctwarden/ctwarden/ct","Test":"TestB/sub","Elapsed":0}
{"Action":"pass","Package":"github.com/ctwarden/ctwarden/ct","Elapsed":0.1}
`

const failure = `{"Action":"output","Package":"github.com/ctwarden/ctwarden/sim","Test":"TestC","Output":"    c_test.go:1: wrong\n"}
{"Action":"fail","Package":"github.com/ctwarden/ctwarden/sim","Test":"TestC","Elapsed":0}
{"Action":"fail","Package":"github.com/ctwarden/ctwarden/sim","Elapsed":0}
`

const crash = `{"Action":"output","Package":"github.com/ctwarden/ctwarden/sim","Test":"TestD","Output":"panic: oh\n"}
fatal error: not JSON
{"Action":"fail","Package":"github.com/ctwarden/ctwarden/sim","Elapsed":0}
`

func TestReport(t *testing.T) {
	for _, c := range []struct {
		name   string
		events string
		ci     bool
		known  map[string]string
		failed bool
		want   []string
	}{
		{"skip at home", events, false, nil, false, []string{"skip  ct/TestB/sub: b_test.go:9: needs root", "1 passed, 0 failed, 1 skipped"}},
		{"skip in CI", events, true, nil, true, []string{"1 skips that"}},
		{"skip in CI, explained", events, true, map[string]string{"ct/TestB": "known"}, false, []string{"skip  ct/TestB/sub: known"}},
		{"failure", events + failure, false, nil, true, []string{"c_test.go:1: wrong", "FAIL  sim", "1 passed, 1 failed"}},
		{"crash", crash, false, nil, true, []string{"panic: oh", "FAIL  sim"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			r.known = c.known
			if err := r.read(strings.NewReader(c.events)); err != nil {
				t.Fatal(err)
			}
			if got := r.finish(c.ci); got != c.failed {
				t.Errorf("failed = %v, want %v", got, c.failed)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is missing from:\n%s", want, out.String())
				}
			}
			if last := out.String(); !strings.HasSuffix(last, " skipped\n") {
				t.Errorf("the count is not the last line:\n%s", last)
			}
		})
	}
}

func TestLongLine(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	l := newLines(strings.NewReader(long + "\nnext\n"))
	if line, err := l.next(); err != nil || len(line) < 1<<20 || len(line) > 2<<20 {
		t.Errorf("%d bytes kept, error %v", len(line), err)
	}
	if line, _ := l.next(); string(line) != "next\n" {
		t.Errorf("next line is %q", line)
	}
}

func TestPrintIsBrief(t *testing.T) {
	var out strings.Builder
	r := newReport(&out)
	said := []string{"first\n", strings.Repeat("x", 5000) + "\n"}
	for range 10_000 {
		said = append(said, "line\n")
	}
	r.print(append(said, "last\n"))
	if s := out.String(); len(s) > 4000 || !strings.HasPrefix(s, "first\n") || !strings.HasSuffix(s, "last\n") || !strings.Contains(s, " lines …") {
		t.Errorf("%d bytes: %.200s", len(s), s)
	}
}
