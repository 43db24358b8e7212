package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// said is what a command line printed, and how it ended.
type said struct {
	code     int
	out, err string
}

// ctw runs a command line in this process.
func ctw(t *testing.T, args ...string) said {
	t.Helper()
	var out, errOut bytes.Buffer
	env := &Env{Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut,
		Getenv: func(string) string { return "" }, Now: time.Now, Width: 80}
	code := Run(t.Context(), env)
	return said{code, out.String(), errOut.String()}
}

// evicts runs evict with a state directory of the test's own and returns the
// report.
func evicts(t *testing.T, h *lab.Host, state string, args ...string) (evictReport, said) {
	t.Helper()
	s := ctw(t, append([]string{"evict", "--json", "--netns", h.Name, "--state-dir", state}, args...)...)
	var r evictReport
	if s.out != "" {
		if err := json.Unmarshal([]byte(s.out), &r); err != nil {
			t.Fatalf("%v\n%s", err, s.out)
		}
	}
	return r, s
}

// leftField is the timeout in a line of conntrack -L, with or without the
// family in front.
var leftField = regexp.MustCompile(`^((?:ipv\d +\d+ +)?\S+ +\d+ )(\d+) `)

// table reads the lines of conntrack -L: timeouts by the rest of the line.
func conntrackTable(h *lab.Host) map[string]int {
	m := map[string]int{}
	for _, l := range h.ConntrackList() {
		f := leftField.FindStringSubmatch(l)
		if f == nil {
			continue
		}
		n, _ := strconv.Atoi(f[2])
		m[strings.Replace(l, f[0], f[1], 1)] = n
	}
	return m
}

var mixed = []lab.Class{
	{Count: 1000, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, TimeoutSeconds: 100000},
	{Count: 500, State: ct.TCPSynSent, TimeoutSeconds: 100, Sources: netip.MustParsePrefix("10.2.0.0/16")},
	{Count: 300, Proto: ct.UDP, TimeoutSeconds: 25, Sources: netip.MustParsePrefix("10.1.128.0/17")},
	{Count: 200, Proto: ct.UDP, TimeoutSeconds: 25, Mark: 7, Sources: netip.MustParsePrefix("10.3.0.0/16")},
	{Count: 100, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, Sources: netip.MustParsePrefix("2001:db8:5::/64"), Targets: netip.MustParsePrefix("2001:db8::1/128")},
}

func TestEvictAgainstConntrack(t *testing.T) {
	lab.Require(t, "conntrack")
	h := lab.NewHost(t, "evict")
	h.Fill(mixed...)
	state := t.TempDir()
	before := conntrackTable(h)

	for _, refused := range [][]string{{"--yes"}, {"--where", "true", "--yes"}, {"-s", "10.0.0.0/33", "--yes"},
		{"-p", "tcp", "--soft", "10ms", "--yes"}, {"-p", "tcp", "--force", "all", "--yes"}} {
		if _, s := evicts(t, h, state, refused...); s.code != ExitFailed {
			t.Errorf("%q: exit code %d", refused, s.code)
		}
	}
	if r, s := evicts(t, h, state, "-s", "10.1.0.0/16"); s.code != ExitFound || r.Done || r.Selected != 1300 {
		t.Errorf("without --yes: code %d, %d selected, done %v", s.code, r.Selected, r.Done)
	}
	if got := conntrackTable(h); len(got) != len(before) {
		t.Fatalf("%d entries before, %d after nothing was to be done", len(before), len(got))
	}
	if _, err := os.Stat(filepath.Join(state, "journal.jsonl")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was recorded though nothing was done: %v", err)
	}

	r, s := evicts(t, h, state, "-s", "10.1.0.0/16", "--yes")
	if s.code != ExitOK || !r.Done || r.Changed != 1300 || r.Refused != 0 {
		t.Fatalf("code %d, report %+v\n%s", s.code, r, s.err)
	}
	wantGone(t, before, conntrackTable(h), "src=10.1.")

	// A mark spares its entries until it is named.
	if r, _ := evicts(t, h, state, "-m", "7", "--yes"); r.Selected != 0 || r.Spared["mark"] != 200 {
		t.Errorf("marked entries: %d selected, spared %v", r.Selected, r.Spared)
	}
	if r, _ := evicts(t, h, state, "-m", "7", "--force", "mark", "--limit", "50", "--rate", "500", "--yes"); r.Changed != 50 {
		t.Errorf("limit 50: %d deleted", r.Changed)
	}
	if r, _ := evicts(t, h, state, "-f", "ipv6", "--yes"); r.Changed != 100 {
		t.Errorf("IPv6: %d deleted", r.Changed)
	}
}

// wantGone compares two readings of conntrack: exactly the lines with a part
// are gone, and no timeout of the others was touched.
func wantGone(t *testing.T, before, after map[string]int, part string) {
	t.Helper()
	for l, left := range before {
		now, there := after[l]
		switch gone := strings.Contains(l[:min(len(l), 90)], part); {
		case gone == there:
			t.Errorf("still there %v: %s", there, l)
		case there && (now > left || now < left-15):
			t.Errorf("timeout went from %d to %d: %s", left, now, l)
		}
	}
	for l := range after {
		if _, was := before[l]; !was {
			t.Errorf("new: %s", l)
		}
	}
}

func TestSoftEvictAgainstConntrack(t *testing.T) {
	lab.Require(t, "conntrack")
	h := lab.NewHost(t, "soft")
	h.Fill(mixed...)
	state := t.TempDir()
	before := conntrackTable(h)
	r, s := evicts(t, h, state, "-p", "tcp", "-s", "10.1.0.0/16", "--soft", "60s", "--no-wait", "--yes")
	if s.code != ExitOK || r.Changed != 1000 || r.Action != "shorten" {
		t.Fatalf("code %d, %+v\n%s", s.code, r, s.err)
	}
	after := conntrackTable(h)
	for l, left := range after {
		if tcp := strings.Contains(l, "tcp") && strings.Contains(l, "src=10.1."); tcp && left > 60 || !tcp && left < before[l]-15 {
			t.Errorf("%d left, %d before: %s", left, before[l], l)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d entries before, %d after", len(before), len(after))
	}

	// What is left of these timeouts is ours now, and tells nothing of silence.
	if r, _ := evicts(t, h, state, "-s", "10.1.0.0/16", "--where", "idle_min > 10s && proto == \"tcp\"", "--yes"); r.Selected != 0 {
		t.Errorf("%d entries selected by a timeout that eviction had set", r.Selected)
	}

	s = ctw(t, "evict", "--netns", h.Name, "--state-dir", state, "--undo", r.ID)
	if s.code != ExitOK || !strings.Contains(s.out, "1000 entries have their timeouts back") {
		t.Fatalf("undo: code %d\n%s%s", s.code, s.out, s.err)
	}
	for l, left := range conntrackTable(h) {
		if left > before[l] || left < before[l]-20 {
			t.Errorf("%d left after undo, %d before: %s", left, before[l], l)
		}
	}
	if s = ctw(t, "evict", "--netns", h.Name, "--state-dir", state, "--undo", r.ID); s.code != ExitFailed {
		t.Errorf("undone twice: %s", s.out)
	}

	r, _ = evicts(t, h, state, "-p", "tcp", "-s", "10.1.0.0/16", "--soft", "1s", "--yes")
	if r.Survived == nil || *r.Survived != 0 || r.Changed != 1000 {
		t.Errorf("%+v", r)
	}
	for l := range conntrackTable(h) {
		if strings.Contains(l, "src=10.1.") && strings.Contains(l, "tcp") {
			t.Errorf("still there: %s", l)
		}
	}
}

// TestSoftEvictCountsSurvivors: of few of many, which are asked for one by one,
// and of most, which are found by a dump; entries beyond --limit do not count.
func TestSoftEvictCountsSurvivors(t *testing.T) {
	lab.Require(t)
	p := lab.Server(t)
	p.Server.ServeUDP(9)
	conns, err := p.Client.ConnectUDP(netip.AddrPortFrom(p.Server.Addr4, 9), p.Client.Sources4, 2)
	if err != nil {
		t.Fatal(err)
	}
	p.Server.Fill(lab.Class{Count: 2000, State: ct.TCPEstablished, Sources: netip.MustParsePrefix("10.77.0.0/16")})
	for _, args := range [][]string{{"-p", "udp"}, {"--where", "true", "--force", "whole-table"}} {
		chat := lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Chat(ctx, conns, 200*time.Millisecond) })
		time.Sleep(500 * time.Millisecond)
		p.Server.TryFill(lab.Class{Count: 20, Proto: ct.UDP, Sources: netip.MustParsePrefix("10.78.0.0/16")})
		r, s := evicts(t, p.Server, t.TempDir(), append(args, "--soft", "1s", "--yes")...)
		chat.Stop()
		if s.code != ExitOK || r.Changed < 22 || r.Survived == nil || *r.Survived != 2 {
			t.Errorf("%q: code %d, %d changed, %v survived, want 2\n%s", args, s.code, r.Changed, r.Survived, s.err)
		}
	}
	p.Server.Fill(lab.Class{Count: 50, Proto: ct.UDP, Sources: netip.MustParsePrefix("10.79.0.0/16")})
	r, s := evicts(t, p.Server, t.TempDir(), "-s", "10.79.0.0/16", "--limit", "10", "--soft", "1s", "--yes")
	if s.code != ExitOK || r.Changed != 10 || r.Survived == nil || *r.Survived != 0 {
		t.Errorf("--limit 10: code %d, %+v\n%s", s.code, r, s.err)
	}
}

// TestLiveConnectionsSurvive: connections in use through a masquerading
// gateway, whose entries look days old if idleness is what is missing from the
// configured timeout, live through a soft eviction of idle entries.
func TestLiveConnectionsSurvive(t *testing.T) {
	lab.Require(t, "conntrack")
	g := lab.Gateway(t)
	const bulk, chat, lossy, stalled = 9001, 9002, 9003, 9004
	g.Outside.ServeTCP(bulk, lab.Discard)
	g.Outside.ServeTCP(chat, lab.Echo)
	g.Outside.ServeTCP(lossy, lab.Discard)
	open := make(chan struct{})
	received := make(chan int64, 1)
	g.Outside.ServeTCP(stalled, func(c net.Conn) {
		<-open // until then the window fills and closes
		n, _ := io.Copy(io.Discard, c)
		received <- n
	})
	connect := func(port uint16, n int) []net.Conn {
		conns, err := g.Inside.Connect(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), port), g.Inside.Sources4, n)
		if err != nil {
			t.Fatal(err)
		}
		return conns
	}
	bulkConns, chatConns, lossyConns, stalledConns := connect(bulk, 3), connect(chat, 5), connect(lossy, 2), connect(stalled, 1)
	g.Gateway.Throttle(100)
	g.Outside.Lose(20, lossy)
	upload := lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Upload(ctx, bulkConns) })
	losing := lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Upload(ctx, lossyConns) })
	talk := lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Chat(ctx, chatConns, 300*time.Millisecond) })
	written := make(chan int64, 1)
	go func() { written <- fill(stalledConns[0], 8<<20) }()

	g.Gateway.Fill(lab.Class{Count: 400, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured,
		TimeoutSeconds: 100000, Sources: netip.MustParsePrefix("10.77.0.0/16"), Targets: netip.MustParsePrefix("198.18.5.0/24"),
		SNAT: netip.MustParseAddr("203.0.113.254")})
	time.Sleep(3 * time.Second)

	naive := map[string]bool{}
	for range 5 {
		for l, left := range conntrackTable(g.Gateway) {
			if strings.Contains(l, "ESTABLISHED") && strings.Contains(l, "dport=900") && 432000-left > 3600 {
				naive[l] = true
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	if len(naive) < 3 {
		t.Errorf("only %d live connections look idle: the test proves little", len(naive))
	}

	r, s := evicts(t, g.Gateway, t.TempDir(), "-p", "tcp", "--where", "idle_min > 1h", "--soft", "2s", "--yes")
	if s.code != ExitOK || r.Changed != 400 || r.Translated != 400 || r.Survived == nil || *r.Survived != 0 {
		t.Errorf("code %d, %+v\n%s", s.code, r, s.err)
	}
	time.Sleep(time.Second)
	close(open)
	up, lost, said := upload.Stop(), losing.Stop(), talk.Stop()
	if up.Broken+lost.Broken+said.Broken > 0 || up.Bytes == 0 || said.Messages < 20 {
		t.Errorf("bulk %+v, lossy %+v, interactive %+v", up, lost, said)
	}
	select {
	case n := <-received:
		if w := <-written; n != w {
			t.Errorf("the stalled connection delivered %d of %d bytes", n, w)
		}
	case <-time.After(30 * time.Second):
		t.Error("the stalled connection did not come back to life")
	}
}

// fill writes to a connection, waiting where the peer does not take it, and
// closes it.
func fill(c net.Conn, n int) (written int64) {
	defer c.Close()
	k, _ := c.Write(make([]byte, n))
	return int64(k)
}

// TestIdleOutboundSurvives: behind rules that drop what no entry accounts for,
// the peer of a silent outbound connection could never speak first again.
func TestIdleOutboundSurvives(t *testing.T) {
	lab.Require(t, "conntrack")
	p := lab.Server(t)
	p.Server.NFT(`table inet strict {
		chain in {
			type filter hook input priority 0; policy drop;
			ct state established,related accept
			icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		}
	}`)
	speak := make(chan struct{})
	p.Client.ServeTCP(7000, func(c net.Conn) {
		<-speak
		c.Write([]byte("push"))
	})
	c, err := p.Server.Dial(t.Context(), netip.AddrPortFrom(p.Client.Addr4, 7000), p.Server.Addr4, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.Sleep(4 * time.Second)
	state := t.TempDir()
	r, s := evicts(t, p.Server, state, "-p", "tcp", "--where", "idle_min > 2s", "--soft", "1s", "--yes")
	if s.code != ExitOK || r.Changed != 0 || r.Spared["own"] != 1 {
		t.Errorf("code %d, %+v\n%s", s.code, r, s.err)
	}
	// Named, it is selected, and the preview says what that would cost.
	forced := ctw(t, "evict", "--netns", p.Server.Name, "--state-dir", state, "-p", "tcp", "--where", "idle_min > 2s", "--force", "own")
	if forced.code != ExitFound || !strings.Contains(forced.out, "a chain drops what no rule accepts") {
		t.Errorf("code %d\n%s", forced.code, forced.out)
	}
	close(speak)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "push" {
		t.Errorf("heard %q, %v", got, err)
	}
}

// TestSSHIsSpared runs a real SSH server on a port of its own.
func TestSSHIsSpared(t *testing.T) {
	lab.Require(t, "sshd", "ssh-keygen")
	p := lab.Server(t)
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	os.MkdirAll("/run/sshd", 0o755)
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		t.Fatal(err)
	}
	p.Server.Start(exec.Command(sshd, "-D", "-f", "/dev/null", "-p", "2222", "-h", key, "-o", "PidFile=none"))
	p.Server.ServeTCP(8080, lab.Echo)
	dial := func(port uint16) net.Conn {
		deadline := time.Now().Add(10 * time.Second)
		for {
			c, err := p.Client.Dial(t.Context(), netip.AddrPortFrom(p.Server.Addr4, port), p.Client.Addr4, time.Second)
			if err == nil {
				t.Cleanup(func() { c.Close() })
				return c
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	ssh, web := dial(2222), dial(8080)
	if _, err := ssh.Read(make([]byte, 20)); err != nil { // its banner
		t.Fatal(err)
	}
	r, s := evicts(t, p.Server, dir, "-p", "tcp", "--yes")
	if s.code != ExitOK || r.Spared["ssh"] != 1 || r.Spared["ssh-peer"] != 1 || r.Changed != 0 {
		t.Errorf("code %d, %+v\n%s", s.code, r, s.err)
	}
	r, _ = evicts(t, p.Server, dir, "-p", "tcp", "--force", "ssh-peer", "--yes")
	if r.Spared["ssh"] != 1 || r.Changed != 1 {
		t.Errorf("%+v", r)
	}
	left := p.Server.ConntrackList("-p", "tcp")
	if !slices.ContainsFunc(left, func(l string) bool { return strings.Contains(l, "dport=2222") }) ||
		slices.ContainsFunc(left, func(l string) bool { return strings.Contains(l, "dport=8080") }) {
		t.Errorf("left: %q", left)
	}
	web.Close()
}

// TestTypedConfirmation: on a terminal the number of entries must be typed in.
// TestMovedWhileAsked: an idle connection that moves while a person reads the
// preview is left alone.
func TestMovedWhileAsked(t *testing.T) {
	lab.Require(t, "conntrack")
	h := lab.NewHost(t, "asked")
	h.Fill(lab.Class{Count: 30, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, TimeoutSeconds: 1000})
	source := regexp.MustCompile(`src=(\S+)`).FindStringSubmatch(h.ConntrackList()[0])[1]
	answer, typed := io.Pipe()
	out := &prompted{text: "Type 30", seen: make(chan struct{})}
	env := &Env{Args: []string{"evict", "--where", "idle_min > 1m", "--netns", h.Name, "--state-dir", t.TempDir()}, Stdin: answer, StdinTTY: true,
		Stdout: out, Stderr: out, Getenv: func(string) string { return "" }, Now: time.Now, Width: 80}
	go func() {
		<-out.seen
		h.TryExec("conntrack", "-U", "-f", "ipv4", "-s", source, "-t", "432000")
		typed.Write([]byte("30\n"))
	}()
	if code := Run(t.Context(), env); code != ExitOK || h.Count() != 1 || !strings.Contains(out.String(), "1 have moved meanwhile") {
		t.Errorf("code %d, %d entries left, want 1\n%s", code, h.Count(), out)
	}
}

// prompted keeps what is written and says when a text has come.
type prompted struct {
	bytes.Buffer
	text string
	seen chan struct{}
}

func (p *prompted) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(p.text)) {
		close(p.seen)
	}
	return p.Buffer.Write(b)
}

func TestTypedConfirmation(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "typed")
	h.Fill(lab.Class{Count: 30, Proto: ct.UDP, TimeoutSeconds: 500})
	ask := func(ctx context.Context, stdin io.Reader) (int, string) {
		var out bytes.Buffer
		env := &Env{Args: []string{"evict", "-p", "udp", "--netns", h.Name, "--state-dir", t.TempDir()}, Stdin: stdin, StdinTTY: true,
			Stdout: &out, Stderr: &out, Getenv: func(string) string { return "" }, Now: time.Now, Width: 80}
		return Run(ctx, env), out.String()
	}
	for _, typed := range []string{"", "\n", "y\n", "29\n", "yes\n"} {
		if code, out := ask(t.Context(), strings.NewReader(typed)); code != ExitFound || !strings.Contains(out, "Type 30 to go ahead") || h.Count() != 30 {
			t.Errorf("%q: code %d, %d entries\n%s", typed, code, h.Count(), out)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	silent, _ := io.Pipe()
	if code, _ := ask(ctx, silent); code != ExitFailed || h.Count() != 30 {
		t.Errorf("interrupted: code %d, %d entries", code, h.Count())
	}
	if code, out := ask(t.Context(), strings.NewReader("30\n")); code != ExitOK || h.Count() != 0 {
		t.Errorf("code %d, %d entries\n%s", code, h.Count(), out)
	}
}
