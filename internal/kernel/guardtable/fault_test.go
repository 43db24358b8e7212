package guardtable_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestOthersReload changes the table while somebody else loads rulesets, each
// of which begins with a flush of all that is theirs.
func TestOthersReload(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "reload")
	g := open(t, h)
	if g.Persistent() {
		t.Skip("here a reload flushes our table, too")
	}
	const ruleset = "flush ruleset\ntable inet theirs {\n\tchain c {\n\t\ttype filter hook input priority 0\n\t\tct state new accept\n\t}\n}\n"
	var wait sync.WaitGroup
	wait.Go(func() {
		for range 50 {
			cmd := exec.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader(ruleset)
			if err := h.Do(cmd.Run); err != nil {
				t.Errorf("their reload: %v", err)
			}
		}
	})
	for i := range 200 {
		if err := g.Limit(limit(fmt.Sprintf("10.1.%d.0/24", i), "2001:db8::/64")); err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		must(t, g.SetTimeouts(timeouts(int32(ct.TimeoutTCPSynSent), int32(15+i))))
		must(t, g.Intact())
	}
	wait.Wait()
	out := h.Exec("nft", "list", "ruleset")
	for _, want := range []string{"table inet theirs", "10.1.199.0", "syn_sent : 214"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

// TestNamespaceGoes removes a namespace under its guard. The guard's socket
// keeps it alive, and nothing else does: it goes with Close.
func TestNamespaceGoes(t *testing.T) {
	lab.Require(t)
	p := lab.Server(t)
	g := open(t, p.Server)
	must(t, g.Limit(limit("10.1.0.0/16")))
	exec.Command("ip", "netns", "del", p.Server.Name).Run()
	cable := func() bool {
		_, err := p.Client.TryExec("ip", "link", "show", p.Client.Dev)
		return err == nil
	}
	if !cable() {
		t.Fatal("the namespace is gone already")
	}
	must(t, g.Intact())
	must(t, g.Limit(limit("10.2.0.0/16")))
	must(t, g.Close())
	eventually(t, "the namespace is gone", func() bool { return !cable() })
}

// TestManyGuards opens, changes and closes tables again and again, and looks
// at what is left.
func TestManyGuards(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "often")
	descriptors := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(open)
	}
	before := descriptors()
	for range 10 {
		g := open(t, h)
		l := limit("10.1.0.0/16", "10.1.2.3", "fd01::/64")
		must(t, g.Limit(l))
		if l.PerSource = 10; g.Counts() {
			must(t, g.Limit(l))
		}
		must(t, g.SetTimeouts(timeouts(int32(ct.TimeoutUDP), 20)))
		must(t, g.Close())
	}
	eventually(t, "all descriptors are closed", func() bool { return descriptors() <= before+1 })
	if out := h.Exec("nft", "list", "ruleset"); out != "" {
		t.Errorf("left:\n%s", out)
	}
}

// TestOpenedTooLate opens the table while the kernel has no room for a flow.
func TestOpenedTooLate(t *testing.T) {
	lab.Require(t, "conntrack")
	limits := lab.ExclusiveLimits(t)
	p := lab.Server(t)
	p.Server.ServeTCP(80, lab.Echo)
	held := talker{let(t, p.Client, netip.AddrPortFrom(p.Server.Addr4, 80), p.Client.Addr4), t}
	const most = 2000
	class := lab.Class{Count: most / 2, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured}
	p.Server.Fill(class)
	limits.SetMax(most)
	class.Count, class.Targets = most, netip.MustParsePrefix("192.0.2.9/32")
	_ = p.Server.TryFill(class) // until there is no room
	refusals := p.Server.ConntrackStats()["drop"]
	g := open(t, p.Server)
	counts := g.Counts() // tried where there is room
	if n := p.Server.ConntrackStats()["drop"] - refusals; n > 4 {
		t.Errorf("trying cost %d refused packets", n)
	}
	must(t, g.SetTimeouts(timeouts(int32(ct.TimeoutTCPEstablished), 7440)))
	must(t, g.Limit(limit(p.Client.Addr4.String())))
	refused(t, p.Client, netip.AddrPortFrom(p.Server.Addr4, 80), p.Client.Addr4)
	held.say()
	if n := mustDropped(t, g); n == 0 {
		t.Error("nothing was dropped before tracking")
	}
	limits.SetMax(20 * most)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if here := open(t, p.Server).Counts(); here != counts {
		t.Errorf("counting right: %v where there was room elsewhere, %v here", counts, here)
	}
}
