package guardd

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// startSSHD runs a server on port 22 that the guard takes for one of SSH.
func startSSHD(t *testing.T, h *lab.Host) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "sshd")
	if err := os.WriteFile(name, b, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name)
	cmd.Env = append(os.Environ(), sshdEnv+"=:22")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.Start(cmd)
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

// TestManagePassesTracking: where it is allowed and proven, SSH from manage:
// passes before tracking, gets in when the table is full, is tracked again when
// the configuration no longer allows it, and nothing is left.
func TestManagePassesTracking(t *testing.T) {
	b := newBed(t, "conntrack")
	startSSHD(t, b.pair.Server)
	office, other := lab.Nth(b.pair.Client.Sources4, 7), lab.Nth(b.pair.Client.Sources4, 900)
	within, _ := office.Prefix(28)
	config := filepath.Join(t.TempDir(), "guard.yaml")
	write := func(notrack string) {
		t.Helper()
		text := fmt.Sprintf("means: {notrack: %s, headroom: false}\nmanage: [%s]\n", notrack, within)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entries := func(of netip.Addr) int {
		return len(b.pair.Server.ConntrackList("-s", of.String(), "-p", "tcp", "--dport", "22"))
	}
	ssh := netip.AddrPortFrom(b.pair.Server.Addr4, 22)
	login := func(from netip.Addr) error {
		c, err := b.pair.Client.Dial(t.Context(), ssh, from, 2*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}

	write("propose")
	s := b.script()
	s.Real, s.Config = true, config
	c := begin(t, s)
	c.wants("a path before tracking for manage: is proposed: it is proven for server tcp 22 from " + within.String())
	if err := login(office); err != nil || entries(office) == 0 {
		t.Errorf("proposed: %v, %d entries", err, entries(office))
	}
	status, err := AskStatus(t.Context(), b.pair.Server.Name, b.run)
	if err != nil || len(status.Proposals) != 1 || !status.Proposals[0].Right || status.Proposals[0].Used {
		t.Errorf("status: %+v, %v", status, err)
	}

	write("allow")
	if err := c.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	c.wants("a path before tracking for server tcp 22 from " + within.String() + ", because it is calm, and proven that they need no tracking: done")
	had := entries(office)
	if err := login(office); err != nil || entries(office) != had {
		t.Errorf("in place: %v, %d entries, %d before", err, entries(office), had)
	}
	if err := login(other); err != nil || entries(other) == 0 {
		t.Errorf("another: %v, %d entries", err, entries(other))
	}

	// A full table keeps others out, and not the office.
	limits := lab.ExclusiveLimits(t)
	limits.SetMax(5000)
	if err := b.pair.Server.TryFill(lab.Class{Count: 5100, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured}); err == nil {
		t.Fatal("the table took more than its limit")
	}
	if err := login(other); err == nil {
		t.Error("the table is not full")
	}
	if err := login(office); err != nil {
		t.Errorf("with a full table: %v", err)
	}
	limits.SetMax(262_144)

	write("never")
	if err := c.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	c.wants("what administers the machine is tracked again, because it is not wanted any more: done")
	had = entries(office)
	if err := login(office); err != nil || entries(office) == had {
		t.Errorf("taken away: %v, %d entries, %d before", err, entries(office), had)
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
	if out := b.pair.Server.Exec("nft", "list", "tables"); strings.Contains(out, "table inet ctwarden") {
		t.Errorf("left: %s", out)
	}
}

// TestManageIsNotProven: rules that drop by state speak against it.
func TestManageIsNotProven(t *testing.T) {
	b := newBed(t)
	startSSHD(t, b.pair.Server)
	b.pair.Server.NFT(`table inet theirs {
	chain input { type filter hook input priority 0; policy drop; ct state established,related accept; tcp dport 22 accept; }
}`)
	config := filepath.Join(t.TempDir(), "guard.yaml")
	if err := os.WriteFile(config, []byte("means: {notrack: allow}\nmanage: [10.1.0.0/24]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := b.script()
	s.Real, s.Config = true, config
	c := begin(t, s)
	c.wants("a path before tracking for manage: is not proposed: server tcp 22 from 10.1.0.0/24: the rules accept it untracked: a policy drops")
	if err := c.term(); err != nil {
		t.Error(err)
	}
	if strings.Contains(c.log(), "never tracked") || strings.Contains(c.log(), string(guard.KindUntrack)+"-begin") {
		t.Errorf("it was put in place")
	}
}
