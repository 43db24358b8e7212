// Package boottest proves on a whole Debian system, booted under qemu, that
// settings survive a restart where they should and do not where they must not.
package boottest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

const series = "6.1"

var binary = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "ctwarden-boot-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "ctwarden")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, "../../../cmd/ctwarden")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return msg, err
	}
	return os.ReadFile(out)
})

// system runs a script on a system that has ctwarden and a stateful rule.
func system(t *testing.T, script string, virtual bool, files map[string]string) string {
	t.Helper()
	k := vm.NeedSystem(t, series)
	program, err := binary()
	if err != nil {
		t.Fatalf("build ctwarden: %v: %s", err, program)
	}
	all := map[string][]byte{"/usr/local/bin/ctwarden": program}
	for name, text := range files {
		all[name] = []byte(text)
	}
	out, err := k.RunSystem(t.Context(), t.TempDir(), vm.SystemOptions{Files: all, Script: script, VirtualTime: virtual,
		Timeout: 25 * time.Minute})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// between returns what the script printed in one boot. A reboot may end it
// before it can say so.
func between(t *testing.T, out string, boot string) string {
	t.Helper()
	_, after, ok := strings.Cut(out, "=== boot "+boot+"\n")
	if !ok {
		t.Fatalf("boot %s did not run:\n%s", boot, out)
	}
	body, _, _ := strings.Cut(after, "=== ")
	return body
}

func wants(t *testing.T, body string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(body, w) {
			t.Errorf("%q is missing from:\n%s", w, body)
		}
	}
}

const track = `nft add table inet fw; nft add chain inet fw in '{ type filter hook input priority 0; }'; nft add rule inet fw in ct state established accept
max() { sysctl -n net.netfilter.nf_conntrack_max; }
`

const file = "/etc/sysctl.d/90-site.conf"

// A value in sysctl.d alone is lost, and check says so; with the module loaded
// early it holds. This is also what the analysis of owners predicts.
func TestSysctlFileAloneIsLost(t *testing.T) {
	long(t)
	out := system(t, track+`
if [ $BOOT = 1 ]; then
  echo "max $(max)"
  ctwarden check --observe 0 | grep -o 'setting-lost-at-boot' | head -1
  echo nf_conntrack > /etc/modules-load.d/site.conf
  sync; systemctl reboot --force
else
  echo "max $(max)"
  ctwarden check --observe 0 | grep -o 'setting-lost-at-boot' | head -1
  systemctl poweroff
fi
`, false, map[string]string{file: "net.netfilter.nf_conntrack_max = 123456\n"})
	first, second := between(t, out, "1"), between(t, out, "2")
	if strings.Contains(first, "max 123456") {
		t.Error("the value survived without the module: the test shows nothing")
	}
	wants(t, first, "setting-lost-at-boot")
	wants(t, second, "max 123456")
	if strings.Contains(second, "setting-lost-at-boot") {
		t.Error("the setting is still called lost with the module loaded early")
	}
}

// long leaves the longer tests to "make boot": a boot takes half a minute under
// emulation.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("CTWARDEN_LONG") == "" {
		t.Skip("long: make boot")
	}
}

// What is confirmed survives the reboot and verify agrees; a trial that was not
// confirmed does not, and nothing is replayed.
func TestConfirmedSurvivesTrialDoesNot(t *testing.T) {
	out := system(t, track+`
case $BOOT in
1)
  echo "before $(max)"
  ctwarden apply --yes --observe 0 --peak-new 3000/s --for gateway --memory 20% >/tmp/apply 2>&1; echo "apply $?"
  echo "applied $(max)"
  ctwarden confirm >/tmp/confirm 2>&1; echo "confirm $?"; cat /tmp/confirm
  sync; systemctl reboot --force ;;
2)
  echo "kept $(max)"
  ctwarden verify; echo "verify $?"
  ctwarden apply --yes --observe 0 --peak-new 9000/s --for gateway --memory 40% >/tmp/apply 2>&1; echo "apply $?"; tail -3 /tmp/apply
  echo "trial $(max)"
  sync; systemctl reboot --force ;;
3)
  echo "after $(max)"
  ctwarden status; echo "status $?"
  systemctl poweroff ;;
esac
`, false, nil)
	one, two, three := between(t, out, "1"), between(t, out, "2"), between(t, out, "3")
	before, applied := value(t, one, "before"), value(t, one, "applied")
	if before == applied {
		t.Errorf("nothing was applied:\n%s", one)
	}
	wants(t, one, "apply 0", "confirm 0")
	kept, trial := value(t, two, "kept"), value(t, two, "trial")
	if kept != applied {
		t.Errorf("%s after the reboot, %s was confirmed:\n%s", kept, applied, two)
	}
	wants(t, two, "verify 0", "apply 0")
	if trial == kept {
		t.Errorf("the second trial changed nothing:\n%s", two)
	}
	if got := value(t, three, "after"); got != kept {
		t.Errorf("%s after a reboot in mid-trial, want %s:\n%s", got, kept, three)
	}
}

// A trial that nobody confirms takes itself back at its deadline, in the
// guest's time: by the timer alone, with every process of ours killed, as at the
// end of a session, and the program's file gone, and once only.
func TestDeadlineRevertsByTimer(t *testing.T) {
	long(t)
	out := system(t, track+`
echo "before $(max)"
ctwarden apply --yes --observe 0 --peak-new 3000/s --for gateway --memory 20% --trial 10m >/tmp/apply 2>&1; echo "apply $?"; tail -5 /tmp/apply
echo "trial $(max)"
mv /usr/local/bin/ctwarden /root/gone
for exe in /proc/[0-9]*/exe; do case $(readlink $exe) in */guard-*) echo killed; kill -TERM ${exe//[!0-9]/}; sleep 3; kill -9 ${exe//[!0-9]/};; esac; done
sleep 540; echo "early $(max)"
sleep 120; echo "late $(max)"
sysctl -q -w net.netfilter.nf_conntrack_max=200000; sleep 700; echo "own $(max)"
systemctl list-units --all 'ctwarden*' --no-legend
/root/gone status; echo "status $?"
systemctl poweroff
`, true, nil)
	one := between(t, out, "1")
	before, trial := value(t, one, "before"), value(t, one, "trial")
	if before == trial {
		t.Fatalf("nothing was applied:\n%s", one)
	}
	if early := value(t, one, "early"); early != trial {
		t.Errorf("%s nine minutes into a trial of ten, want %s:\n%s", early, trial, one)
	}
	if late := value(t, one, "late"); late != before {
		t.Errorf("%s after the deadline, want %s:\n%s", late, before, one)
	}
	if own := value(t, one, "own"); own != "200000" {
		t.Errorf("%s: what was set after the trial was touched:\n%s", own, one)
	}
	wants(t, one, "killed", "Nothing that ctwarden changed is in force", "reverted", "status 0")
}

// An enabled ufw with a value of its own, and a later file of sysctl.d, are
// named before they bite.
func TestConflictsAreNamed(t *testing.T) {
	long(t)
	out := system(t, `until systemctl is-active -q ufw; do sleep 1; done; sleep 5
`+track+`
ctwarden apply --yes --observe 0 --peak-new 30000/s --for gateway --memory 40% >/tmp/apply 2>&1; echo "apply $?"; cat /tmp/apply
ctwarden confirm; echo "confirm $?"
ctwarden verify; echo "verify $?"
systemctl poweroff
`, false, map[string]string{
		"/etc/ufw/ufw.conf":     "ENABLED=yes\nLOGLEVEL=low\n",
		"/etc/ufw/sysctl.conf":  "net/netfilter/nf_conntrack_max=65536\n",
		"/etc/sysctl.d/95.conf": "net.netfilter.nf_conntrack_tcp_timeout_time_wait = 77\n",
	})
	one := between(t, out, "1")
	wants(t, one, "/etc/ufw/sysctl.conf", "ufw", "verify 1")
}

// firewalldsHook is what upstream installs and Debian's package leaves out.
const firewalldsHook = `install nf_conntrack /usr/sbin/modprobe --ignore-install nf_conntrack $CMDLINE_OPTS && /usr/sbin/sysctl --quiet --pattern 'net[.]netfilter[.]nf_conntrack.*' --system
`

// firewalld's hook applies the files of sysctl.d again as the module is
// loaded: a value there is not lost, and one that sorts after ours wins. Both
// are said before, and the reboot proves it.
func TestFirewalldsHook(t *testing.T) {
	long(t)
	// It says that it is active before its rules are there.
	out := system(t, `until nft list chain inet firewalld filter_INPUT >/dev/null 2>&1; do sleep 1; done; sleep 5
max() { sysctl -n net.netfilter.nf_conntrack_max; }
case $BOOT in
1)
  echo "before $(max)"
  ctwarden check --observe 0 | grep -o 'setting-lost-at-boot' | head -1
  ctwarden apply --yes --observe 0 --peak-new 3000/s --for gateway --memory 20% >/tmp/apply 2>&1; echo "apply $?"; cat /tmp/apply
  echo "applied $(max)"
  ctwarden confirm 2>&1; echo "confirm $?"
  ctwarden verify; echo "verify $?"
  sync; systemctl reboot --force ;;
2)
  echo "conflict $(max)"
  ctwarden verify; echo "verify $?"
  systemctl poweroff --force ;;
esac
`, false, map[string]string{
		"/etc/modprobe.d/firewalld-sysctls.conf":                 firewalldsHook,
		"/etc/systemd/system/multi-user.target.d/firewalld.conf": "[Unit]\nWants=firewalld.service\n",
		"/etc/sysctl.d/95-site.conf":                             "net.netfilter.nf_conntrack_max = 77777\n",
	})
	one, two := between(t, out, "1"), between(t, out, "2")
	if got := value(t, one, "before"); got != "77777" {
		t.Errorf("%s at the first boot: the hook did not apply the file, so the test shows nothing:\n%s", got, one)
	}
	if strings.Contains(one, "setting-lost-at-boot") {
		t.Errorf("a setting that the hook brings back is called lost:\n%s", one)
	}
	wants(t, one, "apply 0", "confirm 0", "verify 1", "/etc/sysctl.d/95-site.conf", "firewalld-sysctls.conf", "the next boot gives 77777")
	if got := value(t, two, "conflict"); got != "77777" {
		t.Errorf("%s after the reboot, 77777 was foretold:\n%s", got, two)
	}
	wants(t, two, "verify 1")
}

// Rules of untracked flows that were confirmed are there after the reboot,
// although the distribution's own rules begin with "flush ruleset", and follow
// those when they are loaded anew. Taken back, nothing is left of them.
func TestUntrackedFlowsSurvive(t *testing.T) {
	long(t)
	out := system(t, `table="nft list table inet ctwarden_notrack"
has() { $table >/dev/null 2>&1 && echo "$1 yes" || echo "$1 no"; }
case $BOOT in
1)
  python3 -c 'import socket,time
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(("0.0.0.0",53)); time.sleep(600)' &
  until ss -lun | grep -q ':53 '; do sleep 1; done
  systemctl is-active nftables
  ctwarden notrack --dport 53 | grep missing; lsmod | grep -c nf_conntrack_netlink
  modprobe nf_conntrack_netlink
  ctwarden notrack --dport 53 --install --yes 2>&1; echo "install $?"
  has trial; ls /etc/ctwarden 2>&1
  ctwarden confirm 2>&1; echo "confirm $?"
  ctwarden verify; echo "verify $?"
  sync; systemctl reboot --force ;;
2)
  has kept; $table
  systemctl show -p ActiveState -p Result ctwarden-notrack
  ctwarden verify; echo "verify $?"
  systemctl restart nftables; sleep 5; has restarted
  systemctl reload nftables; sleep 5; has reloaded
  ctwarden revert 2>&1; echo "revert $?"
  has reverted
  find /etc -name '*ctwarden*' -type f
  ctwarden verify; echo "verify after $?"
  systemctl poweroff --force ;;
esac
`, false, map[string]string{
		"/etc/systemd/system/sysinit.target.d/nftables.conf": "[Unit]\nWants=nftables.service\n",
		"/etc/nftables.conf": "flush ruleset\ntable inet fw { chain in { type filter hook input priority 0; ct state established accept; }\n}\n",
	})
	wants(t, between(t, out, "1"), "active", "install 0", "trial yes", "confirm 0", "verify 0")
	two := between(t, out, "2")
	wants(t, two, "kept yes", "udp dport 53 notrack", "udp sport 53 notrack", "ActiveState=active", "Result=success", "verify 0",
		"restarted yes", "reloaded yes", "revert 0", "reverted no", "verify after 0")
	if _, left, _ := strings.Cut(two, "reverted no\n"); strings.Contains(left, "/etc/") {
		t.Errorf("files are left after the revert:\n%s", two)
	}
}

func value(t *testing.T, body, name string) string {
	t.Helper()
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			return rest
		}
	}
	t.Fatalf("no %q in:\n%s", name, body)
	return ""
}
