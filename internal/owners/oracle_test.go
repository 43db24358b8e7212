package owners_test

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/rootfs"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/owners"
)

// The programs that apply sysctl files at boot, asked on random trees. Each
// runs in the tree as its root, in a network namespace made for it, where the
// timeouts are its own and the limits of the machine cannot be written: all of
// /proc/sys but net/netfilter is read-only there.

const systemdSysctl = "/lib/systemd/systemd-sysctl"

// TestSystemdSysctlAgrees compares what systemd-sysctl makes of a tree with
// what owners says it will: the files it reads, and the values afterwards.
func TestSystemdSysctlAgrees(t *testing.T) {
	lab.Require(t, "unshare", "chroot", "ldd")
	if _, err := os.Stat(systemdSysctl); err != nil {
		t.Skip(err)
	}
	o := newOracle(t, systemdSysctl)
	changed := 0
	for seed := range uint64(*trees) {
		tree := o.tree(t, seed)
		o.compareFiles(t, seed, tree)
		args, hook := tree.systemdHook()
		o.compareValues(t, seed, tree, owners.InitSystemd, "", "/bin/tool")
		o.compareValues(t, seed, tree, owners.InitProcps, hook, append([]string{"/bin/tool"}, args...)...)
		tree.remove(t)
		changed += tree.changed
	}
	if changed < *trees/2 {
		t.Errorf("only %d runs on %d trees changed anything", changed, *trees)
	}
}

// TestProcpsAgrees does the same with sysctl --system.
func TestProcpsAgrees(t *testing.T) {
	lab.Require(t, "unshare", "chroot", "ldd", "sysctl")
	path, err := exec.LookPath("sysctl")
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := exec.Command(path, "--version").Output(); !bytes.Contains(out, []byte("procps-ng 4")) {
		t.Skipf("the rules are those of procps 4, not of %s", out)
	}
	o := newOracle(t, path)
	changed := 0
	for seed := range uint64(*trees) {
		tree := o.tree(t, seed+1<<32)
		args, hook := tree.procpsHook()
		o.compareValues(t, seed, tree, owners.InitProcps, "", "/bin/tool", "--system")
		o.compareValues(t, seed, tree, owners.InitSystemd, hook, append([]string{"/bin/tool"}, args...)...)
		tree.remove(t)
		changed += tree.changed
	}
	if changed < *trees/2 {
		t.Errorf("only %d runs on %d trees changed anything", changed, *trees)
	}
}

var trees = flag.Int("oracle.trees", 60, "random trees to compare on")

// otherRoot is a tree with another version of the program at /bin/tool.
var otherRoot = flag.String("oracle.root", "", "compare with /bin/tool of this tree")

// oracle is a folder that holds a program and its libraries.
type oracle struct{ root string }

func newOracle(t *testing.T, program string) oracle {
	t.Helper()
	if !running(t).AtLeast(5, 12) {
		t.Skip("before 5.12 the limits of the machine can be written in a network namespace")
	}
	if *otherRoot != "" {
		return oracle{*otherRoot}
	}
	o := oracle{t.TempDir()}
	copyFile(t, program, filepath.Join(o.root, "bin/tool"))
	cat, err := exec.LookPath("grep")
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, cat, filepath.Join(o.root, "bin/grep"))
	for _, p := range []string{program, cat} {
		out, err := exec.Command("ldd", p).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range strings.Fields(string(out)) {
			if strings.HasPrefix(w, "/") {
				copyFile(t, w, filepath.Join(o.root, w))
			}
		}
	}
	for _, dir := range append([]string{"/proc", "/dev"}, dirs...) {
		if err := os.MkdirAll(filepath.Join(o.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(o.root, "dev/null"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return o
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// script changes root to $1 and runs a program there, between two looks at the
// values.
const script = `
root=$1; shift
mount --rbind /proc "$root/proc"
mount --bind /proc/sys "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount --bind /proc/sys/net/netfilter "$root/proc/sys/net/netfilter"
mount -o remount,bind,rw "$root/proc/sys/net/netfilter"
look() { chroot "$root" /bin/grep -H . -r /proc/sys/net/netfilter -s; }
look
echo ran
chroot "$root" "$@" >&2 || true
echo ran
look
`

// run returns the values before and after a program has run, and what it
// printed.
func (o oracle) run(t *testing.T, args ...string) (before, after map[string]string, printed string) {
	t.Helper()
	cmd := exec.Command("unshare", append([]string{"--net", "--mount", "--propagation", "private",
		"sh", "-ec", script, "sh", o.root}, args...)...)
	var errs bytes.Buffer
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SYSTEMD_LOG_LEVEL=debug", "SYSTEMD_LOG_TARGET=console"}
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, errs.Bytes())
	}
	parts := strings.Split(string(out), "ran\n")
	if len(parts) != 3 {
		t.Fatalf("unexpected output\n%s%s", out, errs.Bytes())
	}
	return values(parts[0]), values(parts[2]), errs.String()
}

func values(text string) map[string]string {
	live := make(map[string]string)
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "/proc/sys/"), ":")
		if ok && strings.Contains(name, "/nf_conntrack_") {
			live[strings.ReplaceAll(name, "/", ".")] = value
		}
	}
	return live
}

// compareValues runs the program and compares. With a hook ("file: text") the
// settings are those that come back as the module is loaded.
func (o oracle) compareValues(t *testing.T, seed uint64, tree *randomTree, init owners.Init, hook string, args ...string) {
	t.Helper()
	before, after, printed := o.run(t, args...)
	m := owners.Machine{Files: rootfs.Tree{Root: o.root}, BuiltIn: ct.Yes, Init: init, CPUs: 1, Live: before, Version: running(t)}
	if hook != "" {
		name, text, _ := strings.Cut(hook, ": ")
		m.BuiltIn = ct.No
		write(t, filepath.Join(o.root, name), []byte(text))
		defer os.Remove(filepath.Join(o.root, name))
	}
	r := owners.Analyze(m)
	if !maps.Equal(before, after) {
		tree.changed++
	}
	for key, is := range after {
		want := before[key]
		if s, ok := r.Find(key); ok && s.AtBoot != "" {
			want = s.AtBoot
		}
		if want != is {
			t.Errorf("seed %d, %v: %s is %s, owners says %s\n%s%s%s", seed, args, key, is, want, r.Describe(), printed, tree.dump())
			return
		}
	}
}

// compareFiles compares the files read with those of --cat-config, which ends
// at the first link that leads nowhere.
func (o oracle) compareFiles(t *testing.T, seed uint64, tree *randomTree) {
	t.Helper()
	out, err := exec.Command("chroot", o.root, "/bin/tool", "--cat-config", "--no-pager").CombinedOutput()
	if bytes.Contains(out, []byte("Failed to cat")) {
		return
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var want []string
	for line := range strings.Lines(string(out)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "# ")
		if ok && slices.Contains(tree.files, name) {
			want = append(want, name)
		}
	}
	got := owners.SysctlFiles(rootfs.Tree{Root: o.root}, owners.InitSystemd)
	if !slices.Equal(got, want) {
		t.Errorf("seed %d: owners reads %q, systemd-sysctl --cat-config %q\n%s", seed, got, want, out)
	}
}

func running(t *testing.T) ct.KernelVersion {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	v, err := ct.ParseKernelVersion(strings.TrimSpace(string(release)))
	if err != nil {
		t.Fatal(err)
	}
	return v
}
