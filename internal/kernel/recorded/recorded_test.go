package recorded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func put(t testing.TB, root, name, text string) {
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

// TestSOS fills in what sos has as the output of commands: processes by ps,
// entries and counters by conntrack, whose last word stands in the midst of an
// entry, the uptime by two clocks.
func TestSOS(t *testing.T) {
	root := t.TempDir()
	put(t, root, "sos_commands/process/ps_auxwwwm", "USER       PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND\n"+
		"root       812  0.1  0.2 748212 40000 ?        -    10:00   0:03 /usr/local/bin/kube-proxy --conntrack-min=200000 --v=2\n"+
		"root         -  0.0    -      -     - -        Ssl  10:00   0:00 -\n"+
		"root        12  0.0  0.0      0     0 ?        -    10:00   0:00 [kworker/0:1]\n")
	put(t, root, "sos_commands/conntrack/conntrack_-L_-o_extended",
		"ipv4     2 tcp      6 116 SYN_SENT src=10.0.3.7 dst=198.51.100.62 sport=25272 dport=80 [UNREPLIEDconntrack v1.4.7 (conntrack-tools): 1 flow entries have been shown.\n"+
			"] src=198.51.100.62 dst=203.0.113.2 sport=80 dport=25272 mark=0 use=1\n")
	put(t, root, "sos_commands/conntrack/conntrack_-S", "cpu=0   \tfound=0 invalid=3 insert=0 insert_failed=0 drop=893 early_drop=27 error=0 search_restart=0 clash_resolve=0 chaintoolong=1 \n")
	put(t, root, "sos_commands/date/date", "Wed Nov 25 11:55:04 PM CET 2026\n")
	put(t, root, "sos_commands/date/date_--utc", "Wed Nov 25 22:55:04 UTC 2026\n")
	put(t, root, "proc/stat", "cpu  1 2 3\nbtime 1795644861\n")
	put(t, root, "sos_commands/systemd/systemctl_status_--all", "")
	dir, remove, err := Stage(root)
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	for name, want := range map[string]string{
		"proc/812/comm": "kube-proxy\n", "proc/812/cmdline": "/usr/local/bin/kube-proxy\x00--conntrack-min=200000\x00--v=2\x00", "proc/12/comm": "",
		"proc/net/nf_conntrack": "ipv4     2 tcp      6 116 SYN_SENT src=10.0.3.7 dst=198.51.100.62 sport=25272 dport=80 [UNREPLIED] src=198.51.100.62 dst=203.0.113.2 sport=80 dport=25272 mark=0 use=1\n",
		"proc/net/stat/nf_conntrack": "entries found invalid insert insert_failed drop early_drop search_restart clashres chainlength\n" +
			"00000000 00000000 00000003 00000000 00000000 0000037d 0000001b 00000000 00000000 00000001\n",
		"proc/uptime": "2443.00 0.00\n",
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s holds %q, want %q (%v)", name, got, want, err)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "run/systemd/system")); err != nil || !st.IsDir() {
		t.Error("not known to be booted by systemd")
	}
	if _, zone, ok := TakenAt(root); !ok || zone.String() != "" || time.Date(2026, 11, 25, 0, 0, 0, 0, zone).UTC().Hour() != 23 {
		t.Errorf("zone %v, %v", zone, ok)
	}
}

// FuzzSOS lets one text stand for every output; reading it must end without an
// error, and write nothing outside of the copy.
func FuzzSOS(f *testing.F) {
	for _, s := range []string{
		"net.netfilter.nf_conntrack_max = 5\n", "Linux gw1 6.1.0 x\n", "Wed Nov 25 22:55:04 UTC 2026", "btime 1795644861\n",
		"root 812 0.1 0.2 7 4 ? - 10:00 0:03 /x/kube-proxy --a\n", "ipv4 2 tcp 6 1 SYN_SENT src=1.1.1.1 [UNREPLIEDconntrack v1.4.7 (conntrack-tools): 1 flow entries have been shown.\n]",
		"cpu=0 found=0 drop=893 early_drop=-1\n", "root ../../x 0 0 0 0 ? - 0 0 /..\n",
	} {
		f.Add(s)
	}
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"kernel/sysctl_-a", "kernel/uname_-a", "date/date", "date/date_--utc", "conntrack/conntrack_-S",
			"conntrack/conntrack_-L_-o_extended", "process/ps_auxwwwm"} {
			put(t, root, "sos_commands/"+name, text)
		}
		put(t, root, "proc/stat", text)
		dir, remove, err := Stage(root)
		if err != nil {
			t.Fatal(err)
		}
		defer remove()
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 2 {
			t.Fatalf("%v, %v", entries, err)
		}
	})
}
