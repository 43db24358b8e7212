package guardd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

// childEnv carries the script of a guard that runs as a process of its own.
const childEnv = "CTWARDEN_TEST_GUARD"

func TestMain(m *testing.M) {
	if s := os.Getenv(childEnv); s != "" {
		os.Exit(runChild(s))
	}
	if at := os.Getenv(sshdEnv); at != "" {
		l, err := net.Listen("tcp", at)
		if err != nil {
			os.Exit(1)
		}
		fmt.Println("listening")
		for {
			c, err := l.Accept()
			if err != nil {
				os.Exit(1)
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}
	vm.Main(m)
}

// sshdEnv has this program, under the name of sshd, listen and echo.
const sshdEnv = "CTWARDEN_TEST_SSHD"

// script is what a guard under test is to do: one action after the other, each
// when the one before is done.
type script struct {
	Netns, State, Run string
	Enforce           bool
	Actions           []guard.Action
	// Timeouts replaces the set of each action for timeouts, by name, since a
	// set does not travel in JSON.
	Timeouts map[string]int32
	// KillAt kills the guard at the fault point with this number, from 1 on;
	// the names of those that it reached go to its log.
	KillAt int
	// Real uses the policy of package guard instead.
	Real bool
	// Config is a file that is read, and read anew on SIGHUP.
	Config string
	// FlushAt is a fault point at which somebody empties the table, SmallBuffers
	// leaves no room for what the kernel then answers.
	FlushAt      string
	SmallBuffers bool
	// Repeat goes through the actions for ever.
	Repeat bool
}

func runChild(text string) int {
	var s script
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if p := os.Getenv("GUARD_CPUPROFILE"); p != "" {
		f, err := os.Create(p)
		if err == nil && pprof.StartCPUProfile(f) == nil {
			defer pprof.StopCPUProfile()
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := guard.DefaultConfig()
	c.Enforce = s.Enforce
	o := Options{Netns: s.Netns, StateDir: s.State, RunDir: s.Run, Config: c, Log: os.Stderr}
	if s.SmallBuffers {
		o.netlinkBufferBytes = 1 // the kernel makes it its least, some two thousand
	}
	if s.Config != "" {
		o.Reload = func() (guard.Config, error) {
			b, err := os.ReadFile(s.Config)
			if err != nil {
				return c, err
			}
			return guard.ParseConfig(b)
		}
		if s.Real {
			var err error
			if o.Config, err = o.Reload(); err != nil {
				fmt.Fprintln(os.Stderr, "error:", err)
				return 1
			}
			o.Config.Enforce = s.Enforce
		}
	}
	if !s.Real {
		o.NewPolicy = func(guard.Config, guard.Surroundings) Policy { return &scripted{script: s} }
	}
	var mu sync.Mutex
	n := 0
	o.Fault = func(point string) {
		mu.Lock()
		defer mu.Unlock()
		n++
		fmt.Fprintf(os.Stderr, "point %d %s\n", n, point)
		if point == s.FlushAt {
			if out, err := exec.Command("ip", "netns", "exec", s.Netns, "conntrack", "-F").CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "error: %v: %s\n", err, out)
			}
		}
		if n == s.KillAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if err := Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

// scripted is a policy that follows a script.
type scripted struct {
	script  script
	next    int
	waiting bool
	said    bool
}

func (p *scripted) Proposals() []guard.Proposal { return nil }

func (p *scripted) Step(r guard.Reading) guard.Decision {
	d := guard.Decision{Next: 20 * time.Millisecond}
	switch {
	case p.waiting:
	case p.script.Repeat && p.next == len(p.script.Actions):
		p.next = 0
	case p.next < len(p.script.Actions):
		a := p.script.Actions[p.next]
		p.next++
		p.waiting = true
		a.ID = p.next
		if a.Timeouts != nil {
			for name, n := range p.script.Timeouts {
				if k, ok := ct.ParseTimeoutKey(name); ok {
					a.Timeouts.Set.Set(k, n)
				}
			}
		}
		d.Actions = []guard.Action{a}
	case !p.said:
		p.said = true
		d.Notes = []string{"script over"}
	}
	return d
}

func (p *scripted) Done(r guard.Result) {
	p.waiting = false
	b, _ := json.Marshal(r)
	errText := ""
	if r.Err != nil {
		errText = r.Err.Error()
	}
	fmt.Fprintf(os.Stderr, "result %s %q\n", b, errText)
}

func (p *scripted) SetSurroundings(guard.Surroundings) {}
func (p *scripted) SetConfig(c guard.Config)           { fmt.Fprintln(os.Stderr, "keep-idle", c.KeepIdle) }
func (p *scripted) Unfinished() *guard.Incident        { return nil }
func (p *scripted) Level() guard.Level                 { return guard.Calm }

func (p *scripted) Undo(guard.Reading) []guard.Action {
	return []guard.Action{
		{Kind: guard.KindLimit, Undo: true, Limit: &guard.Limit{}, Why: "the guard ends"},
		{Kind: guard.KindTimeouts, Undo: true, Timeouts: &guard.Timeouts{}, Why: "the guard ends"},
	}
}

// child is a guard that runs.
type child struct {
	t    testing.TB
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer
	done chan struct{}
	err  error
}

func (c *child) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}

func (c *child) log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

// begin starts a guard and does not wait.
func begin(t testing.TB, s script) *child {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return launch(t, childEnv+"="+string(b), "/proc/self/exe", "-test.run=XXX")
}

func launch(t testing.TB, env, name string, args ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command(name, args...), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), env)
	c.cmd.Stdout, c.cmd.Stderr = c, c
	c.cmd.WaitDelay = 2 * time.Second
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.done
		if t.Failed() {
			t.Logf("the guard's log:\n%s", c.log())
		}
	})
	return c
}

// wants waits until the log says something.
func (c *child) wants(text string) {
	c.t.Helper()
	c.waits(func() bool { return strings.Contains(c.log(), text) }, text)
}

func (c *child) waits(until func() bool, what string) {
	c.t.Helper()
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if until() {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("waited in vain for %q", what)
		}
		select {
		case <-c.done:
			if until() {
				return
			}
			c.t.Fatalf("the guard ended (%v) before %q", c.err, what)
		default:
		}
	}
}

// ends waits for the end.
func (c *child) ends() error {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(40 * time.Second):
		c.t.Fatal("the guard does not end")
	}
	return c.err
}

func (c *child) term() error {
	c.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	return c.ends()
}

// results are what the scripted policy was told, in order.
func (c *child) results() (list []result) {
	for line := range strings.Lines(c.log()) {
		rest, ok := strings.CutPrefix(line, "result ")
		if !ok {
			continue
		}
		var r result
		d := json.NewDecoder(strings.NewReader(rest))
		if err := d.Decode(&r.Result); err != nil {
			c.t.Fatalf("%v: %s", err, line)
		}
		_, _ = fmt.Sscanf(strings.TrimSpace(rest[d.InputOffset():]), "%q", &r.err)
		list = append(list, r)
	}
	return list
}

type result struct {
	guard.Result
	err string
}

// bed is where a guard is tested: a namespace of the laboratory, and directories
// of the test's own.
type bed struct {
	t          *testing.T
	pair       *lab.Pair
	state, run string
}

func newBed(t *testing.T, tools ...string) *bed {
	t.Helper()
	lab.Require(t, tools...)
	return &bed{t: t, pair: lab.Server(t), state: t.TempDir() + "/state", run: t.TempDir() + "/run"}
}

func (b *bed) script(actions ...guard.Action) script {
	return script{Netns: b.pair.Server.Name, State: b.state, Run: b.run, Enforce: true, Actions: actions}
}

// cleanup runs what `ctwarden guard cleanup` runs.
func (b *bed) cleanup() (Cleaned, string) {
	b.t.Helper()
	var log bytes.Buffer
	c, err := Cleanup(b.t.Context(), Options{StateDir: b.state, RunDir: b.run, Log: &log})
	if err != nil {
		b.t.Errorf("cleanup: %v", err)
	}
	return c, log.String()
}

func maxTo(from, to int64) guard.Action {
	return guard.Action{Kind: guard.KindMax, Why: "of the test", Max: &guard.Change{From: from, To: to}}
}
