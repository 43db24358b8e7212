package guardd

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/lab"
)

func thinSilent(seconds uint32) guard.Action {
	return guard.Action{Kind: guard.KindThin, Why: "of the test",
		Thin: &guard.Thin{Classes: guard.Silent, MinIdle: time.Minute, Seconds: seconds, Limit: 1000}}
}

// silent is a class of connections that have been silent for hours.
func silent(n int) lab.Class {
	return lab.Class{Count: n, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, TimeoutSeconds: 400_000}
}

// TestOthersMeddle: while a guard works, somebody else flushes the table,
// resizes the hash table, flushes the rules and loads others. It goes on, and at
// its end nothing of it is left.
func TestOthersMeddle(t *testing.T) {
	lab.Require(t, "conntrack")
	limits := lab.ExclusiveLimits(t)
	b := newBed(t)
	limits.SetMax(small)
	source := netip.MustParsePrefix("203.0.113.9/32")
	s := b.script(
		maxTo(small, step),
		guard.Action{Kind: guard.KindTimeouts, Why: "of the test", Timeouts: &guard.Timeouts{Scale: 0.5}},
		guard.Action{Kind: guard.KindLimit, Why: "of the test", Limit: &guard.Limit{Sources: []netip.Prefix{source}, Seconds: 60}},
		thinSilent(1),
		guard.Action{Kind: guard.KindReap, Why: "of the test"},
		maxTo(step, small),
	)
	s.Timeouts, s.Repeat = map[string]int32{"udp_timeout": 15}, true
	h := b.pair.Server
	h.Fill(silent(500))
	c := begin(t, s)
	c.wants("thin-begin")
	time.Sleep(500 * time.Millisecond) // between the two readings
	h.Exec("conntrack", "-F")
	c.wants("500 chosen")
	for i := range 3 {
		h.Exec("conntrack", "-F")
		h.Fill(silent(200))
		limits.SetBuckets(limits.Buckets() * (i + 1))
		h.Exec("nft", "flush", "ruleset")
		h.NFT("table ip theirs {\n chain in {\n type filter hook input priority 0\n ct state invalid drop\n }\n}")
		_, _ = h.TryExec("nft", "delete", "table", "inet", "ctwarden") // refused where it has an owner
		time.Sleep(700 * time.Millisecond)
	}
	before := strings.Count(c.log(), "limit-done")
	c.waits(func() bool { return strings.Count(c.log(), "limit-done") > before+1 }, "another round")
	for i, r := range c.results() {
		if r.err != "" && r.Action.Kind != guard.KindThin {
			t.Errorf("action %d: %+v", i, r)
		}
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
	if out := h.Exec("nft", "list", "ruleset"); strings.Contains(out, "ctwarden") || !strings.Contains(out, "theirs") {
		t.Errorf("the rules at the end:\n%s", out)
	}
	if limits.Max() != small {
		t.Errorf("max is %d", limits.Max())
	}
}

// TestLastProcessGoes: a guard keeps nothing alive that everybody else has left.
func TestLastProcessGoes(t *testing.T) {
	lab.Require(t, "unshare")
	lives := exec.Command("unshare", "-n", "sleep", "600")
	if err := lives.Start(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(lives.Process.Pid)
	own, _ := netns.Inode("")
	for n := own; n == own || n == 0; time.Sleep(5 * time.Millisecond) {
		n, _ = netns.Inode(pid)
	}
	run := t.TempDir()
	c := begin(t, script{Netns: pid, State: t.TempDir(), Run: run, Enforce: true})
	c.wants("guard enforces")
	_ = lives.Process.Kill()
	_ = lives.Wait()
	c.wants("has gone: nothing is left to guard")
	if err := c.ends(); err == nil || !strings.Contains(c.log(), ErrGone.Error()) {
		t.Errorf("ended with %v", err)
	}
}

// TestBrokenReload: a broken configuration leaves the old one in force.
func TestBrokenReload(t *testing.T) {
	b := newBed(t)
	s := b.script()
	s.Config = filepath.Join(t.TempDir(), "guard.yaml")
	write := func(text string) {
		if err := os.WriteFile(s.Config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("mode: enforce\nkeep-idle: 3h\n")
	c := begin(t, s)
	c.wants("script over")
	hangUp := func(want string) {
		t.Helper()
		if err := c.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		c.wants(want)
	}
	hangUp("keep-idle 3h0m0s")
	write("mode: enforce\nkeep-idle: 4h\nlevels: {wach: {}}\n")
	hangUp("the configuration stays as it was: line 3: levels.wach: unknown key; allowed here: watch, pressure, emergency, leave-after")
	if strings.Contains(c.log(), "keep-idle 4h") {
		t.Error("a part of the broken file holds")
	}
	write("mode: observe\nkeep-idle: 5h\n")
	hangUp("the mode stays as it was")
	c.wants("keep-idle 5h0m0s")
	if err := os.Remove(s.Config); err != nil {
		t.Fatal(err)
	}
	hangUp("the configuration stays as it was: open")
	if err := c.term(); err != nil {
		t.Error(err)
	}
}

// TestNetlinkFails: without descriptors no request to the kernel can be made.
// The guard says so, goes on reading, and works again when it can.
func TestNetlinkFails(t *testing.T) {
	b := newBed(t, "prlimit")
	b.pair.Server.Fill(silent(50))
	s := b.script(guard.Action{Kind: guard.KindReap, Why: "of the test"}, thinSilent(1))
	s.Repeat = true
	c := begin(t, s)
	c.wants("thin-begin")
	set := func(n int) {
		t.Helper()
		if out, err := exec.Command("prlimit", "--pid", strconv.Itoa(c.cmd.Process.Pid), fmt.Sprintf("--nofile=%d:4096", n)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	set(3)
	c.wants("too many open files")
	time.Sleep(1200 * time.Millisecond) // past what is done once a second
	failed := len(c.results())
	set(1024)
	c.waits(func() bool {
		r := c.results()
		return len(r) > failed+2 && r[len(r)-1].err == "" && r[len(r)-2].err == ""
	}, "work again")
	if err := c.term(); err != nil {
		t.Error(err)
	}
}

// TestAnswersAreLost: the kernel has more to refuse than fits the socket
// (ENOBUFS), because somebody emptied the table before entries were shortened. It
// is not known what became of them; the guard says so and goes on.
func TestAnswersAreLost(t *testing.T) {
	b := newBed(t, "conntrack", "ip")
	b.pair.Server.Fill(silent(900))
	s := b.script(thinSilent(1), guard.Action{Kind: guard.KindReap, Why: "of the test"})
	s.FlushAt, s.SmallBuffers = "thin-recorded", true
	c := begin(t, s)
	c.wants("script over")
	r := c.results()
	if len(r) != 2 || r[0].Selected != 900 || !strings.Contains(r[0].err, "answers of the kernel were lost") || r[1].err != "" {
		t.Errorf("results %+v", r)
	}
	c.wants("answers of the kernel were lost")
	if err := c.term(); err != nil {
		t.Error(err)
	}
	if cleaned, log := b.cleanup(); strings.Contains(log, "error") {
		t.Errorf("%+v\n%s", cleaned, log)
	}
}

// TestFullDisk: settings that cannot be put on record are left alone; what needs
// no record is done, and said.
func TestFullDisk(t *testing.T) {
	lab.Require(t)
	limits := lab.ExclusiveLimits(t)
	b := newBed(t, "mount")
	limits.SetMax(small)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	b.state = filepath.Join(dir, "state")
	fillDisk := func() {
		f, err := os.Create(filepath.Join(dir, "full"))
		if err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := f.Write(make([]byte, 4096)); err != nil {
				break
			}
		}
		_ = f.Close()
	}
	b.pair.Server.Fill(silent(20))

	// Full from the beginning.
	fillDisk()
	s := b.script(maxTo(small, step), thinSilent(1))
	c := begin(t, s)
	c.wants("script over")
	r := c.results()
	if len(r) != 2 || r[0].err == "" || limits.Max() != small || r[1].Changed != 20 {
		t.Errorf("results %+v, max %d", r, limits.Max())
	}
	for _, want := range []string{"are left alone, for the journal cannot be written", "it goes on probation all the same"} {
		if !strings.Contains(c.log(), want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}

	// Full later: the limit is on record already.
	if err := os.Remove(filepath.Join(dir, "full")); err != nil {
		t.Fatal(err)
	}
	b.pair.Server.Fill(lab.Class{Count: 1, Proto: ct.UDP, Status: ct.StatusSeenReply, TimeoutSeconds: 100})
	s.Actions = []guard.Action{thinSilent(1), maxTo(small, step)}
	b.pair.Server.Fill(silent(20))
	c = begin(t, s)
	c.wants("thin-begin")
	fillDisk()
	c.wants("script over")
	if r := c.results(); len(r) != 2 || r[1].err != "" || r[1].Got != step {
		t.Errorf("results %+v", r)
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
	if limits.Max() != small {
		t.Errorf("max is %d", limits.Max())
	}
}

// TestObserveWritesNothing: a guard that observes leaves the kernel and the disk
// as they are, while the table fills to the brim.
func TestObserveWritesNothing(t *testing.T) {
	lab.Require(t, "conntrack", "strace")
	limits := lab.ExclusiveLimits(t)
	b := newBed(t)
	limits.SetMax(small)
	h := b.pair.Server
	look := func() string {
		var s strings.Builder
		for line := range strings.Lines(h.Exec("sysctl", "-a")) {
			if strings.HasPrefix(line, "net.netfilter.") && !strings.Contains(line, "_count") {
				s.WriteString(line)
			}
		}
		s.WriteString(h.Exec("nft", "list", "ruleset"))
		return s.String()
	}
	h.Fill(silent(small * 6 / 10))
	before := look()
	trace := filepath.Join(t.TempDir(), "trace")
	s := b.script()
	text := fmt.Sprintf(`{"State":%q,"Run":%q,"Real":true}`, s.State, s.Run)
	// Inside the namespace, for strace asks there what a socket speaks.
	c := launch(t, childEnv+"="+text, "ip", "netns", "exec", h.Name, "strace", "-D", "-f", "-qq", "-o", trace,
		"-e", "trace=openat,open,creat,sendto,sendmsg,sendmmsg,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,mlockall", os.Args[0], "-test.run=XXX")
	c.wants("guard observes")
	for range 4 {
		time.Sleep(500 * time.Millisecond)
		_ = h.TryFill(lab.Class{Count: 600, State: ct.TCPSynSent, Sources: netip.MustParsePrefix("10.88.0.0/16")})
	}
	h.Exec("conntrack", "-L")
	time.Sleep(time.Second)
	if err := c.term(); err != nil {
		t.Error(err)
	}
	if after := look(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if _, err := os.Stat(b.state); err == nil {
		t.Error("there is a state directory")
	}
	for _, line := range h.ConntrackList("-p", "tcp", "--state", "ESTABLISHED") {
		if f := strings.Fields(line); len(f) > 2 && len(f[2]) < 6 {
			t.Fatalf("a timeout was shortened: %s", line)
		}
	}
	// The tracer is a process of its own, and may still be writing.
	var traced []byte
	for size := -1; size != len(traced); time.Sleep(500 * time.Millisecond) {
		size = len(traced)
		var err error
		if traced, err = os.ReadFile(trace); err != nil {
			t.Fatal(err)
		}
	}
	writes := regexp.MustCompile(`(?m)^\d+ +(open(at)?\([^\n]*(O_WRONLY|O_RDWR|O_CREAT)|creat|rename|mkdir|unlink)[^\n]*`).FindAllString(string(traced), -1)
	writes = slices.DeleteFunc(writes, func(w string) bool { return strings.Contains(w, b.run) || strings.Contains(w, "/dev/null") })
	if len(writes) > 0 {
		t.Errorf("opened for writing: %s", strings.Join(writes, "\n"))
	}
	// Requests of ctnetlink and nftables that change something carry
	// NLM_F_CREATE, or are named otherwise than GET.
	changes := regexp.MustCompile(`(?m)^[^\n]*(NLM_F_CREATE|NFT_MSG_NEW|NFT_MSG_DEL|IPCTNL_MSG_CT_NEW|IPCTNL_MSG_CT_DELETE)[^\n]*`).FindAllString(string(traced), -1)
	if len(changes) > 0 {
		t.Errorf("sent to the kernel: %s", changes[0])
	}
	if !strings.Contains(string(traced), "IPCTNL_MSG_CT_GET") || !strings.Contains(string(traced), "NFT_MSG_GETRULE") {
		t.Errorf("the requests to table and rules were not traced: the test proves little")
	}
}
