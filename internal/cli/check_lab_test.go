package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/scene"
	"github.com/ctwarden/ctwarden/internal/report"
)

// answer is what check --json printed.
type answer struct {
	Verdict  report.Verdict
	Findings []report.Finding
	Snapshot *ct.Snapshot
	Blind    []ct.Blind
	Log      *struct {
		Episodes []struct {
			Lines      uint64 `json:"lines"`
			NetnsInode uint64 `json:"netns_inode"`
		} `json:"episodes"`
	}
	code int
}

func (a *answer) finding(code string) *report.Finding {
	for i := range a.Findings {
		if a.Findings[i].Code == code {
			return &a.Findings[i]
		}
	}
	return nil
}

func (a *answer) codes() (list []string) {
	for _, f := range a.Findings {
		list = append(list, f.Severity.String()+" "+f.Code)
	}
	return list
}

// figure reads a number out of a finding.
func (a *answer) figure(t *testing.T, code, name string) float64 {
	t.Helper()
	f := a.finding(code)
	if f == nil {
		t.Fatalf("no finding %s among %q", code, a.codes())
	}
	v, ok := f.Figures[name].(float64)
	if !ok {
		t.Fatalf("%s has no figure %q: %v", code, name, f.Figures)
	}
	return v
}

// runCheck runs the command in this process and holds its answer against the
// schema.
func runCheck(t *testing.T, args ...string) *answer {
	t.Helper()
	var out, errOut bytes.Buffer
	env := &Env{
		Args: append([]string{"check", "--json"}, args...), Stdin: strings.NewReader(""),
		Stdout: &out, Stderr: &errOut, Getenv: func(string) string { return "" }, Now: time.Now, Width: 80,
	}
	code := Run(context.Background(), env)
	if out.Len() == 0 {
		t.Fatalf("check %v printed nothing, exit code %d: %s", args, code, &errOut)
	}
	validate(t, out.Bytes())
	a := &answer{code: code}
	if err := json.Unmarshal(out.Bytes(), a); err != nil {
		t.Fatal(err)
	}
	for _, f := range a.Findings {
		for _, r := range f.Remedies {
			for _, c := range append(r.Commands, r.Undo...) {
				understands(t, c)
			}
		}
	}
	t.Logf("exit %d: %s (%s, %s)", code, a.Verdict.Text, a.Verdict.Cause, a.Verdict.Confidence)
	return a
}

// understands checks that a command of this program, as a remedy prints it,
// exists and has the flags that it is given.
func understands(t *testing.T, line string) {
	t.Helper()
	rest, ok := strings.CutPrefix(line, "ctwarden ")
	if !ok {
		return
	}
	var args []string
	for i, part := range strings.Split(rest, "'") {
		if i%2 == 1 {
			args = append(args, part)
		} else {
			args = append(args, strings.Fields(part)...)
		}
	}
	cmd, flags, err := newRoot(&Env{Getenv: func(string) string { return "" }, Now: time.Now}).Find(args)
	if err == nil {
		err = cmd.ParseFlags(flags)
	}
	if err != nil {
		t.Errorf("advice %q: %v", line, err)
	}
}

func validate(t *testing.T, b []byte) {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("../../docs/schema/check.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	if err := schema.Validate(doc); err != nil {
		t.Errorf("the document does not match its schema: %v", err)
	}
}

// expect checks the cause, the leading code and the exit code.
func (a *answer) expect(t *testing.T, cause report.Cause, code string) {
	t.Helper()
	if a.Verdict.Cause != cause || len(a.Verdict.Codes) == 0 || a.Verdict.Codes[0] != code {
		t.Errorf("cause %q of %q, want %q of %q; findings %q", a.Verdict.Cause, a.Verdict.Codes, cause, code, a.codes())
	}
	if a.code != ExitFound {
		t.Errorf("exit code %d, want %d", a.code, ExitFound)
	}
	if a.finding("table-full") == nil {
		t.Errorf("a full table was not said to be full: %q", a.codes())
	}
}

// background runs a generator until the test's traffic is no longer needed.
func background[T any](t *testing.T, run func(ctx context.Context) (T, error)) (stop func() T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	type result struct {
		did T
		err error
	}
	done := make(chan result, 1)
	go func() {
		s, err := run(ctx)
		done <- result{s, err}
	}()
	var once sync.Once
	var r result
	stop = func() T {
		once.Do(func() {
			cancel()
			r = <-done
			if r.err != nil && !errors.Is(r.err, context.Canceled) {
				t.Errorf("generator: %v", r.err)
			}
		})
		return r.did
	}
	t.Cleanup(func() { stop() })
	return stop
}

// emptyLog keeps the machine's own logs, full of other tests' floods, out.
const emptyLog = "/dev/null"

// Each scene fills a table for another reason; check must name the reason and
// who is behind it, and its figures must be those of conntrack and of the
// generator.
func TestCheckNamesEachScene(t *testing.T) {
	for _, tt := range []struct {
		name  string
		make  func(testing.TB) *scene.Scene
		cause report.Cause
		code  string
		look  func(*testing.T, *scene.Scene, *answer)
	}{
		{"spoofed SYN flood", scene.SYNFlood, report.CauseAttack, "flood-syn", lookAtSYNFlood},
		{"idle handshakes", scene.IdleHandshakes, report.CauseAttack, "flood-assured", lookAtHandshakes},
		{"left idle", func(t testing.TB) *scene.Scene { return scene.LeftIdle(t, 26*time.Hour) }, report.CauseLeak, "idle-established", lookAtIdle},
		{"outbound scan", scene.OutboundScan, report.CauseScan, "scan-outbound", lookAtScan},
		{"DNS churn", scene.DNSChurn, report.CauseChurn, "dns-churn", lookAtDNS},
		// The limit is a hundredth of what the kernel chooses for this machine.
		{"growth", scene.Growth, report.CauseWrongSizing, "table-full", func(*testing.T, *scene.Scene, *answer) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.make(t)
			before := s.Host.ConntrackStats()
			a := runCheck(t, "--netns", s.Host.Name, "--full", "--log", emptyLog)
			after := s.Host.ConntrackStats()
			a.expect(t, tt.cause, tt.code)
			compareCounters(t, a, before, after)
			tt.look(t, s, a)
			sent := s.Stop()
			if refused := after["drop"] + after["early_drop"]; refused > sent.Begun+scene.Max {
				t.Errorf("%d refused and evicted, of %d begun", refused, sent.Begun)
			}
		})
	}
}

// compareCounters holds the growth of the counters against what conntrack saw
// around the two readings.
func compareCounters(t *testing.T, a *answer, before, after map[string]int) {
	t.Helper()
	for figure, counter := range map[string]string{"refused_packets": "drop", "evicted_entries": "early_drop"} {
		if got, most := a.figure(t, "table-full", figure), float64(after[counter]-before[counter]); got > most {
			t.Errorf("%s: %v, conntrack -S saw %v around it", figure, got, most)
		}
	}
	if a.figure(t, "table-full", "refused_packets") == 0 {
		t.Error("no refusal was seen in a table that refuses")
	}
}

func lookAtSYNFlood(t *testing.T, s *scene.Scene, a *answer) {
	if strings.Contains(a.Verdict.Text, "10.2.") || strings.Contains(a.Verdict.Text, "10.3.") {
		t.Errorf("a forged address was named: %s", a.Verdict.Text)
	}
	f := a.finding("flood-syn")
	if f.Figures["destination"] != s.Target.Addr().String() || f.Figures["destination_port"] != float64(s.Target.Port()) {
		t.Errorf("target %v, want %s", f.Figures, s.Target)
	}
	evicted, refused := a.figure(t, "table-full", "evicted_entries"), a.figure(t, "table-full", "refused_packets")
	odds, seen := a.figure(t, "early-drop-defeated", "odds"), evicted/(evicted+refused)
	if math.Abs(odds-seen) > 0.06 {
		t.Errorf("odds of admission %.3f, seen %.3f", odds, seen)
	}
	if share := a.figure(t, "flood-syn", "share"); share < 0.95 {
		t.Errorf("half-open share %.2f of a table that the flood filled alone", share)
	}
}

func lookAtHandshakes(t *testing.T, s *scene.Scene, a *answer) {
	f := a.finding("flood-assured")
	prefix, err := netip.ParsePrefix(fmt.Sprint(f.Figures["source_prefix"]))
	if err != nil || !prefix.Contains(s.Culprit.Addr()) {
		t.Errorf("figures %v, want a prefix with %s", f.Figures, s.Culprit)
	}
	listed := len(s.Host.ConntrackList("-p", "tcp", "--state", "ESTABLISHED"))
	if n := a.figure(t, "flood-assured", "entries"); math.Abs(n-float64(listed)) > 0.02*float64(listed) {
		t.Errorf("%v silent connections, conntrack -L has %d established", n, listed)
	}
}

func lookAtIdle(t *testing.T, s *scene.Scene, a *answer) {
	if n := a.figure(t, "idle-established", "idle_over_day_share"); n < 0.95 {
		t.Errorf("%v idle for a day, want nearly all", n)
	}
}

func lookAtScan(t *testing.T, s *scene.Scene, a *answer) {
	f := a.finding("scan-outbound")
	culprit := s.Culprit.Addr().String()
	if f.Figures["source"] != culprit {
		t.Errorf("figures %v, want source %s", f.Figures, culprit)
	}
	listed := len(s.Host.ConntrackList("-s", culprit))
	if n := a.figure(t, "scan-outbound", "entries"); math.Abs(n-float64(listed)) > 0.05*float64(listed) {
		t.Errorf("%v entries of the scanner, conntrack -L has %d", n, listed)
	}
	if a.Snapshot.Tracking.NAT != ct.Yes {
		t.Error("the gateway translates, and this was not seen")
	}
}

func lookAtDNS(t *testing.T, s *scene.Scene, a *answer) {
	listed := len(s.Host.ConntrackList("-p", "udp", "--dport", "53"))
	if n := a.figure(t, "dns-churn", "entries"); math.Abs(n-float64(listed)) > 0.05*float64(listed) {
		t.Errorf("%v entries to port 53, conntrack -L has %d", n, listed)
	}
	if f := a.finding("dns-churn"); f.Figures["destination"] != s.Target.Addr().String() {
		t.Errorf("figures %v, want the resolver %s", f.Figures, s.Target)
	}
}

// The same idle handshakes, nearly all of one address.
func TestCheckNamesTheHostOfIdleHandshakes(t *testing.T) {
	lab.Require(t, "conntrack")
	lab.ExclusiveLimits(t).SetMax(3000)
	pair := lab.Server(t)
	server, client := pair.Server, pair.Client
	server.Hold(80, 8192)
	target := netip.AddrPortFrom(server.Addr4, 80)
	culprit := netip.MustParsePrefix("10.2.3.66/32")
	shake := func(from netip.Prefix, n int) int {
		d, err := client.Handshakes(t.Context(), target, from, lab.Load{Packets: n, PerSecond: 4000})
		if err != nil {
			t.Fatal(err)
		}
		return d.Completed
	}
	made := shake(culprit, 2500)
	shake(netip.MustParsePrefix("10.3.0.0/18"), 600)
	a := runCheck(t, "--netns", server.Name, "--log", emptyLog)
	a.expect(t, report.CauseAttack, "flood-assured")
	if f := a.finding("flood-assured"); f != nil && f.Figures["source"] != culprit.Addr().String() {
		t.Errorf("source %v, want %s", f.Figures["source"], culprit)
	}
	listed := len(server.ConntrackList("-s", culprit.Addr().String()))
	if got := a.figure(t, "one-source", "entries"); listed != made || math.Abs(got-float64(made)) > 30 {
		t.Errorf("%v entries of the source; the generator made %d, conntrack -L has %d", got, made, listed)
	}
}

// Long-lived connections of very many clients, at the limit that this kernel
// chose itself.
func TestCheckNamesGrowth(t *testing.T) {
	lab.Require(t, "conntrack")
	lab.SharedLimits(t)
	pair := lab.Server(t)
	server, client := pair.Server, pair.Client
	limit := stockMax(t)
	server.Fill(lab.Class{Count: limit - 20000, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured,
		Sources: client.Sources4, Port: 443})
	a := runCheck(t, "--netns", server.Name, "--observe", "500ms", "--log", emptyLog)
	if a.finding("table-near-full") == nil || a.Verdict.Cause != report.CauseGrowth {
		t.Errorf("cause %s of %q, want growth of a table that is nearly full", a.Verdict.Cause, a.codes())
	}
	server.Fill(lab.Class{Count: 20000, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured,
		Sources: client.Sources4, Port: 8443})
	stop := background(t, func(ctx context.Context) (lab.Sent, error) {
		return client.SYNFlood(ctx, netip.AddrPortFrom(server.Addr4, 443), client.Spoof4, lab.Load{Packets: 2000, PerSecond: 200, Duration: 10 * time.Second})
	})
	a = runCheck(t, "--netns", server.Name, "--log", emptyLog)
	sent := stop()
	a.expect(t, report.CauseGrowth, "table-full")
	if n := a.figure(t, "table-full", "refused_packets"); n < 100 || n > float64(sent.Packets) {
		t.Errorf("%v packets refused of %d sent", n, sent.Packets)
	}
	if got := a.figure(t, "table-full", "count"); int(got) != limit {
		t.Errorf("count %v, want %d", got, limit)
	}
}

func stockMax(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if _, err := fmt.Sscan(string(b), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// The message of a full table names its namespace by a number; check ties the
// number to the namespace, from inside and from the host.
func TestCheckTiesMessageToNamespace(t *testing.T) {
	s := scene.SYNFlood(t)
	a := runCheck(t, "--netns", s.Host.Name)
	if !a.Snapshot.Version.AtLeast(6, 17) {
		t.Skipf("kernel %s does not say which namespace is full", a.Snapshot.Version)
	}
	// The kernel prints ten lines in five seconds for everybody together, and
	// a test before this one may have had them all.
	for range 4 {
		if f := a.finding("table-full"); f != nil && f.Figures["logged_refused_min"] != nil {
			break
		}
		a = runCheck(t, "--netns", s.Host.Name)
	}
	inode := a.Snapshot.Netns.Inode
	lines := a.figure(t, "table-full", "logged_refused_min")
	if drops := s.Host.ConntrackStats()["drop"]; lines < 1 || int(lines) > drops {
		t.Errorf("the log accounts for %v refusals, conntrack -S for %d", lines, drops)
	}
	for _, f := range a.Findings {
		if f.Code == "table-was-full" && f.Figures["netns_inode"] == float64(inode) {
			t.Errorf("its own message was taken for another's: %s", f.Title)
		}
	}
	b := runCheck(t, "--observe", "0")
	f := b.finding("table-was-full")
	if f == nil {
		t.Fatalf("the host's check says nothing of a full namespace: %q", b.codes())
	}
	if said := f.Title + strings.Join(f.Evidence, " "); !strings.Contains(said, s.Host.Name) {
		t.Errorf("the host's check does not name %s: %s", s.Host.Name, said)
	}
}

// A busy and healthy machine: bulk transfers, a receiver that reads nothing, a
// lossy line, an exchange now and then. Nothing to warn of, and nothing idle.
func TestCheckLeavesHealthyMachineAlone(t *testing.T) {
	lab.Require(t, "conntrack")
	lab.ExclusiveLimits(t).SetMax(2000)
	pair := lab.Server(t)
	server, client := pair.Server, pair.Client
	server.ServeTCP(80, lab.Echo)
	server.ServeTCP(81, lab.Flow)
	connect := func(port uint16, n int, o ...lab.SocketOption) []net.Conn {
		c, err := client.Connect(t.Context(), netip.AddrPortFrom(server.Addr4, port), client.Sources4, n, o...)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	chats := connect(80, 1200)
	background(t, func(ctx context.Context) (lab.Moved, error) { return lab.Chat(ctx, chats, 700*time.Millisecond) })
	bulk := connect(81, 4)
	background(t, func(ctx context.Context) (lab.Moved, error) { return lab.Drain(ctx, bulk) })
	connect(81, 4, lab.SmallWindow) // nobody reads: the window closes
	client.Lose(3, 81)
	time.Sleep(1500 * time.Millisecond)
	a := runCheck(t, "--netns", server.Name, "--full", "--log", emptyLog)
	expectHealthy(t, a)
	var shortened int
	for _, line := range server.ConntrackList("-p", "tcp") {
		if fields := strings.Fields(line); len(fields) > 3 && fields[3] == "ESTABLISHED" && len(fields[2]) <= 3 {
			shortened++
		}
	}
	if shortened == 0 {
		t.Error("no transfer carries a shortened timeout: this proves nothing of them")
	}
}

// A healthy server at the stock limits, with more kinds of misleading flows.
func TestCheckLeavesHealthySceneAlone(t *testing.T) {
	s := scene.Healthy(t)
	time.Sleep(time.Second)
	expectHealthy(t, runCheck(t, "--netns", s.Host.Name, "--full", "--log", emptyLog))
}

func expectHealthy(t *testing.T, a *answer) {
	t.Helper()
	if a.code != ExitOK {
		t.Errorf("exit code %d for a healthy machine: %q", a.code, a.codes())
	}
	for _, f := range a.Findings {
		if f.Severity >= report.Warning {
			t.Errorf("%s %s: %s", f.Severity, f.Code, f.Title)
		}
	}
	if a.Verdict.Cause != report.CauseNone {
		t.Errorf("cause %s, want none", a.Verdict.Cause)
	}
	for _, cl := range a.Snapshot.Census.Classes {
		if slices.Max(cl.IdleOver[:]) > 0 && cl.Proto == ct.TCP && cl.State == ct.TCPEstablished {
			t.Errorf("%v of the established flows in use are called idle", cl.IdleOver)
		}
	}
}

// Without rights the count, the limit and the counters are there, the entries
// are not, and all that is missing is said.
func TestCheckUnprivileged(t *testing.T) {
	lab.Require(t)
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(dir, "ctwarden")
	build := exec.Command("go", "build", "-o", bin, "../../cmd/ctwarden")
	if b, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	h := lab.NewHost(t, "nobody")
	h.Track()
	h.Fill(lab.Class{Count: 500, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	const nobody = 65534
	for name, how := range map[string]struct {
		args []string
		uid  uint32
	}{
		"as nobody":            {[]string{"check", "--json", "--observe", "100ms"}, nobody},
		"with /proc/sys bound": {[]string{"check", "--json", "--observe", "100ms", "--log", emptyLog}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(bin, how.args...)
			if how.uid == 0 {
				cmd = exec.Command("unshare", append([]string{"-m", "sh", "-c", `mount -o bind,ro /proc/sys /proc/sys && exec "$0" "$@"`, bin}, how.args...)...)
			} else {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: how.uid, Gid: how.uid}}
			}
			var out, errOut bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errOut
			if err := h.Do(cmd.Run); err != nil && cmd.ProcessState.ExitCode() != ExitFound {
				t.Fatalf("%v: %s", err, &errOut)
			}
			validate(t, out.Bytes())
			var a answer
			if err := json.Unmarshal(out.Bytes(), &a); err != nil {
				t.Fatal(err)
			}
			if n := a.Snapshot.Limits.Count; n.N != 500 {
				t.Errorf("count %+v, want 500", n)
			}
			if !a.Snapshot.Limits.Max.Known || a.Snapshot.Counters.Has == 0 {
				t.Error("max and counters can be read by anybody, and were not")
			}
			if sees := a.Snapshot.Census != nil; sees != (how.uid == 0) {
				t.Errorf("entries read: %t", sees)
			}
			if blind := a.finding("cannot-see") != nil; blind != (how.uid != 0) {
				t.Errorf("cannot-see raised: %t; %v", blind, a.Blind)
			}
		})
	}
}
