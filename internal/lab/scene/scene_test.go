package scene

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// figures are what the kernel says of a scene, read by conntrack alone.
type figures struct {
	listed, drop, earlyDrop int
	lines                   []string
}

func read(h *lab.Host) figures {
	stats := h.ConntrackStats()
	lines := h.ConntrackList()
	return figures{len(lines), stats["drop"], stats["early_drop"], lines}
}

func (f figures) count(parts ...string) int {
	n := 0
next:
	for _, l := range f.lines {
		for _, p := range parts {
			if !strings.Contains(l, p) {
				continue next
			}
		}
		n++
	}
	return n
}

// Each scene is full, of what it claims to be full of, and the generator's own
// counts agree with the kernel's.
func TestScenes(t *testing.T) {
	for _, c := range []struct {
		name   string
		scene  func(testing.TB) *Scene
		listed []string // what nearly every entry shows
		max    int
		silent bool // the generator does not listen
	}{
		{"syn flood", SYNFlood, []string{"tcp", "SYN_RECV", "dport=80 "}, Max, true},
		{"idle handshakes", IdleHandshakes, []string{"ESTABLISHED", "src=10.2.0.", "dport=443 ", "ASSURED"}, Max, false},
		{"left idle", func(t testing.TB) *Scene { return LeftIdle(t, 48*time.Hour) }, []string{"ESTABLISHED", "ASSURED", " 259"}, Max, false},
		{"outbound scan", OutboundScan, []string{"SYN_SENT", "src=10.0.3.7 dst=198.19.", "UNREPLIED"}, Max, true},
		{"dns churn", DNSChurn, []string{"udp", "src=10.0.1.", "dst=203.0.113.1 ", "dport=53 "}, Max, false},
		{"growth", Growth, []string{"ESTABLISHED", "src=10.1.", "dport=443 ", "ASSURED"}, 3000, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.scene(t)
			tally := s.Stop()
			f := read(s.Host)
			if f.listed < c.max*9/10 || f.listed > c.max+1 {
				t.Errorf("%d entries, want nearly %d", f.listed, c.max)
			}
			if n := f.count(c.listed...); n < f.listed*9/10 {
				t.Errorf("%d of %d entries show %q", n, f.listed, c.listed)
			}
			if f.drop == 0 {
				t.Error("nothing was refused")
			}
			// Whatever was begun is in the table, was evicted or was refused;
			// a refused SYN or query may have been repeated by nobody.
			if c.silent && tally.Begun < f.listed {
				t.Errorf("%d entries from %d packets", f.listed, tally.Begun)
			}
			if !c.silent && (tally.Done == 0 || tally.Done >= tally.Begun) {
				t.Errorf("%+v: something must have been answered, not everything", tally)
			}
			t.Logf("%+v, listed %d, drop %d, early drop %d", tally, f.listed, f.drop, f.earlyDrop)
		})
	}
}

func TestSYNFloodAddsUp(t *testing.T) {
	s := SYNFlood(t)
	tally := s.Stop()
	f := read(s.Host)
	// Every SYN became an entry or was refused. Entries that gc evicted while
	// the table was full are counted nowhere, hence the lower bound.
	if sum := f.listed + f.earlyDrop + f.drop; sum > tally.Begun || sum < tally.Begun*8/10 {
		t.Errorf("%d listed, %d evicted, %d refused: %d of %d SYNs", f.listed, f.earlyDrop, f.drop, sum, tally.Begun)
	}
}

func TestHealthy(t *testing.T) {
	s := Healthy(t)
	time.Sleep(2 * time.Second)
	f := read(s.Host)
	tally := s.Stop()
	if f.drop != 0 || f.earlyDrop != 0 {
		t.Errorf("%d refused, %d evicted", f.drop, f.earlyDrop)
	}
	for port, n := range Live {
		if got := f.count("ESTABLISHED", fmt.Sprintf("dport=%d ", port)); got < n {
			t.Errorf("%d of %d connections to port %d are there", got, n, port)
		}
	}
	if got := f.count("udp", fmt.Sprintf("dport=%d ", PortStream)); got != LiveStreams {
		t.Errorf("%d of %d UDP streams are there", got, LiveStreams)
	}
	if tally.Done < tally.Begun*9/10 {
		t.Errorf("%+v", tally)
	}
}
