package guardd

import (
	"bytes"
	"context"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/lab"
)

var transcript = flag.String("transcript", "", "file for what an administrator sees of the attack")

// TestAttack: handshakes that are left idle fill a table to the brim in seconds.
// With the guard new connections go on being admitted, and after it everything
// is as it was.
func TestAttack(t *testing.T) {
	lab.Require(t, "conntrack")
	limits := lab.ExclusiveLimits(t)
	b := newBed(t)
	const limit, web, idle = 20_000, 80, 8080
	limits.SetMax(limit)
	buckets := limits.Buckets()
	h := b.pair.Server
	h.ServeTCP(web, lab.Echo)
	h.Hold(idle, 200_000)
	s := b.script()
	s.Real = true
	c := begin(t, s)
	c.wants("guard enforces")
	time.Sleep(time.Second)
	flood := lab.Go(t, func(ctx context.Context) (lab.Shaken, error) {
		return b.pair.Client.Handshakes(ctx, netip.AddrPortFrom(h.Addr4, idle), b.pair.Client.Spoof4,
			lab.Load{Packets: 60_000, PerSecond: 6000, Duration: 10 * time.Second})
	})
	tried, failed := 0, 0
	var status string
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		tried++
		conn, err := b.pair.Client.Dial(t.Context(), netip.AddrPortFrom(h.Addr4, web), b.pair.Client.Addr4, 3*time.Second)
		if err != nil {
			failed++
			continue
		}
		_ = conn.Close()
		if status == "" && h.Count() > limit {
			status = b.status()
		}
	}
	shaken := flood.Stop()
	if shaken.Completed < limit {
		t.Fatalf("the generator completed only %d handshakes", shaken.Completed)
	}
	if failed > 0 {
		t.Errorf("%d of %d new connections failed", failed, tried)
	}
	if r := h.ConntrackStats()["drop"]; r > 0 {
		t.Errorf("the kernel refused %d packets", r)
	}
	during := limits.Max()
	if during <= limit {
		t.Errorf("max is %d under attack", during)
	}
	after := b.status()
	if err := c.term(); err != nil {
		t.Error(err)
	}
	if h.Count() > limit {
		c.wants("revert-deferred")
		h.Exec("conntrack", "-F")
	}
	_, cleaned := b.cleanup()
	if limits.Max() != limit || limits.Buckets() != buckets {
		t.Errorf("max %d, buckets %d after cleanup", limits.Max(), limits.Buckets())
	}
	if *transcript != "" {
		b.writeTranscript(c, status, after, cleaned)
	}
}

func (b *bed) status() string {
	b.t.Helper()
	s, err := AskStatus(b.t.Context(), b.pair.Server.Name, b.run)
	if err != nil {
		b.t.Fatal(err)
	}
	var out bytes.Buffer
	if err := s.Text(&out); err != nil {
		b.t.Fatal(err)
	}
	if s.Level < guard.Watch && strings.Contains(out.String(), "100 %") {
		b.t.Errorf("calm at the brim: %s", out.String())
	}
	return out.String()
}

func (b *bed) writeTranscript(c *child, status, after, cleaned string) {
	b.t.Helper()
	list, _, err := ReadIncidents(disk.OS{}, b.state)
	if err != nil {
		b.t.Error(err)
	}
	var out bytes.Buffer
	out.WriteString("$ ctwarden guard --mode enforce\n")
	for line := range strings.Lines(c.log()) {
		if !strings.HasPrefix(line, "point ") {
			out.WriteString(line)
		}
	}
	out.WriteString("\n$ ctwarden guard status      # during the flood\n" + status)
	out.WriteString("\n$ ctwarden guard status      # after the flood\n" + after)
	out.WriteString("\n$ ctwarden guard cleanup\n" + cleaned + "\n$ ctwarden incidents\n")
	if err := IncidentsText(&out, list); err != nil {
		b.t.Error(err)
	}
	if err := os.WriteFile(filepath.Clean(*transcript), out.Bytes(), 0o600); err != nil {
		b.t.Error(err)
	}
}
