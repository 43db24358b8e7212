package clitest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/cli"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// asProgram in the environment turns this test binary into ctwarden; its
// dead-man copies and starts the same binary.
const asProgram = "CTWARDEN_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		code := cli.Run(ctx, cli.NewEnv())
		stop()
		os.Exit(code)
	}
	os.Exit(m.Run())
}

const (
	timeWait = tune.Prefix + "tcp_timeout_time_wait"
	synRecv  = tune.Prefix + "tcp_timeout_syn_recv"
)

// bench is a namespace, a state directory and a program to run in it.
type bench struct {
	t     *testing.T
	h     *lab.Host // nil for the initial namespace
	dir   string
	prog  string
	env   []string
	state string
}

func newBench(t *testing.T, h *lab.Host) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{t: t, h: h, dir: dir, prog: filepath.Join(dir, "ctwarden"), state: filepath.Join(dir, "state"),
		env: append(os.Environ(), asProgram+"=1", "CTWARDEN_STATE_DIR="+filepath.Join(dir, "state"))}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(self, b.prog); err != nil {
		data, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.prog, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(b.endGuards)
	return b
}

// endGuards takes back what still stands, so that no dead-man outlives the test.
func (b *bench) endGuards() {
	if _, err := os.Stat(b.prog); err == nil {
		b.run("revert")
	}
}

func (b *bench) command(args ...string) *exec.Cmd {
	if len(args) > 0 {
		args = append(args, "--root", filepath.Join(b.dir, "root"))
	}
	full := append([]string{b.prog}, args...)
	if b.h != nil {
		full = append([]string{"ip", "netns", "exec", b.h.Name}, full...)
	}
	c := exec.Command(full[0], full[1:]...)
	c.Env = b.env
	return c
}

// run runs ctwarden and returns what it said and its exit code.
func (b *bench) run(args ...string) (out string, code int) {
	b.t.Helper()
	text, err := b.command(args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return string(text), code
}

func (b *bench) mustRun(args ...string) string {
	b.t.Helper()
	out, code := b.run(args...)
	if code != 0 {
		b.t.Fatalf("ctwarden %v: exit code %d\n%s", args, code, out)
	}
	return out
}

func (b *bench) plan(items ...tune.Item) string {
	b.t.Helper()
	data, err := json.Marshal(tune.Plan{Schema: tune.PlanSchema, Items: items})
	if err != nil {
		b.t.Fatal(err)
	}
	path := filepath.Join(b.dir, "plan.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

func (b *bench) last() *journal.Op {
	b.t.Helper()
	log, err := journal.New(disk.OS{}, b.state, journal.Options{}).Read()
	if err != nil || log.Damaged+log.TornBytes > 0 {
		b.t.Fatalf("journal %+v: %v", log, err)
	}
	if len(log.Ops) == 0 {
		return nil
	}
	return log.Ops[len(log.Ops)-1]
}

// within waits for a condition; how long it took is of no interest.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

func shorter() []tune.Item {
	return []tune.Item{{Key: timeWait, From: "120", To: "30"}, {Key: synRecv, From: "60", To: "30"}}
}

func TestTrialTakesItselfBack(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "trial")
	b := newBench(t, h)
	out := b.mustRun("apply", b.plan(shorter()...), "--yes", "--trial", "5s")
	if h.Sysctl(timeWait) != "30" || h.Sysctl(synRecv) != "30" {
		t.Fatalf("not applied: %s %s\n%s", h.Sysctl(timeWait), h.Sysctl(synRecv), out)
	}
	if o := b.last(); o.State != journal.Verified {
		t.Fatalf("the trial is %s already: %s", o.State, o.Note)
	}
	// Everything it was started from is gone.
	if err := os.Remove(b.prog); err != nil {
		t.Fatal(err)
	}
	within(t, time.Minute, "back to the old values", func() bool {
		return h.Sysctl(timeWait) == "120" && h.Sysctl(synRecv) == "60"
	})
	within(t, time.Minute, "the journal says so", func() bool { return b.last().State == journal.Reverted })
	// The next trial is not touched by the dead-man of the first.
	if _, err := os.Stat(filepath.Join(b.dir, "root/etc")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was written without a confirmation: %v", err)
	}
	within(t, time.Minute, "the private copy is removed", func() bool {
		left, err := filepath.Glob(filepath.Join(b.state, "guard-*"))
		return err == nil && len(left) == 0
	})
}

func TestDeadmanSurvivesItsSession(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "session")
	b := newBench(t, h)
	// A session as of a login shell, which is killed whole.
	c := b.command("apply", b.plan(shorter()...), "--yes", "--trial", "6s")
	sh := exec.Command("sh", "-c", `"$@"; echo applied; sleep 600`, "sh")
	sh.Args = append(sh.Args, c.Args...)
	sh.Env = c.Env
	sh.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	within(t, time.Minute, "the trial runs", func() bool {
		if _, err := os.Stat(b.state); err != nil {
			return false
		}
		o := b.last()
		return o != nil && o.State == journal.Verified
	})
	if err := syscall.Kill(-sh.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = sh.Wait()
	within(t, time.Minute, "back to the old values", func() bool { return h.Sysctl(timeWait) == "120" })
	if o := b.last(); o.State != journal.Reverted {
		within(t, 10*time.Second, "the journal says so", func() bool { return b.last().State == journal.Reverted })
	}
}

// TestOverdueTrial: the dead-man itself is killed; the next run of anything
// that changes settings takes the trial back, and status says so before.
func TestOverdueTrial(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "overdue")
	b := newBench(t, h)
	b.mustRun("apply", b.plan(shorter()...), "--yes", "--trial", "2s")
	var pid int
	if _, err := fmt.Sscanf(b.last().Trial.Deadman, "pid %d", &pid); err != nil {
		t.Fatalf("%q: %v", b.last().Trial.Deadman, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	if out, code := b.run("status"); code != cli.ExitFound || !strings.Contains(out, "overdue") {
		t.Errorf("status: %d\n%s", code, out)
	}
	if out, code := b.run("confirm"); code != cli.ExitFailed {
		t.Errorf("a confirmation after the deadline: %d\n%s", code, out)
	}
	if h.Sysctl(timeWait) != "120" || b.last().State != journal.Reverted {
		t.Errorf("%s, %s", h.Sysctl(timeWait), b.last().State)
	}
}

func TestConfirmKeepsAndRevertTakesBack(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "keep")
	b := newBench(t, h)
	b.mustRun("apply", b.plan(shorter()...), "--yes", "--trial", "1m")
	b.mustRun("confirm")
	data, err := os.ReadFile(filepath.Join(b.dir, "root", tune.SysctlPath))
	if err != nil || !strings.Contains(string(data), timeWait+" = 30\n") {
		t.Fatalf("%q, %v", data, err)
	}
	if out, code := b.run("status", "--json"); code != 0 || !json.Valid([]byte(out)) || !strings.Contains(out, `"state": "confirmed"`) {
		t.Errorf("status: %d\n%s", code, out)
	}
	h.SetSysctl(timeWait, "45")
	if out, code := b.run("status"); code != cli.ExitFound || !strings.Contains(out, "drifted") {
		t.Errorf("status after a foreign write: %d\n%s", code, out)
	}
	out := b.mustRun("revert")
	if h.Sysctl(timeWait) != "45" || h.Sysctl(synRecv) != "60" || !strings.Contains(out, "somebody else") {
		t.Errorf("%s %s\n%s", h.Sysctl(timeWait), h.Sysctl(synRecv), out)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "root", tune.SysctlPath)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

// TestHostsValuesFromANamespace: said clearly, exit code 2, nothing half done.
func TestHostsValuesFromANamespace(t *testing.T) {
	lab.Require(t)
	lab.SharedLimits(t)
	h := lab.NewHost(t, "hosts")
	b := newBench(t, h)
	limit := h.Sysctl(tune.KeyMax)
	out, code := b.run("apply", b.plan(tune.Item{Key: timeWait, To: "30"}, tune.Item{Key: tune.KeyMax, To: "400000"}), "--yes")
	if code != cli.ExitFailed || !strings.Contains(out, "belongs to the host") {
		t.Errorf("%d\n%s", code, out)
	}
	if h.Sysctl(timeWait) != "120" || h.Sysctl(tune.KeyMax) != limit {
		t.Error("it was half done")
	}
}

// TestReadOnlySysctls: as in a container that mounts /proc/sys read-only.
func TestReadOnlySysctls(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "rosys")
	b := newBench(t, h)
	c := b.command("apply", b.plan(shorter()...), "--yes")
	ro := exec.Command("unshare", append([]string{"--mount", "sh", "-c", "mount -t proc proc /proc; mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec \"$@\"", "sh"}, c.Args...)...)
	// ip netns exec would mount a fresh /sys only; the view of /proc/sys stays.
	ro.Env = c.Env
	out, err := ro.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != cli.ExitFailed || h.Sysctl(timeWait) != "120" {
		t.Errorf("%v, %s\n%s", err, h.Sysctl(timeWait), out)
	}
}

// TestUnprivilegedContainer: root of a user namespace, as in LXC, may set the
// timeouts of its own network namespace and nothing of the host's.
func TestUnprivilegedContainer(t *testing.T) {
	lab.Require(t, "unshare", "nft")
	b := newBench(t, nil)
	// In the container root's files are those of the user who made it.
	if err := os.Chmod(b.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	max := b.plan(tune.Item{Key: timeWait, From: "120", To: "30"}, tune.Item{Key: tune.KeyMax, To: "400000"})
	data, err := os.ReadFile(max)
	if err != nil {
		t.Fatal(err)
	}
	both := filepath.Join(b.dir, "both.json")
	if err := os.WriteFile(both, data, 0o644); err != nil {
		t.Fatal(err)
	}
	own := b.plan(shorter()...)
	script := `nft add table inet fw; nft add chain inet fw in '{ type filter hook input priority 0; }'; nft add rule inet fw in ct state established accept
value() { echo "$1 $(cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait)"; }
value before
run() { "$0" "$@" --root ` + filepath.Join(b.dir, "root") + `; }
run apply ` + both + ` --yes; echo "host $?"; value refused
run apply ` + own + ` --yes --trial 1m; echo "own $?"; value applied
run confirm; echo "confirm $?"; run verify; echo "verify $?"; run revert; echo "revert $?"; value reverted`
	c := exec.Command("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", script, b.prog)
	c.Env = b.env
	text, err := c.CombinedOutput()
	out := string(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"before 120", "belongs to the host", "host 2", "refused 120", "own 0", "applied 30",
		"confirm 0", "verify 0", "revert 0", "reverted 120"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing from:\n%s", want, out)
		}
	}
}

// TestKilledAtRandom kills apply and revert with SIGKILL at any moment; the
// next revert leaves the old values, and the journal can be read.
func TestKilledAtRandom(t *testing.T) {
	lab.Require(t)
	if testing.Short() {
		t.Skip("many processes")
	}
	h := lab.NewHost(t, "kill9")
	rng := rand.New(rand.NewPCG(5, 5))
	b := newBench(t, h)
	for i := range 25 {
		args := []string{"apply", b.plan(shorter()...), "--yes", "--now"}
		if i%2 == 1 {
			b.mustRun(args...)
			args = []string{"revert"}
		}
		c := b.command(args...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rng.IntN(2600)) * time.Millisecond / time.Duration(1+9*(i%2)))
		_ = c.Process.Kill()
		_ = c.Wait()
		tw, sr := h.Sysctl(timeWait), h.Sysctl(synRecv)
		b.mustRun("revert")
		if h.Sysctl(timeWait) != "120" || h.Sysctl(synRecv) != "60" {
			t.Fatalf("round %d (killed at %s/%s): %s/%s after revert", i, tw, sr, h.Sysctl(timeWait), h.Sysctl(synRecv))
		}
		if o := b.last(); o != nil && o.State.Open() {
			t.Fatalf("round %d: %s is %s", i, o.ID, o.State)
		}
	}
}

// TestFullTableHoldsMax: a trial that raised max ends while the table holds
// more than the old max allows. Nothing is refused that was not before, and
// max comes down by itself once the table has drained.
func TestFullTableHoldsMax(t *testing.T) {
	lab.Require(t)
	if testing.Short() {
		t.Skip("changes the global limits")
	}
	limits := lab.ExclusiveLimits(t)
	limits.SetMax(5000)
	h := lab.NewHost(t, "full")
	b := newBench(t, nil)
	b.mustRun("apply", b.plan(tune.Item{Key: tune.KeyMax, From: "5000", To: "20000"}), "--yes", "--trial", "5s")
	if limits.Max() != 20000 {
		t.Fatalf("max is %d", limits.Max())
	}
	h.Fill(lab.Class{Count: 8000, Proto: ct.TCP, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	within(t, time.Minute, "the revert is deferred", func() bool { return b.last().State == journal.Deferred })
	if limits.Max() != 20000 || h.Count() < 8000 {
		t.Errorf("max is %d with %d entries", limits.Max(), h.Count())
	}
	if out, code := b.run("status"); code != cli.ExitFound || !strings.Contains(out, "revert-deferred") {
		t.Errorf("status: %d\n%s", code, out)
	}
	if drop := h.ConntrackStats()["drop"]; drop != 0 {
		t.Errorf("%d packets were refused", drop)
	}
	h.Exec("conntrack", "-F")
	within(t, 2*time.Minute, "max is back", func() bool { return limits.Max() == 5000 })
	within(t, time.Minute, "the operation is over", func() bool { return b.last().State == journal.Reverted })
}

func TestSecondWriterOfAKey(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "race")
	b := newBench(t, h)
	b.mustRun("apply", b.plan(shorter()...), "--yes", "--trial", "4s")
	if o := b.last(); o.State != journal.Verified {
		t.Fatalf("the trial is %s", o.State)
	}
	h.SetSysctl(timeWait, "77")
	within(t, time.Minute, "the trial is over", func() bool { return !b.last().State.Open() })
	o := b.last()
	if h.Sysctl(timeWait) != "77" || h.Sysctl(synRecv) != "60" || o.Setting(timeWait).State != journal.Foreign {
		t.Errorf("%s %s %+v", h.Sysctl(timeWait), h.Sysctl(synRecv), o.Settings)
	}
	if n, err := strconv.Atoi(h.Sysctl(timeWait)); err != nil || n != 77 {
		t.Errorf("%d, %v", n, err)
	}
}

// TestExistingEntries: with --existing a lowered timeout reaches the entries
// that have been idle beyond it, and no others.
func TestExistingEntries(t *testing.T) {
	lab.Require(t)
	lab.SharedLimits(t)
	h := lab.NewHost(t, "existing")
	h.Track()
	idle := lab.Class{Count: 500, Proto: ct.TCP, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, TimeoutSeconds: 100_000}
	fresh := idle
	fresh.TimeoutSeconds, fresh.Port = 431_000, 444
	fresh.Count = 300
	between := idle
	between.TimeoutSeconds, between.Port, between.Count = 360_000, 445, 200
	h.Fill(idle, fresh, between)
	b := newBench(t, h)
	item := tune.Item{Key: tune.TimeoutSetting(ct.TimeoutTCPEstablished), From: "432000", To: "7440"}
	out := b.mustRun("apply", b.plan(item), "--yes", "--now", "--existing", "--keep-idle", "24h")
	short := func(port string) (n int) {
		for _, line := range h.ConntrackList("-p", "tcp", "--dport", port) {
			if f := strings.Fields(line); len(f) > 4 {
				for _, x := range f[:5] {
					if s, err := strconv.Atoi(x); err == nil && s > 6 && s <= 120 {
						n++
					}
				}
			}
		}
		return n
	}
	if a, f, m := short("443"), short("444"), short("445"); a != 500 || f != 0 || m != 0 {
		t.Errorf("shortened: %d of 500 idle, %d of 300 fresh, %d of 200 idle for less than --keep-idle\n%s", a, f, m, out)
	}
}

// TestVerifyNamesTheConflict: what was confirmed holds now and at the next
// boot, until a file that is read later says otherwise.
func TestVerifyNamesTheConflict(t *testing.T) {
	lab.Require(t)
	if testing.Short() {
		t.Skip("changes the global limits")
	}
	limits := lab.ExclusiveLimits(t)
	before := limits.Max()
	want := before + 8192
	b := newBench(t, nil)
	b.mustRun("apply", b.plan(tune.Item{Key: tune.KeyMax, From: strconv.Itoa(before), To: strconv.Itoa(want)}), "--yes", "--now")
	if limits.Max() != want {
		t.Fatalf("max is %d", limits.Max())
	}
	if out, code := b.run("verify"); code != 0 {
		t.Errorf("verify: %d\n%s", code, out)
	}
	later := filepath.Join(b.dir, "root/etc/sysctl.d/99-zz.conf")
	if err := os.WriteFile(later, []byte("net.netfilter.nf_conntrack_max = 65536\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := b.run("verify"); code != cli.ExitFound || !strings.Contains(out, "the next boot gives 65536") || !strings.Contains(out, "99-zz.conf") {
		t.Errorf("verify with a later file: %d\n%s", code, out)
	}
	b.mustRun("revert")
	if limits.Max() != before {
		t.Errorf("max is %d after revert", limits.Max())
	}
}
