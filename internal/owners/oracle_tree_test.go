package owners_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var dirs = []string{"/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d"}

// keys are those of a namespace's own that the random lines name.
var keys = []string{"tcp_timeout_close", "tcp_timeout_close_wait", "tcp_timeout_fin_wait", "tcp_timeout_last_ack",
	"udp_timeout", "udp_timeout_stream", "icmp_timeout", "generic_timeout", "tcp_loose", "tcp_max_retrans"}

// randomTree is a tree of sysctl files inside an oracle's folder.
type randomTree struct {
	root  string
	files []string
	rng   *rand.Rand
	// changed counts the runs on it that changed a value.
	changed int
}

func (o oracle) tree(t *testing.T, seed uint64) *randomTree {
	t.Helper()
	tree := &randomTree{root: o.root, rng: rand.New(rand.NewPCG(seed, 1))}
	r := tree.rng
	for _, dir := range dirs {
		for range r.IntN(4) {
			name := pick(r, "10-a.conf", "50-b.conf", "90-c.conf", "99-sysctl.conf", "zz.conf", ".hidden.conf", "no-suffix", "A.conf", "50-b.conf.bak", ".conf")
			tree.add(t, dir+"/"+name)
		}
	}
	if r.IntN(2) == 0 {
		tree.write(t, "/etc/sysctl.conf")
		if r.IntN(2) == 0 {
			tree.link(t, "/etc/sysctl.d/99-sysctl.conf", "../sysctl.conf")
		}
	}
	return tree
}

func (tree *randomTree) add(t *testing.T, name string) {
	switch tree.rng.IntN(8) {
	case 0:
		tree.link(t, name, "/dev/null")
	case 1:
		tree.link(t, name, "/nowhere")
	default:
		tree.write(t, name)
	}
}

func (tree *randomTree) write(t *testing.T, name string) {
	t.Helper()
	if slices.Contains(tree.files, name) {
		return
	}
	tree.files = append(tree.files, name)
	if err := os.WriteFile(filepath.Join(tree.root, name), []byte(tree.text()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (tree *randomTree) link(t *testing.T, name, target string) {
	t.Helper()
	if slices.Contains(tree.files, name) {
		return
	}
	tree.files = append(tree.files, name)
	if err := os.Symlink(target, filepath.Join(tree.root, name)); err != nil {
		t.Fatal(err)
	}
}

func (tree *randomTree) remove(t *testing.T) {
	t.Helper()
	for _, f := range tree.files {
		if err := os.Remove(filepath.Join(tree.root, f)); err != nil {
			t.Fatal(err)
		}
	}
}

// text is a file of random lines, right and wrong ones.
func (tree *randomTree) text() string {
	r := tree.rng
	var b strings.Builder
	for range 1 + r.IntN(6) {
		key := keys[r.IntN(len(keys))]
		name := pick(r, "net.netfilter.nf_conntrack_", "net/netfilter/nf_conntrack_", "net.netfilter.nf_conntrack_",
			"net/netfilter.nf_conntrack_", "net.netfilter/nf_conntrack_", "net.netfilter.nf_conntrack_") + key
		if r.IntN(4) == 0 {
			name = pick(r, "net.netfilter.nf_conntrack_*_timeout*", "net/netfilter/nf_conntrack_tcp_timeout_c*",
				"net.netfilter.nf_conntrack_udp_timeout?stream", "net.*.nf_conntrack_icmp_timeout", "net.netfilter.nf_conntrack_tcp_[!t]*",
				"net.netfilter.nf_conntrack_{udp,icmp}_time*", "net.netfilter.nf_conntrack_tcp_timeout_[a-f]*", "net.*")
		}
		value := pick(r, "%d", "%d", "%d", "%d ", "\t%d", "%d 9", "%d \\", "0x%d", "0%d", "%dx", "-%d", "", "abc", "1", "0", "99999999999", "%d,5")
		if strings.Contains(value, "%d") {
			value = fmt.Sprintf(value, 1+r.IntN(500))
		}
		b.WriteString(pick(r, "", "", " ", "\t", "-", "#", ";", "- ") + name)
		if strings.HasPrefix(b.String(), "-") && r.IntN(2) == 0 || r.IntN(12) == 0 {
			b.WriteString(pick(r, "\n", " \n"))
			continue
		}
		b.WriteString(pick(r, "=", " = ", " =", "= ") + value + pick(r, "\n", "\n", "\n\n", " # note\n", "\r\n"))
	}
	return strings.TrimSuffix(b.String(), pick(r, "\n", ""))
}

func pick(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }

// systemdHook is a run of systemd-sysctl as a udev rule starts it.
func (tree *randomTree) systemdHook() (args []string, rule string) {
	p := pick(tree.rng, "/net/netfilter", "net.netfilter", "/proc/sys/net/netfilter", "net/netfilter/nf_conntrack_tcp", "/net/ipv4", "net/netfilter/nf_conntrack_udp_timeout")
	return []string{"--prefix=" + p}, `etc/udev/rules.d/9-ct.rules: ACTION=="add", SUBSYSTEM=="module", KERNEL=="nf_conntrack", RUN+="/lib/systemd/systemd-sysctl --prefix=` + p + `"`
}

// procpsHook is a run of sysctl as firewalld's hook starts it.
func (tree *randomTree) procpsHook() (args []string, rule string) {
	p := pick(tree.rng, "net[.]netfilter[.]nf_conntrack.*", "net.netfilter", "tcp_timeout", "^net/netfilter", "udp_timeout$")
	return []string{"--pattern", p, "--system"}, `etc/modprobe.d/ct.conf: install nf_conntrack /sbin/modprobe --ignore-install nf_conntrack && /sbin/sysctl --quiet --pattern '` + p + `' --system`
}

func (tree *randomTree) dump() string {
	var b strings.Builder
	for _, f := range tree.files {
		if target, err := os.Readlink(filepath.Join(tree.root, f)); err == nil {
			fmt.Fprintf(&b, "== %s → %s\n", f, target)
			continue
		}
		if file, err := os.Open(filepath.Join(tree.root, f)); err == nil {
			data, _ := io.ReadAll(file)
			file.Close()
			fmt.Fprintf(&b, "== %s\n%s\n", f, data)
		}
	}
	return b.String()
}
