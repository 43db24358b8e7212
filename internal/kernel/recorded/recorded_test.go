package recorded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func put(t *testing.T, root, name, text string) {
	t.Helper()
	p := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestStage(t *testing.T) {
	root := t.TempDir()
	put(t, root, "proc/meminfo", "MemTotal: 1 kB\n")
	put(t, root, "proc/sys/net/netfilter/nf_conntrack_count", "7\n")
	put(t, root, "proc/4711/comm", "sshd\n")
	put(t, root, "etc/sysctl.d/9.conf", "net.netfilter.nf_conntrack_max = 5\n")
	put(t, root, "sos_commands/kernel/sysctl_-a", "net.netfilter.nf_conntrack_max = 262144\nnet.netfilter.nf_conntrack_count = 8\n"+
		"net.netfilter../../../../../tmp/x = 1\nfs.file-max = 3\nbroken\n")
	put(t, root, "sos_commands/kernel/uname_-a", "Linux web1 5.14.0-503.el9.x86_64 #1 SMP x86_64 GNU/Linux\n")
	for name, target := range map[string]string{"etc/shadow": "/etc/hostname", "etc/up": "../../../../../../etc/passwd", "etc/loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "proc/cpuinfo"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, remove, err := Stage(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"proc/meminfo": "MemTotal: 1 kB\n", "etc/sysctl.d/9.conf": "net.netfilter.nf_conntrack_max = 5\n",
		"proc/sys/net/netfilter/nf_conntrack_count": "7\n", "proc/sys/net/netfilter/nf_conntrack_max": "262144\n",
		"proc/sys/kernel/hostname": "web1\n", "proc/sys/kernel/osrelease": "5.14.0-503.el9.x86_64\n",
		"proc/4711/comm": "", "proc/cpuinfo": "", "etc/shadow": "", "etc/up": "", "proc/sys/fs/file-max": "",
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s holds %q, want %q (%v)", name, got, want, err)
		}
	}
	remove()
	if _, err := os.Stat(dir); err == nil {
		t.Error("the copy is still there")
	}
}

func TestStageIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("makes many files")
	}
	root := t.TempDir()
	for i := range maxFiles + 10 {
		put(t, root, fmt.Sprintf("etc/%d", i), "")
	}
	if _, _, err := Stage(root); !errors.Is(err, ErrTooMuch) {
		t.Errorf("error %v", err)
	}
}
