package lint

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// corpus reads the files of a folder below testdata.
func corpus(t testing.TB, dir string) []Source {
	t.Helper()
	var list []Source
	err := filepath.WalkDir(filepath.Join("testdata", dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		list = append(list, Source{Path: path, Data: data})
		return err
	})
	if err != nil || len(list) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	return list
}

// wanted reads the marks "#! code code", each of which stands before the line
// that it is about.
func wanted(s Source) map[int][]string {
	want := map[int][]string{}
	for i, line := range strings.Split(string(s.Data), "\n") {
		if mark, ok := strings.CutPrefix(strings.TrimSpace(line), "#! "); ok {
			codes := strings.Fields(mark)
			slices.Sort(codes)
			want[i+2] = codes
		}
	}
	return want
}

// TestCorpus: each bad line is found and no good line is flagged.
func TestCorpus(t *testing.T) {
	bad := 0
	for _, s := range append(corpus(t, "bad"), corpus(t, "good")...) {
		t.Run(s.Path, func(t *testing.T) {
			want, got := wanted(s), map[int][]string{}
			for _, f := range Lint([]Source{s}, Options{Version: ct.KernelVersion{Major: 6, Minor: 18}}) {
				got[f.Line] = append(got[f.Line], f.Code)
				if f.Message == "" || f.File != s.Path {
					t.Errorf("finding without words: %+v", f)
				}
			}
			bad += len(want)
			for line, codes := range want {
				if !slices.Equal(got[line], codes) {
					t.Errorf("line %d: found %v, want %v", line, got[line], codes)
				}
			}
			for line, codes := range got {
				if want[line] == nil {
					t.Errorf("line %d: %v, but it is good", line, codes)
				}
			}
		})
	}
	if bad < 45 {
		t.Errorf("only %d bad lines in the corpus", bad)
	}
}

func TestWholeMachine(t *testing.T) {
	sources := []Source{
		{"/etc/sysctl.d/10-a.conf", []byte("net.netfilter.nf_conntrack_max = 262144\n")},
		{"/etc/sysctl.d/99-b.conf", []byte("net.netfilter.nf_conntrack_max = 131072\n")},
	}
	codes := func(o Options, more ...Source) (list []string) {
		for _, f := range Lint(append(slices.Clone(sources), more...), o) {
			list = append(list, fmt.Sprintf("%s:%d %s", filepath.Base(f.File), f.Line, f.Code))
		}
		return list
	}
	want := []string{"10-a.conf:1 before-module", "10-a.conf:1 overridden", "99-b.conf:1 before-module"}
	if got := codes(Options{Whole: true}); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	loaded := Source{"/etc/modules-load.d/ct.conf", []byte("nf_conntrack\n")}
	if got := codes(Options{Whole: true}, loaded); !slices.Equal(got, want[1:2]) {
		t.Errorf("with the module loaded: %q", got)
	}
	if got := codes(Options{Whole: true, BuiltIn: ct.Yes}); !slices.Equal(got, want[1:2]) {
		t.Errorf("built in: %q", got)
	}
	if got := codes(Options{}); got != nil {
		t.Errorf("as files by themselves: %q", got)
	}
}

func TestKernelDecides(t *testing.T) {
	for _, tt := range []struct {
		line   string
		ok, no ct.KernelVersion
	}{
		{"net.ipv4.netfilter.ip_conntrack_max = 65536", ct.KernelVersion{Major: 2, Minor: 6, Patch: 32}, ct.KernelVersion{Major: 4, Minor: 9}},
		{"net.netfilter.nf_conntrack_helper = 1", ct.KernelVersion{Major: 5, Minor: 10}, ct.KernelVersion{Major: 6, Minor: 1}},
		{"net.netfilter.nf_conntrack_dccp_timeout_open = 43200", ct.KernelVersion{Major: 6, Minor: 1}, ct.KernelVersion{Major: 6, Minor: 18}},
		{"net.netfilter.nf_conntrack_gre_timeout = 30", ct.KernelVersion{Major: 5, Minor: 4}, ct.KernelVersion{Major: 4, Minor: 19}},
	} {
		src := []Source{{"x.conf", []byte(tt.line + "\n")}}
		if got := Lint(src, Options{Version: tt.ok}); got != nil {
			t.Errorf("%s on %s: %+v", tt.line, tt.ok, got)
		}
		if got := Lint(src, Options{Version: tt.no}); len(got) != 1 || got[0].Code != "dead-name" {
			t.Errorf("%s on %s: %+v", tt.line, tt.no, got)
		}
	}
}

// TestFixesAreClean: a corrected sysctl line is not flagged again.
func TestFixesAreClean(t *testing.T) {
	for _, s := range corpus(t, "bad") {
		if kindOf(s) != kindSysctl {
			continue
		}
		for _, f := range Lint([]Source{s}, Options{}) {
			if !strings.HasPrefix(f.Fix, "net.") {
				continue
			}
			fix, _, _ := strings.Cut(f.Fix, "   #")
			again := Lint([]Source{{"fix.conf", []byte(fix + "\n")}}, Options{})
			again = slices.DeleteFunc(again, func(g Finding) bool {
				return g.Code == "max-without-buckets" || g.Code == "buckets-without-max"
			})
			if len(again) > 0 {
				t.Errorf("%s:%d: the fix %q is flagged: %+v", f.File, f.Line, f.Fix, again)
			}
		}
	}
}

func TestFaces(t *testing.T) {
	list := Lint([]Source{{"/etc/sysctl.conf", []byte("net.netfilter.nf_conntrack_count = 5\n")}}, Options{})
	var text, sarif bytes.Buffer
	if err := Text(&text, list); err != nil || !strings.Contains(text.String(), "/etc/sysctl.conf:1: error: ") {
		t.Errorf("%q, %v", text.String(), err)
	}
	if err := SARIF(&sarif, list, "1.0"); err != nil || !strings.Contains(sarif.String(), `"startLine": 1`) {
		t.Errorf("%q, %v", sarif.String(), err)
	}
}

func FuzzLint(f *testing.F) {
	for _, s := range append(corpus(f, "bad"), corpus(f, "good")...) {
		f.Add(s.Path, s.Data)
	}
	f.Fuzz(func(t *testing.T, path string, data []byte) {
		for _, o := range []Options{{}, {Whole: true, Version: ct.KernelVersion{Major: 2, Minor: 6, Patch: 11}}} {
			for _, f := range Lint([]Source{{path, data}}, o) {
				if f.Line < 1 || f.Code == "" {
					t.Fatalf("%+v", f)
				}
			}
		}
	})
}
