package guardtable_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/guardtable"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

// childEnv names the namespace in which this program, started by a test, is a
// guard: it opens the table, limits, says so and waits to be killed.
const childEnv = "CTWARDEN_TEST_GUARD"

func TestMain(m *testing.M) {
	if ref := os.Getenv(childEnv); ref != "" {
		g, err := guardtable.Open(ref)
		if err == nil {
			err = g.Limit(limit("10.1.0.0/16", "fd01::/64"))
		}
		if err == nil {
			err = g.SetTimeouts(timeouts(int32(ct.TimeoutUDP), 400))
		}
		fmt.Println(err)
		_, _ = io.ReadAll(os.Stdin)
		os.Exit(0)
	}
	vm.Main(m)
}

// startGuard starts a process that is a guard in the host's namespace. The
// returned function kills it as kill -9 does.
func startGuard(t *testing.T, h *lab.Host) (kill func()) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+h.Path())
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(func() { in.Close(); kill() })
	said, err := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(said) != "<nil>" {
		t.Fatalf("the guard said %q, %v", said, err)
	}
	return kill
}

// eventually waits until something holds, for what the kernel does in the
// background.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for range 100 {
		if holds() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("not so within 2 s: %s", what)
}

// TestNobodyElseTakesItAway lets others do to the table what they may.
func TestNobodyElseTakesItAway(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "foreign")
	g := open(t, h)
	must(t, g.Limit(limit("10.1.0.0/16")))
	if g.Persistent() {
		t.Skip("this kernel knows no owners")
	}
	before := listed(h)
	for _, deed := range []string{
		"flush ruleset", "delete table inet ctwarden", "flush table inet ctwarden", "flush chain inet ctwarden syn",
		"delete chain inet ctwarden syn", "add rule inet ctwarden syn accept", "flush set inet ctwarden v4_16",
		"add element inet ctwarden v4_16 { 10.9.0.0 }", "add table inet ctwarden { flags dormant; }",
	} {
		_, err := h.TryExec("nft", deed)
		if err == nil && deed != "flush ruleset" {
			t.Errorf("nft %s was allowed", deed)
		}
		if now := withoutTime(listed(h)); now != withoutTime(before) {
			t.Errorf("after nft %s:\n%s", deed, now)
		}
		if err := g.Intact(); err != nil {
			t.Errorf("after nft %s: Intact: %v", deed, err)
		}
	}
	if _, err := guardtable.Remove(h.Name); !errors.Is(err, guardtable.ErrTaken) {
		t.Errorf("Remove while the guard runs: %v", err)
	}
	must(t, g.Limit(limit("10.2.0.0/16")))
	if out := listed(h); !strings.Contains(out, "10.2.0.0") {
		t.Errorf("after all that:\n%s", out)
	}
}

// withoutTime cuts the seconds left to elements off a listing.
func withoutTime(listing string) string {
	var b strings.Builder
	for line := range strings.Lines(listing) {
		if before, _, ok := strings.Cut(line, " expires "); ok {
			line = before + "\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

// TestKilledGuard ends a guard as nobody can prepare for.
func TestKilledGuard(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "killed")
	kill := startGuard(t, h)
	if out := listed(h); !strings.Contains(out, "10.1.0.0") || !strings.Contains(out, "unreplied : 400") {
		t.Fatalf("the guard made\n%s", out)
	}
	if _, err := guardtable.Open(h.Name); !errors.Is(err, guardtable.ErrTaken) {
		t.Errorf("Open beside a guard: %v", err)
	}
	if found, err := guardtable.Remove(h.Name); !errors.Is(err, guardtable.ErrTaken) {
		t.Errorf("Remove beside a guard: %v, %v", found, err)
	}
	persistent := strings.Contains(listed(h), "chain owner_")
	kill()
	if !persistent {
		eventually(t, "the table is gone", func() bool { return h.Exec("nft", "list", "ruleset") == "" })
	} else if out := listed(h); !strings.Contains(out, "10.1.0.0") {
		t.Errorf("without an owner the table should have stayed:\n%s", out)
	}
	found, err := guardtable.Remove(h.Name)
	if err != nil || found != persistent {
		t.Errorf("Remove of what is left: %v, %v; persistent %v", found, err, persistent)
	}
	if out := h.Exec("nft", "list", "ruleset"); out != "" {
		t.Errorf("after Remove:\n%s", out)
	}
	if found, err := guardtable.Remove(h.Name); found || err != nil {
		t.Errorf("Remove of nothing: %v, %v", found, err)
	}
}

// TestNextGuard opens the table again over what a killed guard left.
func TestNextGuard(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "next")
	startGuard(t, h)()
	g := open(t, h)
	if out := listed(h); strings.Contains(out, "10.1.0.0") {
		t.Errorf("the next guard found\n%s", out)
	}
	must(t, g.Limit(limit("10.3.0.0/16")))
	must(t, g.Intact())
}

func TestTableOfSomebodyElse(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "other")
	const theirs = "table inet ctwarden {\n\tchain owner_none {\n\t}\n}\n"
	h.NFT(theirs)
	if _, err := guardtable.Open(h.Name); !errors.Is(err, guardtable.ErrTaken) {
		t.Errorf("Open: %v", err)
	}
	if found, err := guardtable.Remove(h.Name); found || !errors.Is(err, guardtable.ErrTaken) {
		t.Errorf("Remove: %v, %v", found, err)
	}
	if out := h.Exec("nft", "list", "ruleset"); out != theirs {
		t.Errorf("their table became\n%s", out)
	}
}

// TestSecondGuard opens the table twice in one process.
func TestSecondGuard(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "second")
	g := open(t, h)
	if _, err := guardtable.Open(h.Name); !errors.Is(err, guardtable.ErrTaken) {
		t.Errorf("second Open: %v", err)
	}
	must(t, g.Intact())
	must(t, g.Close())
	second := open(t, h)
	must(t, second.Intact())
	if err := g.Intact(); !errors.Is(err, guardtable.ErrClosed) {
		t.Errorf("Intact after Close: %v", err)
	}
	must(t, g.Close())
}

// TestChangedByOthers changes the table of a kernel without owners.
func TestChangedByOthers(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "changed")
	g := open(t, h)
	if !g.Persistent() {
		t.Skip("here nobody else can change the table")
	}
	must(t, g.Limit(limit("10.1.0.0/16")))
	must(t, g.Intact())
	h.Exec("nft", "add rule inet ctwarden syn accept")
	if err := g.Intact(); !errors.Is(err, guardtable.ErrChanged) {
		t.Errorf("Intact after a rule was added: %v", err)
	}
	h.Exec("nft", "flush ruleset")
	if err := g.Intact(); !errors.Is(err, guardtable.ErrGone) {
		t.Errorf("Intact after a flush: %v", err)
	}
	if err := g.Limit(limit("10.2.0.0/16")); !errors.Is(err, guardtable.ErrGone) {
		t.Errorf("Limit after a flush: %v", err)
	}
	if _, err := g.Dropped(); !errors.Is(err, guardtable.ErrGone) {
		t.Errorf("Dropped after a flush: %v", err)
	}
}
