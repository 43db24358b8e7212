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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
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
	t.Logf("exit %d: %s (%s, %s)", code, a.Verdict.Text, a.Verdict.Cause, a.Verdict.Confidence)
	return a
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

// waitCount waits until a table holds n entries.
func waitCount(t *testing.T, h *lab.Host, n int) {
	t.Helper()
	for range 400 {
		if h.Count() >= n {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("the table of %s holds %d entries after ten seconds, want %d", h.Name, h.Count(), n)
}

// A flood of SYNs from forged addresses at a table of 5,000 entries in 262,144
// buckets: the kernel mostly finds nothing to evict.
func TestCheckNamesSpoofedSYNFlood(t *testing.T) {
	lab.Require(t, "conntrack")
	limits := lab.ExclusiveLimits(t)
	limits.SetMax(5000)
	net0 := lab.Server(t)
	server, client := net0.Server, net0.Client
	server.Hold(80, 4096)
	target := netip.AddrPortFrom(server.Addr4, 80)
	stop := background(t, func(ctx context.Context) (lab.Sent, error) {
		return client.SYNFlood(ctx, target, client.Spoof4, lab.Load{Packets: 400_000, PerSecond: 10_000, Duration: 30 * time.Second})
	})
	waitCount(t, server, 5000)
	before := server.ConntrackStats()
	a := runCheck(t, "--netns", server.Name)
	after := server.ConntrackStats()
	sent := stop()

	a.expect(t, report.CauseAttack, "flood-syn")
	if strings.Contains(a.Verdict.Text, "10.2.") || strings.Contains(a.Verdict.Text, "10.3.") {
		t.Errorf("a forged address was named: %s", a.Verdict.Text)
	}
	if f := a.finding("flood-syn"); f != nil && (f.Figures["destination"] != server.Addr4.String() || f.Figures["destination_port"] != 80.0) {
		t.Errorf("target %v, want %s", f.Figures, target)
	}
	if a.finding("early-drop-defeated") == nil {
		t.Fatalf("the buckets were not blamed: %q", a.codes())
	}
	// The counters go on between the readings of conntrack, so they are bounds.
	refused, evicted := a.figure(t, "table-full", "refused_packets"), a.figure(t, "table-full", "evicted_entries")
	if most := float64(after["drop"] - before["drop"]); refused <= 0 || refused > most {
		t.Errorf("refused %v, conntrack -S saw %v around it", refused, most)
	}
	if most := float64(after["early_drop"] - before["early_drop"]); evicted <= 0 || evicted > most {
		t.Errorf("evicted %v, conntrack -S saw %v around it", evicted, most)
	}
	if all := after["drop"] + after["early_drop"]; all > sent.Packets+5000 {
		t.Errorf("%d refused and evicted of %d packets sent", all, sent.Packets)
	}
	odds, seen := a.figure(t, "early-drop-defeated", "odds"), evicted/(evicted+refused)
	if math.Abs(odds-seen) > 0.06 {
		t.Errorf("odds of admission %.3f, seen %.3f", odds, seen)
	}
	if share := a.figure(t, "flood-syn", "share"); share < 0.95 {
		t.Errorf("half-open share %.2f of a table that the flood filled alone", share)
	}
}

// Handshakes that are finished and then left idle: nothing can be evicted.
func TestCheckNamesIdleHandshakes(t *testing.T) {
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
	waitCount(t, server, 3000)
	stop := background(t, func(ctx context.Context) (lab.Sent, error) {
		return client.SYNFlood(ctx, netip.AddrPortFrom(server.Addr4, 80), client.Spoof4, lab.Load{Packets: 1000, PerSecond: 100, Duration: 10 * time.Second})
	})
	a := runCheck(t, "--netns", server.Name)
	stop()
	a.expect(t, report.CauseAttack, "flood-assured")
	f := a.finding("flood-assured")
	if f == nil {
		return
	}
	if f.Figures["source"] != culprit.Addr().String() {
		t.Errorf("source %v, want %s", f.Figures["source"], culprit)
	}
	listed := len(server.ConntrackList("-s", culprit.Addr().String()))
	if got := a.figure(t, "one-source", "entries"); listed != made || math.Abs(got-float64(made)) > 30 {
		t.Errorf("%v entries of the source; the generator made %d, conntrack -L has %d", got, made, listed)
	}
	if n := a.figure(t, "table-full", "refused_packets"); n < 50 {
		t.Errorf("%v packets refused, of 100 a second for two seconds and more", n)
	}
}

// One host inside scans outward through a gateway that translates.
func TestCheckNamesScannerBehindGateway(t *testing.T) {
	lab.Require(t, "conntrack")
	lab.ExclusiveLimits(t).SetMax(8000)
	r := lab.Gateway(t)
	culprit := netip.MustParseAddr("10.0.3.7")
	if !r.Inside.Sources4.Contains(culprit) {
		t.Fatalf("%s is not inside", culprit)
	}
	r.Outside.ServeTCP(80, lab.Echo)
	if _, err := r.Inside.Connect(t.Context(), netip.AddrPortFrom(r.Outside.Addr4, 80), netip.MustParsePrefix("10.0.200.0/26"), 300); err != nil {
		t.Fatal(err)
	}
	stop := background(t, func(ctx context.Context) (lab.Sent, error) {
		return r.Inside.Scan(ctx, culprit, r.Outside.Spoof4, []uint16{23}, lab.Load{Packets: 60_000, PerSecond: 4000, Duration: 30 * time.Second})
	})
	waitCount(t, r.Gateway, 7980)
	a := runCheck(t, "--netns", r.Gateway.Name, "--full")
	listed := len(r.Gateway.ConntrackList("-s", culprit.String()))
	stop()
	a.expect(t, report.CauseScan, "scan-outbound")
	f := a.finding("scan-outbound")
	if f == nil {
		return
	}
	if f.Figures["source"] != culprit.String() || f.Figures["port"] != 23.0 {
		t.Errorf("figures %v, want source %s and port 23", f.Figures, culprit)
	}
	if n := a.figure(t, "scan-outbound", "entries"); math.Abs(n-float64(listed)) > 0.05*float64(listed) {
		t.Errorf("%v entries of the scanner, conntrack -L has %d", n, listed)
	}
	if a.Snapshot.Tracking.NAT != ct.Yes {
		t.Error("the gateway translates, and this was not seen")
	}
}

// DNS queries from one host inside, each from a port of its own, all answered.
func TestCheckNamesDNSChurn(t *testing.T) {
	lab.Require(t, "conntrack")
	lab.ExclusiveLimits(t).SetMax(6000)
	r := lab.Gateway(t)
	r.Outside.ServeDNS(53)
	culprit := netip.MustParseAddr("10.0.3.9")
	stop := background(t, func(ctx context.Context) (lab.Churned, error) {
		return r.Inside.DNSChurn(ctx, netip.AddrPortFrom(r.Outside.Addr4, 53), netip.PrefixFrom(culprit, 32),
			lab.Load{Packets: 40_000, PerSecond: 2000, Duration: 30 * time.Second})
	})
	waitCount(t, r.Gateway, 5990)
	a := runCheck(t, "--netns", r.Gateway.Name)
	stop()
	a.expect(t, report.CauseChurn, "dns-churn")
	if f := a.finding("dns-churn"); f != nil && f.Figures["source"] != culprit.String() {
		t.Errorf("source %v, want %s", f.Figures["source"], culprit)
	}
	if n := a.figure(t, "table-full", "evicted_entries"); n < 1000 {
		t.Errorf("%v entries evicted at 2,000 queries a second", n)
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
	a := runCheck(t, "--netns", server.Name, "--observe", "500ms")
	if a.finding("table-near-full") == nil || a.Verdict.Cause != report.CauseGrowth {
		t.Errorf("cause %s of %q, want growth of a table that is nearly full", a.Verdict.Cause, a.codes())
	}
	server.Fill(lab.Class{Count: 20000, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured,
		Sources: client.Sources4, Port: 8443})
	stop := background(t, func(ctx context.Context) (lab.Sent, error) {
		return client.SYNFlood(ctx, netip.AddrPortFrom(server.Addr4, 443), client.Spoof4, lab.Load{Packets: 2000, PerSecond: 200, Duration: 10 * time.Second})
	})
	a = runCheck(t, "--netns", server.Name)
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
	a := runCheck(t, "--netns", server.Name, "--full")
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
	var shortened int
	for _, line := range server.ConntrackList("-p", "tcp") {
		if fields := strings.Fields(line); len(fields) > 3 && fields[3] == "ESTABLISHED" && len(fields[2]) <= 3 {
			shortened++
		}
	}
	if shortened == 0 {
		t.Error("no transfer carries a shortened timeout: this proves nothing of them")
	}
	for _, cl := range a.Snapshot.Census.Classes {
		if slices.Max(cl.IdleOver[:]) > 0 && cl.Proto == ct.TCP && cl.State == ct.TCPEstablished {
			t.Errorf("%v of the established flows in use are called idle", cl.IdleOver)
		}
	}
}
