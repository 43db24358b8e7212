package guardtable_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/guardtable"
	"github.com/ctwarden/ctwarden/internal/lab"
)

func open(t *testing.T, h *lab.Host) *guardtable.Table {
	t.Helper()
	g, err := guardtable.Open(h.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return g
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listed returns nft's listing of our table, and "" without one.
func listed(h *lab.Host) string {
	out, _ := h.TryExec("nft", "list", "table", "inet", guardtable.Name)
	return out
}

// timeouts are what the tests give to new flows.
func timeouts(pairs ...int32) (set ct.Timeouts) {
	for i := 0; i < len(pairs); i += 2 {
		set.Set(ct.TimeoutKey(pairs[i]), pairs[i+1])
	}
	return set
}

func limit(sources ...string) guard.Limit {
	l := guard.Limit{Seconds: 60}
	for _, s := range sources {
		if !strings.Contains(s, "/") {
			a := netip.MustParseAddr(s)
			l.Sources = append(l.Sources, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		l.Sources = append(l.Sources, netip.MustParsePrefix(s))
	}
	return l
}

// TestTableAsListed compares what nft lists with what was asked for.
func TestTableAsListed(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "listed")
	g := open(t, h)
	if !g.Policies() || !g.Admission() {
		t.Fatalf("policies %v, admission %v", g.Policies(), g.Admission())
	}
	bare := listed(h)
	has := func(when string, want ...string) {
		t.Helper()
		out := listed(h)
		for _, w := range want {
			if not, ok := strings.CutPrefix(w, "!"); ok == strings.Contains(out, strings.TrimPrefix(w, "!")) {
				t.Errorf("%s: %q, %v in\n%s", when, not, ok, out)
			}
		}
		if err := g.Intact(); err != nil {
			t.Errorf("%s: Intact: %v", when, err)
		}
	}
	must(t, g.SetTimeouts(timeouts(int32(ct.TimeoutTCPSynSent), 20, int32(ct.TimeoutTCPTimeWait), 15, int32(ct.TimeoutUDP), 10)))
	has("timeouts", "syn_sent : 20", "time_wait : 15", "unreplied : 10", `ct timeout set "tcp_1"`)
	must(t, g.Limit(limit("10.1.2.3", "10.1.2.3", "10.1.0.77/24", "fd01::1/64", "::ffff:10.1.2.4")))
	has("limit", "{ 10.1.2.3 ", "10.1.2.4 ", "{ 10.1.0.0 ", "{ fd01:: ", "hook prerouting priority raw - 10", "@v4_32 counter")
	l := limit("10.1.2.5")
	l.PerSource = 7
	if g.Counts() {
		must(t, g.Limit(l))
		has("count", "{ 10.1.2.5 ", "ct count over 7", "!10.1.2.3", "!v4_24", "!raw - 10")
		must(t, g.Limit(limit("10.1.2.6")))
		has("limit again", "{ 10.1.2.6 ", "!ct count", "raw - 10")
	}
	must(t, g.Limit(guard.Limit{}))
	has("no limit", "!v4_", "!chain refuse", "syn_sent : 20")
	must(t, g.SetTimeouts(ct.Timeouts{}))
	if now := listed(h); now != bare {
		t.Errorf("before\n%safter\n%s", bare, now)
	}
	must(t, g.Close())
	if out := h.Exec("nft", "list", "ruleset"); out != "" {
		t.Errorf("after Close: %s", out)
	}
}
