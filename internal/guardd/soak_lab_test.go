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
)

var soakFor = flag.Duration("soak", 20*time.Second, "how long TestSoak alternates attack and peace")

// TestSoak alternates attack and peace, and looks each time whether the guard
// has grown: in memory, in descriptors, in rules, and in what it keeps on disk.
func TestSoak(t *testing.T) {
	lab.Require(t, "conntrack")
	limits := lab.ExclusiveLimits(t)
	b := newBed(t)
	const limit, idle = 20_000, 8080
	limits.SetMax(limit)
	h := b.pair.Server
	s := b.script()
	s.Real = true
	c := begin(t, s)
	c.wants("guard enforces")
	pid := c.cmd.Process.Pid
	time.Sleep(2 * time.Second)
	first := grown(t, b, pid)
	flood := 0
	for end := time.Now().Add(*soakFor); time.Now().Before(end); {
		job := lab.Go(t, func(ctx context.Context) (lab.Sent, error) {
			flood++
			return b.pair.Client.SYNFlood(ctx, netip.AddrPortFrom(h.Addr4, idle), b.pair.Client.Spoof4,
				lab.Load{Packets: 100_000, PerSecond: 20_000, Duration: 5 * time.Second, First: flood * 100_000})
		})
		time.Sleep(5 * time.Second)
		job.Stop()
		h.Exec("conntrack", "-F")
		time.Sleep(3 * time.Second)
		now := grown(t, b, pid)
		t.Logf("after %d floods: %+v", flood, now)
		switch {
		case now.descriptors > first.descriptors+8:
			t.Fatalf("descriptors went from %d to %d", first.descriptors, now.descriptors)
		case now.mib > 192:
			t.Fatalf("%.0f MiB resident", now.mib)
		case now.rules > first.rules+60:
			t.Fatalf("rules went from %d lines to %d", first.rules, now.rules)
		case now.disk > 72<<20:
			t.Fatalf("%d bytes on disk", now.disk)
		}
	}
	select {
	case <-c.done:
		t.Fatalf("the guard ended: %v", c.err)
	default:
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
	b.cleanup()
	if limits.Max() != limit {
		t.Errorf("max is %d at the end", limits.Max())
	}
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
