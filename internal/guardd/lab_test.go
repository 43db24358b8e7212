package guardd

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

const small = 4096

// step is the first rung above small.
const step = small + small/2

func TestRaisesAndRestoresMax(t *testing.T) {
	lab.Require(t)
	limits := lab.ExclusiveLimits(t)
	b := newBed(t)
	limits.SetMax(small)
	c := begin(t, b.script(maxTo(small, step), maxTo(step, step+step/2)))
	c.wants("script over")
	if got := limits.Max(); got != step+step/2 {
		t.Errorf("max is %d", got)
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
	if got := limits.Max(); got != small {
		t.Errorf("max is %d after the end", got)
	}
	if c, _ := b.cleanup(); c.Found != 0 {
		t.Errorf("something is left to clean up: %+v", c)
	}
}

// TestNeverLowersBelowTheTable: on exit, by cleanup, and by the policy.
func TestNeverLowersBelowTheTable(t *testing.T) {
	lab.Require(t, "conntrack")
	limits := lab.ExclusiveLimits(t)
	b := newBed(t)
	limits.SetMax(small)
	s := b.script(maxTo(small, step))
	c := begin(t, s)
	c.wants("script over")
	b.pair.Server.Fill(lab.Class{Count: small - small/10, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	if err := c.term(); err != nil {
		t.Error(err)
	}
	c.wants("revert-deferred")
	if got := limits.Max(); got != step {
		t.Fatalf("max is %d, want it held at %d", got, step)
	}
	if got, log := b.cleanup(); !got.Deferred || limits.Max() != step {
		t.Errorf("cleanup %+v, max %d\n%s", got, limits.Max(), log)
	}
	// The next guard takes it over, and its policy cannot lower it either.
	s.Actions = []guard.Action{maxTo(step, small)}
	c = begin(t, s)
	c.wants("taking over")
	c.wants("script over")
	if r := c.results(); len(r) != 1 || !strings.Contains(r[0].err, "held") || limits.Max() != step {
		t.Errorf("results %+v, max %d", r, limits.Max())
	}
	b.pair.Server.Exec("conntrack", "-F")
	if err := c.term(); err != nil {
		t.Error(err)
	}
	if got := limits.Max(); got != small {
		t.Errorf("max is %d once the table has drained", got)
	}
	if c, _ := b.cleanup(); c.Found != 0 {
		t.Errorf("something is left to clean up: %+v", c)
	}
}

// TestStandsAside: what somebody else writes stays, during and after.
func TestStandsAside(t *testing.T) {
	lab.Require(t)
	limits := lab.ExclusiveLimits(t)
	b := newBed(t)
	limits.SetMax(small)
	s := b.script(maxTo(small, step), guard.Action{Kind: guard.KindThin, Why: "to wait", Thin: &guard.Thin{Classes: guard.Silent, Seconds: 1, Limit: 10}},
		maxTo(step, step+step/2), maxTo(5000, 7500))
	b.pair.Server.Fill(lab.Class{Count: 1, Proto: ct.UDP, Status: ct.StatusSeenReply, TimeoutSeconds: 100,
		Sources: netip.MustParsePrefix("198.18.7.0/24"), Targets: netip.MustParsePrefix("198.18.8.1/32")})
	c := begin(t, s)
	c.wants("thin-begin")
	limits.SetMax(5000)
	c.wants("script over")
	r := c.results()
	if len(r) != 4 || !r[2].Foreign || r[2].Got != 5000 || r[3].Got != 7500 {
		t.Errorf("results %+v", r)
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
	if got := limits.Max(); got != 5000 {
		t.Errorf("max is %d, want what somebody else had set", got)
	}
}

// TestKilledAtEveryPoint kills the guard wherever it can be killed, and looks at
// what the kernel undoes by itself and what cleanup brings back.
func TestKilledAtEveryPoint(t *testing.T) {
	lab.Require(t, "conntrack")
	limits := lab.ExclusiveLimits(t)
	b := newBed(t)
	limits.SetMax(small)
	buckets := limits.Buckets()
	source := netip.MustParsePrefix("203.0.113.9/32")
	release, err := procfs.FS{}.Release()
	if err != nil {
		t.Fatal(err)
	}
	version, err := ct.ParseKernelVersion(release)
	if err != nil {
		t.Fatal(err)
	}
	owners := version.AtLeast(5, 12)
	s := b.script(
		maxTo(small, step),
		guard.Action{Kind: guard.KindTimeouts, Why: "of the test", Timeouts: &guard.Timeouts{Scale: 0.5}},
		guard.Action{Kind: guard.KindLimit, Why: "of the test", Limit: &guard.Limit{Sources: []netip.Prefix{source}, Seconds: 60}},
		guard.Action{Kind: guard.KindBuckets, Why: "of the test", Buckets: &guard.Change{From: int64(buckets), To: int64(buckets * 2)}},
		guard.Action{Kind: guard.KindReap, Why: "of the test"},
		maxTo(step, small),
		guard.Action{Kind: guard.KindThin, Why: "of the test", Thin: &guard.Thin{Classes: guard.Silent, MinIdle: time.Minute, Seconds: 1, Limit: 100}},
	)
	s.Timeouts = map[string]int32{"udp_timeout": 15}
	fill := func() {
		b.pair.Server.Exec("conntrack", "-F")
		b.pair.Server.Fill(lab.Class{Count: 20, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, TimeoutSeconds: 400_000})
	}
	run := func(t *testing.T, killAt int) *child {
		t.Helper()
		fill()
		s.KillAt = killAt
		return begin(t, s)
	}
	c := run(t, 0)
	c.wants("script over")
	for i, r := range c.results() {
		if r.err != "" {
			t.Errorf("action %d: %s", i, r.err)
		}
	}
	if err := c.term(); err != nil {
		t.Fatal(err)
	}
	points := regexp.MustCompile(`(?m)^point \d+ (.*)$`).FindAllStringSubmatch(c.log(), -1)
	if len(points) < 20 {
		t.Fatalf("only %d points", len(points))
	}
	if got := limits.Max(); got != small {
		t.Fatalf("max is %d", got)
	}
	if got := limits.Buckets(); got != buckets {
		t.Errorf("%d buckets after the end, want %d", got, buckets)
	}
	every := 1
	if vm.InGuest() && os.Getenv("CTWARDEN_LONG") == "" {
		every = 4 // an emulated machine takes its time
	}
	for i, p := range points {
		if i%every != 0 {
			continue
		}
		t.Run(p[1], func(t *testing.T) {
			c := run(t, i+1)
			if i >= len(points)-5 { // those of the end
				c.wants("script over")
				_ = c.cmd.Process.Signal(syscall.SIGTERM)
			}
			if c.ends() == nil {
				t.Fatalf("it was not killed")
			}
			ours := func() bool { return strings.Contains(b.pair.Server.Exec("nft", "list", "ruleset"), "ctwarden") }
			if owners && ours() {
				t.Error("our rules outlive the guard")
			}
			did, log := b.cleanup()
			if ours() {
				t.Error("our rules outlive the cleanup")
			}
			if did.Deferred {
				t.Errorf("cleanup deferred: %s", log)
			}
			if limits.Max() != small || limits.Buckets() != buckets {
				t.Errorf("after cleanup: max %d, buckets %d\n%s", limits.Max(), limits.Buckets(), log)
				limits.SetMax(small)
				limits.SetBuckets(buckets)
			}
			left, short := 0, 0
			for _, line := range b.pair.Server.ConntrackList("-p", "tcp") {
				left++
				if f := strings.Fields(line); len(f) > 2 && len(f[2]) < 6 {
					short++
				}
			}
			if short > 0 {
				t.Errorf("%d of %d entries still have the short timeout\n%s", short, left, log)
			}
			if left < 20 && !strings.HasPrefix(p[1], "thin-reaped") && i < indexOf(points, "thin-reaped") {
				t.Errorf("%d of 20 entries are left\n%s", left, log)
			}
			if again, _ := b.cleanup(); again.Found != 0 {
				t.Errorf("a second cleanup finds %d", again.Found)
			}
		})
	}
}

func indexOf(points [][]string, name string) int {
	for i, p := range points {
		if p[1] == name {
			return i
		}
	}
	return len(points)
}

func TestSecondGuardRefuses(t *testing.T) {
	b := newBed(t)
	s := b.script()
	s.Enforce = false
	first := begin(t, s)
	first.wants("guard observes")
	second := begin(t, s)
	if second.ends() == nil || !strings.Contains(second.log(), ErrSecond.Error()) {
		t.Errorf("the second guard: %v\n%s", second.err, second.log())
	}
	if err := first.term(); err != nil {
		t.Error(err)
	}
	third := begin(t, s)
	third.wants("guard observes")
}

// TestTermCallsProbationOff: what is on probation has its timeouts back.
func TestTermCallsProbationOff(t *testing.T) {
	b := newBed(t, "conntrack")
	lab.SharedLimits(t)
	b.pair.Server.Fill(lab.Class{Count: 50, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, TimeoutSeconds: 400_000})
	c := begin(t, b.script(guard.Action{Kind: guard.KindThin, Why: "of the test",
		Thin: &guard.Thin{Classes: guard.Silent, MinIdle: time.Minute, Seconds: 30, Limit: 100}}))
	c.wants("thin-shortened")
	if err := c.term(); err != nil {
		t.Error(err)
	}
	c.wants("50 entries have their timeouts back")
	for _, line := range b.pair.Server.ConntrackList("-p", "tcp") {
		if f := strings.Fields(line); len(f[2]) != 6 {
			t.Errorf("left with the short timeout: %s", line)
		}
	}
}

// TestNothingOutsideItsFolders: what a guard writes besides the kernel.
func TestNothingOutsideItsFolders(t *testing.T) {
	b := newBed(t)
	s := b.script()
	c := begin(t, s)
	c.wants("script over")
	names := func(dir string) (all []string) {
		_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				all = append(all, filepath.Base(p))
			}
			return nil
		})
		return all
	}
	if got := strings.Join(names(b.state), " "); got != "journal.jsonl lock" {
		t.Errorf("state: %s", got)
	}
	if got := len(names(b.run)); got != 2 {
		t.Errorf("run: %v", names(b.run))
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
}
