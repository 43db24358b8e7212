package owners_test

import (
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/rootfs"
	"github.com/ctwarden/ctwarden/internal/owners"
)

var update = flag.Bool("update", false, "rewrite the expected output")

// TestScenarios plays every testdata/*.txtar: a file "machine" that describes
// the machine, the files of its tree ("link NAME TARGET" in machine makes a
// link), and "want", the description expected.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(f)
			if err != nil {
				t.Fatal(err)
			}
			m, want := build(t, ar)
			r := owners.Analyze(m)
			got := r.Describe()
			if *update {
				setWant(ar, got)
				if err := os.WriteFile(f, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func build(t *testing.T, ar *txtar.Archive) (m owners.Machine, want string) {
	t.Helper()
	root := t.TempDir()
	m = owners.Machine{Files: rootfs.Tree{Root: root}, Live: map[string]string{}, CPUs: 1, Init: owners.InitSystemd, BuiltIn: ct.No}
	for _, f := range ar.Files {
		switch f.Name {
		case "machine":
			describeMachine(t, &m, root, string(f.Data))
		case "want":
			want = string(f.Data)
		default:
			write(t, filepath.Join(root, f.Name), f.Data)
		}
	}
	return m, want
}

func describeMachine(t *testing.T, m *owners.Machine, root, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		switch w[0] {
		case "kernel":
			v, err := ct.ParseKernelVersion(w[1])
			if err != nil {
				t.Fatal(err)
			}
			m.Version = v
		case "init":
			if w[1] == "procps" {
				m.Init = owners.InitProcps
			}
		case "builtin":
			m.BuiltIn = ct.Yes
		case "cpus":
			m.CPUs, _ = strconv.Atoi(w[1])
		case "cmdline":
			m.CommandLine += " " + strings.Join(w[1:], " ")
		case "live":
			m.Live[w[1]] = w[2]
		case "link":
			p := filepath.Join(root, w[1])
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(w[2], p); err != nil {
				t.Fatal(err)
			}
		case "process":
			pid, _ := strconv.Atoi(w[1])
			m.Processes = append(m.Processes, owners.Process{Pid: pid, Name: filepath.Base(w[2]), Args: w[2:], Files: m.Files})
		default:
			t.Fatalf("machine: %q is not understood", line)
		}
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func setWant(ar *txtar.Archive, got string) {
	for i, f := range ar.Files {
		if f.Name == "want" {
			ar.Files[i].Data = []byte(got)
			return
		}
	}
	ar.Files = append(ar.Files, txtar.File{Name: "want", Data: []byte(got)})
}

// TestLongCommandLine gives kube-proxy thousands of flags; the last one of a
// name counts, as in its own parser.
func TestLongCommandLine(t *testing.T) {
	args := []string{"kube-proxy", "--conntrack-min=1"}
	for i := range 20_000 {
		args = append(args, "--feature-gates=Gate"+strconv.Itoa(i)+"=true", "-", "--", "--=", "--conntrack-min")
		args = append(args, strconv.Itoa(200_000+i))
	}
	args = append(args, "--conntrack-max-per-core=0x", "--conntrack-min="+strings.Repeat("9", 1<<20), "--conntrack-min=300000")
	r := owners.Analyze(owners.Machine{Files: rootfs.Tree{Root: t.TempDir()}, CPUs: 2, Init: owners.InitSystemd, BuiltIn: ct.Yes,
		Live:      map[string]string{"net.netfilter.nf_conntrack_max": "262144"},
		Processes: []owners.Process{{Pid: 1, Name: "kube-proxy", Args: args}}})
	if s, ok := r.Find("net.netfilter.nf_conntrack_max"); !ok || s.AtBoot != "300000" {
		t.Errorf("%+v", s)
	}
}
