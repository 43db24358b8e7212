package guardd

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

var (
	soakFor  = flag.Duration("soak", 20*time.Second, "how long TestSoak alternates attack and peace")
	soakMax  = flag.Int("soak.max", 20_000, "nf_conntrack_max of TestSoak")
	soakRate = flag.Int("soak.rate", 20_000, "packets of its floods a second, and half as many completed handshakes")
)

// TestSoak alternates attack and peace, and looks each time whether the guard
// has grown: in memory, in descriptors, in rules, and in what it keeps on disk.
// Every other attack is of completed handshakes, on which it has to act.
func TestSoak(t *testing.T) {
	lab.Require(t, "conntrack")
	limits := lab.ExclusiveLimits(t)
	b := newBed(t)
	limit := *soakMax
	limits.SetMax(limit)
	h := b.pair.Server
	s := b.script()
	s.Real = true
	c := begin(t, s)
	c.wants("guard enforces")
	pid := c.cmd.Process.Pid
	time.Sleep(2 * time.Second)
	first := grown(t, b, pid)
	floods, acted := 0, 0
	for end := time.Now().Add(*soakFor); time.Now().Before(end) || floods < 2; {
		said := len(c.log())
		b.soak(floods)
		floods++
		h.Exec("conntrack", "-F")
		time.Sleep(3 * time.Second)
		now := grown(t, b, pid)
		deeds := strings.Count(c.log()[said:], ": done")
		if deeds > 0 {
			acted++
		}
		t.Logf("after %d floods: %+v, %d deeds", floods, now, deeds)
		now.judge(t, first)
	}
	select {
	case <-c.done:
		t.Fatalf("the guard ended: %v", c.err)
	default:
	}
	if acted == 0 {
		t.Error("the guard never acted")
	}
	t.Logf("it acted in %d of %d floods", acted, floods)
	if err := c.term(); err != nil {
		t.Error(err)
	}
	b.cleanup()
	if limits.Max() != limit {
		t.Errorf("max is %d at the end", limits.Max())
	}
}

// soak is one attack of five seconds: spoofed SYNs, or handshakes that are
// completed and left.
func (b *bed) soak(n int) {
	const idle = 8080
	h := b.pair.Server
	load := lab.Load{Packets: 5 * *soakRate, PerSecond: *soakRate, Duration: 5 * time.Second, First: n * 5 * *soakRate}
	job := lab.Go(b.t, func(ctx context.Context) (lab.Sent, error) {
		to := netip.AddrPortFrom(h.Addr4, idle)
		if n%2 == 0 {
			return b.pair.Client.SYNFlood(ctx, to, b.pair.Client.Spoof4, load)
		}
		letGo := h.Hold(idle, 600_000)
		defer letGo()
		load.PerSecond /= 2
		done, err := b.pair.Client.Handshakes(ctx, to, netip.PrefixFrom(lab.Nth(b.pair.Client.Spoof4, uint32(n)<<8), 24), load)
		return lab.Sent{Packets: done.SYNs}, err
	})
	time.Sleep(5 * time.Second)
	job.Stop()
}

// judge says whether the guard has grown.
func (g growth) judge(t *testing.T, first growth) {
	t.Helper()
	switch {
	case g.descriptors > first.descriptors+8:
		t.Fatalf("descriptors went from %d to %d", first.descriptors, g.descriptors)
	case g.mib > 192:
		t.Fatalf("%.0f MiB resident", g.mib)
	case g.rules > first.rules+4000: // those that are limited for now, 256 of each attack, among them
		t.Fatalf("rules went from %d lines to %d", first.rules, g.rules)
	case g.disk > 72<<20:
		t.Fatalf("%d bytes on disk", g.disk)
	}
}

var soakGuest = flag.String("soak.guest", "", "Debian kernel in which TestSoakInGuest runs TestSoak, as 6.12")

// TestSoakInGuest leaves the machine's own limits to others meanwhile.
func TestSoakInGuest(t *testing.T) {
	if *soakGuest == "" {
		t.Skip("long: make soak")
	}
	k := vm.Need(t, *soakGuest)
	k.Run(t, vm.Options{Package: "./internal/guardd", Run: "^TestSoak$",
		Args:     []string{"-soak=" + soakFor.String(), "-soak.max=4096", "-soak.rate=3000"},
		Modules:  append([]string{"nft_objref"}, vm.NetfilterModules...),
		Load:     []string{"nf_conntrack", "nf_conntrack_netlink", "nf_tables"},
		Programs: []string{"ip", "nft", "conntrack", "sh"}, MemoryMiB: 1536, CPUs: 1, Timeout: *soakFor + 10*time.Minute})
}

type growth struct {
	descriptors, rules int
	mib                float64
	disk               int64
}

func grown(t *testing.T, b *bed, pid int) (g growth) {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	g.descriptors = len(fds)
	g.mib = residentMiB(t, pid)
	g.rules = strings.Count(b.pair.Server.Exec("nft", "list", "ruleset"), "\n")
	for _, dir := range []string{b.state, b.state + "/entries"} {
		list, _ := os.ReadDir(dir)
		for _, e := range list {
			if i, err := e.Info(); err == nil && !e.IsDir() {
				g.disk += i.Size()
			}
		}
	}
	return g
}
