package cli

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// validSchema holds a document against a schema; part is "" or the path of a
// definition in it.
func validSchema(t *testing.T, schema, part, text string) {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile("../../docs/schema/" + schema + ".json" + part)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%.500s", err, text)
	}
	if err := s.Validate(doc); err != nil {
		t.Errorf("not as %s%s says: %v\n%.500s", schema, part, err, text)
	}
}

// listed is what list --json printed.
type listed struct {
	Entries []struct {
		Proto string
		Orig  struct{ Src, Dst string }
	}
	Groups []struct {
		Key     []string
		Entries int
	}
	Summary listSummary
}

func list(t *testing.T, h *lab.Host, args ...string) listed {
	t.Helper()
	s := ctw(t, append([]string{"list", "--json", "--netns", h.Name}, args...)...)
	if s.code != ExitOK {
		t.Fatalf("%q: code %d: %s", args, s.code, s.err)
	}
	validSchema(t, "list", "", s.out)
	var l listed
	if err := json.Unmarshal([]byte(s.out), &l); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestListAgainstConntrack compares selections that both tools can make.
func TestListAgainstConntrack(t *testing.T) {
	lab.Require(t, "conntrack")
	h := lab.NewHost(t, "list")
	h.Fill(mixed...)
	for _, args := range [][]string{
		{"-f", "ipv4"}, {"-f", "ipv6"}, {"-p", "tcp"}, {"-p", "udp"}, {"-p", "tcp", "--state", "SYN_SENT"},
		{"-s", "10.1.0.7"}, {"-d", "192.0.2.1"}, {"-m", "7"}, {"-m", "0x4/0x4"}, {"-u", "ASSURED"},
		{"-p", "tcp", "--dport", "443"}, {"-p", "udp", "--dport", "53"}, {"-p", "udp", "--dport", "54"},
	} {
		both := []string{"-o", "extended"}
		var theirs []string
		for _, l := range h.ConntrackList(append(both, args...)...) {
			theirs = append(theirs, leftField.ReplaceAllString(l, "$1"))
		}
		s := ctw(t, append([]string{"list", "-o", "conntrack", "--netns", h.Name}, args...)...)
		var ours []string
		for l := range strings.Lines(s.out) {
			ours = append(ours, leftField.ReplaceAllString(strings.TrimSuffix(l, "\n"), "$1"))
		}
		slices.Sort(theirs)
		slices.Sort(ours)
		if !slices.Equal(ours, theirs) {
			t.Errorf("%q: %d lines, conntrack has %d", args, len(ours), len(theirs))
		}
	}
}

func TestListForms(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "forms")
	h.Fill(mixed...)
	if l := list(t, h); len(l.Entries) != 2100 || l.Summary.Shown != 2100 || l.Summary.Received != 2100 {
		t.Errorf("%d entries, %+v", len(l.Entries), l.Summary)
	}
	if l := list(t, h, "--where", `proto == "udp" && mark == 0 && src in 10.1.0.0/16`); len(l.Entries) != 300 {
		t.Errorf("%d entries of 300", len(l.Entries))
	}
	if l := list(t, h, "--where", `idle_min > 1h && family == "ipv4"`); len(l.Entries) != 1000 {
		t.Errorf("%d idle entries of 1000", len(l.Entries))
	}
	if l := list(t, h, "--where", `assured && unreplied`); len(l.Entries) != 0 {
		t.Errorf("a contradiction shows %d entries", len(l.Entries))
	}
	if l := list(t, h, "--top", "10"); len(l.Entries) != 10 || !l.Summary.Stopped {
		t.Errorf("--top 10: %d entries, %+v", len(l.Entries), l.Summary)
	}
	if l := list(t, h, "--sort", "-timeout", "--top", "3"); len(l.Entries) != 3 || l.Entries[0].Proto != "udp" {
		t.Errorf("--sort -timeout: %+v", l.Entries)
	}
	by := list(t, h, "--by", "proto,src/16")
	want := map[string]int{"tcp 10.1.0.0/16": 1000, "tcp 10.2.0.0/16": 500, "udp 10.1.0.0/16": 300, "udp 10.3.0.0/16": 200, "tcp 2001:db8:5::/64": 100}
	for _, g := range by.Groups {
		if k := strings.Join(g.Key, " "); want[k] != g.Entries {
			t.Errorf("%s: %d entries, want %d", k, g.Entries, want[k])
		}
	}
	if len(by.Groups) != len(want) || by.Summary.Groups != len(want) {
		t.Errorf("%d groups, want %d", len(by.Groups), len(want))
	}
	for _, args := range [][]string{{"-o", "csv"}, {"-o", "csv", "--by", "src", "--top", "5"}} {
		s := ctw(t, append([]string{"list", "--netns", h.Name}, args...)...)
		rows, err := csv.NewReader(strings.NewReader(s.out)).ReadAll()
		if want := map[int]int{2: 2101, 6: 6}[len(args)]; err != nil || len(rows) != want {
			t.Errorf("%q: %d rows, want %d, %v", args, len(rows), want, err)
		}
	}
	for _, wrong := range [][]string{{"--by", "colour"}, {"--sort", "src", "--top", "3"}, {"--sort", "bytes"}, {"-o", "xml"},
		{"--by", "src", "-o", "conntrack"}, {"--by", "src", "--sort", "name"}, {"--top", "-1"}, {"--netns", "no-such"}} {
		if s := ctw(t, append([]string{"list", "--netns", h.Name}, wrong...)...); s.code != ExitFailed || s.err == "" {
			t.Errorf("%q: code %d, %q", wrong, s.code, s.err)
		}
	}
}

// TestListZones reads both families and all zones without being asked to.
func TestListZones(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "zones")
	h.Fill(lab.Class{Count: 5, Proto: ct.UDP, Zone: 9}, lab.Class{Count: 4, Proto: ct.UDP})
	if l := list(t, h); len(l.Entries) != 9 {
		t.Errorf("%d entries of 9", len(l.Entries))
	}
	if l := list(t, h, "-w", "9"); len(l.Entries) != 5 {
		t.Errorf("%d entries of 5 in zone 9", len(l.Entries))
	}
	if l := list(t, h, "-w", "0"); len(l.Entries) != 4 {
		t.Errorf("%d entries of 4 in no zone", len(l.Entries))
	}
}

// TestListProcess finds the process at the local end.
func TestListProcess(t *testing.T) {
	lab.Require(t)
	p := lab.Server(t)
	p.Server.ServeTCP(8080, lab.Echo) // in this process
	if _, err := p.Client.Connect(t.Context(), netip.AddrPortFrom(p.Server.Addr4, 8080), p.Client.Sources4, 3); err != nil {
		t.Fatal(err)
	}
	l := list(t, p.Server, "--by", "process,dport")
	if len(l.Groups) != 1 || l.Groups[0].Entries != 3 || !strings.HasPrefix(l.Groups[0].Key[0], "cli") || l.Groups[0].Key[1] != "8080" {
		t.Errorf("%+v", l.Groups)
	}
}

// TestListSaysWhatAPolicyHides: where rules give entries timeouts of their
// own, nothing is idle, and the reason is said.
func TestListSaysWhatAPolicyHides(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "policy")
	h.NFT(`table ip t {
		ct timeout short { protocol tcp; l3proto ip; policy = { established : 100 }; }
		chain c { type filter hook prerouting priority -150; ct timeout set "short"; }
	}`)
	h.Fill(lab.Class{Count: 5, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, TimeoutSeconds: 100})
	s := ctw(t, "list", "--netns", h.Name, "--where", "idle_min > 0s")
	if s.code != ExitOK || strings.Contains(s.out, "tcp ") || !strings.Contains(s.err, "idle times are unknown") {
		t.Errorf("code %d\n%s%s", s.code, s.out, s.err)
	}
	if s = ctw(t, "evict", "--netns", h.Name, "--where", "idle_min > 0s", "--yes", "--state-dir", t.TempDir()); s.code != ExitFailed {
		t.Errorf("evict: code %d\n%s", s.code, s.out)
	}
}

// watching runs watch while something happens and returns its lines.
func watching(t *testing.T, h *lab.Host, during func(), args ...string) []string {
	t.Helper()
	var out, errOut bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	env := &Env{Args: append([]string{"watch", "--json", "--netns", h.Name}, args...), Stdin: strings.NewReader(""),
		Stdout: &out, Stderr: &errOut, Getenv: func(string) string { return "" }, Now: time.Now, Width: 80}
	done := make(chan int, 1)
	go func() { done <- Run(ctx, env) }()
	time.Sleep(1500 * time.Millisecond)
	during()
	if code := <-done; code != ExitOK {
		t.Fatalf("watch: code %d: %s", code, errOut.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	validSchema(t, "watch", "", lines[0])
	for _, l := range lines[1:] {
		validSchema(t, "watch", "#/$defs/event", l)
	}
	return lines[1:]
}

func TestWatch(t *testing.T) {
	lab.Require(t, "conntrack")
	for _, how := range [][]string{nil, {"--poll", "500ms"}} {
		h := lab.NewHost(t, "watch")
		h.Fill(lab.Class{Count: 3, Proto: ct.UDP})
		lines := watching(t, h, func() {
			h.Fill(lab.Class{Count: 4, State: ct.TCPSynSent, Sources: netip.MustParsePrefix("10.9.0.0/24")})
			h.Fill(lab.Class{Count: 2, Proto: ct.UDP, Sources: netip.MustParsePrefix("10.8.0.0/24")})
			time.Sleep(1500 * time.Millisecond)
			h.Exec("conntrack", "-D", "-p", "tcp")
		}, append([]string{"-p", "tcp", "--count", "8"}, how...)...)
		count := map[string]int{}
		for _, l := range lines {
			var e struct {
				Event string
				Flow  struct{ Proto string }
			}
			json.Unmarshal([]byte(l), &e)
			count[e.Event+" "+e.Flow.Proto]++
		}
		if len(lines) != 8 || count["new tcp"] != 4 || count["destroy tcp"] != 4 {
			t.Errorf("%q: %v", how, count)
		}
	}
}

func TestTopOnce(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "top")
	h.Fill(mixed...)
	s := ctw(t, "top", "--once", "--netns", h.Name, "--interval", "500ms")
	if s.code != ExitOK || !strings.Contains(s.out, "2,100 of ") || !strings.Contains(s.out, "all 2,100 entries read: exact") {
		t.Errorf("code %d\n%s%s", s.code, s.out, s.err)
	}
	if n := strings.Count(strings.TrimRight(s.out, "\n"), "\n") + 1; n != 24 {
		t.Errorf("%d lines", n)
	}
	s = ctw(t, "top", "--json", "--netns", h.Name, "--interval", "500ms", "--panel", "500")
	validSchema(t, "top", "", s.out)
	var doc struct {
		Census ct.Census
		Limits ct.Limits
	}
	if err := json.Unmarshal([]byte(s.out), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Limits.Count.N != 2100 || doc.Census.Entries != 500 || doc.Census.Complete || doc.Census.SampleError == 0 {
		t.Errorf("%+v %+v", doc.Limits, doc.Census)
	}
	if s := ctw(t, "top", "--netns", h.Name); s.code != ExitFailed || !strings.Contains(s.err, "needs a terminal") {
		t.Errorf("without a terminal: code %d, %s", s.code, s.err)
	}
}
