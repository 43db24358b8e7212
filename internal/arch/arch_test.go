package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ctwarden/ctwarden"

// door lists imports that reach the machine. A trailing "/..." covers what is
// below.
var door = []string{"os/exec", "syscall", "net", "net/http/...", "plugin",
	"golang.org/x/sys/...", "github.com/mdlayher/...", "github.com/google/nftables/...",
	"github.com/vishvananda/...", "github.com/ti-mo/...", "github.com/cilium/ebpf/..."}

// behind lists the packages that may use the door. What the laboratory and the
// scripts do is for tests and development only.
var behind = []string{"internal/kernel/...", "internal/journal/...", "internal/lab/...", "scripts/..."}

// streams lists who else may import os: for streams, arguments and environment.
var streams = []string{"cmd/...", "internal/cli/...", "internal/arch/..."}

// callers lists who may import internal/kernel.
var callers = []string{"internal/kernel/...", "internal/cli/...", "internal/observe/...",
	"internal/journal/...", "internal/guardd/...", "internal/lab/..."}

// pure lists packages whose results depend on their arguments alone.
var pure = []string{"ct/...", "sim/...", "internal/klog/...", "internal/explain/...", "internal/anonymize/...", "internal/collect/...", "internal/census/...",
	"internal/diagnose/...", "internal/report/...", "internal/flowexpr/...", "internal/guard/...", "internal/guardsim/..."}

// impure lists what a pure package may not call.
var impure = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"},
	"math/rand": {"Int", "Intn", "Int31", "Int31n", "Int63", "Int63n", "Uint32", "Uint64",
		"Float32", "Float64", "Perm", "Shuffle", "Seed"},
	"math/rand/v2": {"Int", "IntN", "Int32", "Int32N", "Int64", "Int64N", "Uint32", "Uint32N",
		"Uint64", "Uint64N", "UintN", "Float32", "Float64", "Perm", "Shuffle", "N"},
}

// source is one file that is no test, seen from the root of the module.
type source struct {
	pkg, file string
	ast       *ast.File
	imports   []string
}

func sources(t *testing.T) []source {
	t.Helper()
	const root = "../.."
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		s, err := parse(root, path)
		all = append(all, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found %d files only; the test looks in the wrong place", len(all))
	}
	return all
}

func parse(root, path string) (source, error) {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return source{}, err
	}
	rel, err := filepath.Rel(root, path)
	s := source{pkg: filepath.ToSlash(filepath.Dir(rel)), file: rel, ast: f}
	for _, imp := range f.Imports {
		name, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			return source{}, err
		}
		s.imports = append(s.imports, name)
	}
	return s, err
}

// match reports whether a path is in a list whose entries may end in "/...".
func match(list []string, path string) bool {
	return slices.ContainsFunc(list, func(e string) bool {
		base, tree := strings.CutSuffix(e, "/...")
		return path == base || tree && strings.HasPrefix(path, base+"/")
	})
}

func TestLayers(t *testing.T) {
	for _, s := range sources(t) {
		for _, imp := range s.imports {
			if why := forbidden(s.pkg, imp); why != "" {
				t.Errorf("%s imports %s: %s", s.file, imp, why)
			}
		}
	}
}

// forbidden says why a package may not import another, "" if it may.
func forbidden(pkg, imp string) string {
	own, ours := strings.CutPrefix(imp, module+"/")
	public := match([]string{"ct/...", "sim/..."}, pkg)
	switch {
	case public && ours && own != "ct" && !strings.HasPrefix(own, pkg+"/") && !strings.HasPrefix(own, "sim"):
		return "the public packages import ct alone"
	case public && !ours && strings.Contains(imp, "."):
		return "the public packages import the standard library alone"
	case match([]string{"ct/..."}, pkg) && ours && !match([]string{"ct/..."}, own):
		return "ct imports nothing of ours"
	case ours && match([]string{"internal/lab/..."}, own) && !match([]string{"internal/lab/..."}, pkg):
		return "the laboratory is for tests"
	case imp == "testing" && !match([]string{"internal/lab/..."}, pkg) && !strings.HasSuffix(pkg, "test"):
		return "testing is for tests"
	case ours && match([]string{"internal/kernel/..."}, own) && !match(callers, pkg):
		return "only the wiring reaches internal/kernel"
	case ours && match([]string{"internal/cli/..."}, own) && !match([]string{"cmd/..."}, pkg):
		return "only main imports the command line"
	case match(door, imp) && !match(behind, pkg) && !isMainSignals(pkg, imp):
		return "only internal/kernel touches the machine"
	case imp == "os" && !match(behind, pkg) && !match(streams, pkg):
		return "only internal/kernel opens files; take a reader"
	}
	return ""
}

// isMainSignals excuses main, which names the signals that it waits for.
func isMainSignals(pkg, imp string) bool { return match([]string{"cmd/..."}, pkg) && imp == "syscall" }

func TestPurePackagesTakeTimeAndChanceAsArguments(t *testing.T) {
	for _, s := range sources(t) {
		if !match(pure, s.pkg) {
			continue
		}
		names := make(map[string]string) // local name → import
		for i, imp := range s.ast.Imports {
			path := s.imports[i]
			if _, watched := impure[path]; !watched {
				continue
			}
			local := filepath.Base(strings.TrimSuffix(path, "/v2"))
			if imp.Name != nil {
				local = imp.Name.Name
			}
			names[local] = path
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			id, ok := sel.X.(*ast.Ident)
			if ok && slices.Contains(impure[names[id.Name]], sel.Sel.Name) {
				t.Errorf("%s uses %s.%s", s.file, names[id.Name], sel.Sel.Name)
			}
			return true
		})
	}
}

// The rules themselves: each of them forbids something.
func TestForbidden(t *testing.T) {
	for _, c := range []struct {
		pkg, imp string
		ok       bool
	}{
		{"ct", "net/netip", true},
		{"ct", "net", false},
		{"ct", "github.com/spf13/cobra", false},
		{"ct", module + "/internal/klog", false},
		{"ct", module + "/sim", false},
		{"sim", module + "/ct", true},
		{"sim/simtest", module + "/sim", true},
		{"sim", module + "/internal/kernel/ctnl", false},
		{"internal/diagnose", "os", false},
		{"internal/diagnose", "os/exec", false},
		{"internal/diagnose", module + "/internal/kernel/ctnl", false},
		{"internal/observe", module + "/internal/kernel/ctnl", true},
		{"internal/observe", "golang.org/x/sys/unix", false},
		{"internal/kernel/ctnl", "golang.org/x/sys/unix", true},
		{"internal/cli", "os", true},
		{"internal/cli", "os/exec", false},
		{"internal/cli", module + "/internal/lab", false},
		{"internal/report", "testing", false},
		{"internal/report", module + "/internal/cli", false},
		{"cmd/ctwarden", "syscall", true},
		{"internal/kernels", "syscall", false},
	} {
		if why := forbidden(c.pkg, c.imp); (why == "") != c.ok {
			t.Errorf("%s importing %s: %q, want it allowed: %v", c.pkg, c.imp, why, c.ok)
		}
	}
}
