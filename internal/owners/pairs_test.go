package owners_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/owners"
)

// TestPairs puts every pair of owners on one machine and asks who wins. Each
// folder of testdata/pairs is a kind of machine: "machine" describes it, and
// "want" holds a pair a paragraph. testdata/pairs/owners.txtar holds the tree
// of each owner, files below its name.
func TestPairs(t *testing.T) {
	all, err := txtar.ParseFile("testdata/pairs/owners.txtar")
	if err != nil {
		t.Fatal(err)
	}
	machines, err := filepath.Glob("testdata/pairs/*/machine")
	if err != nil || len(machines) == 0 {
		t.Fatal("no machines", err)
	}
	for _, file := range machines {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			machine, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join(dir, "want"), pairs(t, all, string(machine)))
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got)\n%s", file, d)
	}
}

// pairs writes who wins max and buckets, for each owner alone and beside each
// other.
func pairs(t *testing.T, all *txtar.Archive, machine string) string {
	t.Helper()
	var names []string
	for _, f := range all.Files {
		name, _, _ := strings.Cut(f.Name, "/")
		if len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
	}
	played := make(map[string]owners.Report)
	answer := func(key string, names ...string) string {
		id := strings.Join(names, ", ")
		r, ok := played[id]
		if !ok {
			r = play(t, all, machine, names...)
			played[id] = r
		}
		s, _ := r.Find(key)
		return describe(s)
	}
	var b strings.Builder
	for _, key := range []string{"net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets"} {
		for i, first := range names {
			one := answer(key, first)
			fmt.Fprintf(&b, "## %s: %s\n%s\n", key, first, one)
			for _, second := range names[i+1:] {
				other := answer(key, second)
				if both := answer(key, first, second); both != one && both != other {
					fmt.Fprintf(&b, "%s, %s\n%s\n", first, second, both)
				}
			}
		}
	}
	return b.String()
}

func play(t *testing.T, all *txtar.Archive, machine string, names ...string) owners.Report {
	t.Helper()
	files := memory{}
	cmdline := ""
	for _, f := range all.Files {
		for _, name := range names {
			file, ok := strings.CutPrefix(f.Name, name+"/")
			switch {
			case !ok:
			case file == "cmdline":
				cmdline += " " + strings.TrimSpace(string(f.Data))
			case file == "machine":
				machine += string(f.Data)
			default:
				files["/"+file] = string(f.Data)
			}
		}
	}
	if cmdline != "" {
		machine += "cmdline" + cmdline + "\n"
	}
	m := owners.Machine{Files: files, Live: map[string]string{}, CPUs: 1, Init: owners.InitSystemd, BuiltIn: ct.No}
	describeMachine(t, &m, t.TempDir(), machine)
	if strings.Contains(machine, "link ") {
		files["/etc/sysctl.d/99-sysctl.conf"] = files["/etc/sysctl.conf"]
	}
	return owners.Analyze(m)
}

// memory is a tree of files.
type memory map[string]string

func (m memory) ReadFile(name string) ([]byte, error) {
	if text, ok := m[name]; ok {
		return []byte(text), nil
	}
	return nil, fs.ErrNotExist
}

func (m memory) List(dir string) ([]string, error) {
	var names []string
	for name := range m {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Resolve knows the one link that there may be.
func (m memory) Resolve(name string) (string, error) {
	if name == "/etc/sysctl.d/99-sysctl.conf" && m[name] != "" {
		return "/etc/sysctl.conf", nil
	}
	return name, nil
}

func (m memory) Exists(name string) bool { _, ok := m[name]; return ok }

func describe(s owners.Setting) string {
	var b strings.Builder
	boot := s.AtBoot
	if boot == "" {
		boot = "default"
	}
	fmt.Fprintf(&b, "  → %s", boot)
	if s.Winner >= 0 {
		fmt.Fprintf(&b, " by %s", s.Assignments[s.Winner].Owner)
	}
	for _, a := range s.Assignments {
		value := a.Value
		if a.AtLeast {
			value = "≥" + value
		}
		fmt.Fprintf(&b, "\n    %-10s %s %s:%d", a.Effect, value, a.File, a.Line)
		if a.Why != "" {
			fmt.Fprintf(&b, " (%s)", a.Why)
		}
	}
	return b.String()
}
