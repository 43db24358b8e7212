package guardd

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestSecondAttack: after an attack the limit goes back by itself, the guard knows
// its own write, and the next attack is met as the first was.
func TestSecondAttack(t *testing.T) {
	lab.Require(t, "conntrack")
	limits := lab.ExclusiveLimits(t)
	b := newBed(t)
	const limit, idle = 20_000, 8080
	limits.SetMax(limit)
	h := b.pair.Server
	h.Hold(idle, 200_000)
	s := b.script()
	s.Real = true
	s.Config = filepath.Join(t.TempDir(), "guard.yaml")
	if err := os.WriteFile(s.Config, []byte("levels:\n  leave-after: 1s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := begin(t, s)
	c.wants("guard enforces")
	attack := func(sources string) {
		t.Helper()
		flood := lab.Go(t, func(ctx context.Context) (lab.Shaken, error) {
			return b.pair.Client.Handshakes(ctx, netip.AddrPortFrom(h.Addr4, idle), netip.MustParsePrefix(sources),
				lab.Load{Packets: 30_000, PerSecond: 6000, Duration: 5 * time.Second})
		})
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && limits.Max() == limit; {
			time.Sleep(20 * time.Millisecond)
		}
		if limits.Max() <= limit {
			t.Errorf("max is %d under attack", limits.Max())
		}
		flood.Stop()
		h.Exec("conntrack", "-F") // what two minutes would do
	}
	calm := func() {
		t.Helper()
		for end := time.Now().Add(15 * time.Second); time.Now().Before(end) && limits.Max() != limit; {
			time.Sleep(20 * time.Millisecond)
		}
		if limits.Max() != limit {
			t.Fatalf("max is %d after the attack", limits.Max())
		}
		time.Sleep(2 * time.Second)
	}
	attack(b.pair.Client.Spoof4.String())
	calm()
	attack(b.pair.Client.Spoof4.String())
	calm()
	if log := c.log(); strings.Contains(log, "not by this guard") || strings.Contains(log, "somebody else") {
		t.Errorf("the guard takes its own write for another's:\n%s", log)
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
}
