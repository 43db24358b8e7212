package advice

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// Outcome is one scene under one column.
type Outcome struct {
	Scene  string   `json:"scene"`
	Column string   `json:"column"`
	Did    []string `json:"did"` // what was set, on the small machine
	// Asked are new legitimate exchanges in the time counted, Answered
	// those that succeeded end to end.
	Asked    int `json:"asked"`
	Answered int `json:"answered"`
	// Peak is the highest count, GrownBytes by how much the slabs of entries
	// and their extensions grew, Max the highest limit that stood and
	// EntryBytes what one entry takes.
	Peak       int   `json:"peak"`
	GrownBytes int64 `json:"grown_bytes"`
	Max        int   `json:"max"`
	EntryBytes int64 `json:"entry_bytes"`
	// Connections held from before the trouble, and those broken at the end.
	Idle         int `json:"idle"`
	IdleBroken   int `json:"idle_broken"`
	Active       int `json:"active"`
	ActiveBroken int `json:"active_broken"`
	// Refused are packets that the full table dropped after the answer to it.
	Refused int `json:"refused"`
}

// Times of a trial.
type Times struct {
	// Fill is how long the trouble lasts before somebody answers it, Later the
	// time from the answer to its second step, Measure the time counted.
	Fill, Later, Measure time.Duration
}

// Whole times are those of the table, Short ones those of every run.
var (
	Whole = Times{Fill: 45 * time.Second, Later: 30 * time.Second, Measure: 90 * time.Second}
	Short = Times{Fill: 5 * time.Second, Later: 5 * time.Second, Measure: 10 * time.Second}
)

// heldConnections is how many connections of each kind there are before.
const heldConnections = 40

// try runs one scene under one column, in a guest.
func try(t testing.TB, s *Scene, c *Column, at Times) (Outcome, error) {
	out := Outcome{Scene: s.Name, Column: c.Name, Idle: heldConnections, Active: heldConnections}
	limits := lab.ExclusiveLimits(t)
	limits.SetBuckets(stockMax / Scale)
	n := s.topology(t)
	limits.SetMax(stockMax / Scale)
	m, err := newMachine(n.tracked, limits)
	if err != nil {
		return out, err
	}
	shrinkSlabs()
	base := slabBytes()
	idle, err := hold(t, n, portHeld, heldConnections)
	if err != nil {
		return out, err
	}
	active, err := hold(t, n, portHeld+1, heldConnections)
	if err != nil {
		return out, err
	}
	every := 5 * time.Second
	if s.quiet > 0 {
		every = 20 * time.Minute
	}
	chat := lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Chat(ctx, active.conns, every) })
	peaks := watch(t, n.tracked)
	stop := s.load(t, n)
	time.Sleep(at.Fill)
	dropped := n.tracked.ConntrackStats()["drop"]
	if c.At != nil {
		if err := c.At(m); err != nil {
			return out, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	out.Max = limits.Max()
	time.Sleep(at.Later)
	if c.Later != nil {
		if err := c.Later(m); err != nil {
			return out, fmt.Errorf("%s, later: %w", c.Name, err)
		}
	}
	served, err := s.serve(t, n, at.Measure)
	if err != nil {
		return out, err
	}
	out.Asked, out.Answered = served.Asked, served.Answered
	out.Refused = n.tracked.ConntrackStats()["drop"] - dropped
	peak := peaks.Stop()
	out.Peak, out.GrownBytes = peak.count, peak.slabs-base
	if s.quiet > 0 {
		// An entry has the timeout that was in force at its last packet.
		out.IdleBroken = idle.broken()
		time.Sleep(s.quiet)
	}
	out.ActiveBroken = chat.Stop().Broken + active.broken()
	out.IdleBroken = idle.broken()
	stop()
	out.Did = m.did
	if peak.count > 1000 {
		out.EntryBytes = out.GrownBytes / int64(peak.count)
	}
	return out, nil
}

// serve lets legitimate clients make new exchanges while the trouble goes on.
func (s *Scene) serve(t testing.TB, n *cast, lasting time.Duration) (lab.Churned, error) {
	const perSecond = 10
	l := lab.Load{Packets: perSecond * int(lasting/time.Second), PerSecond: perSecond}
	if s.dns {
		return n.client.DNSChurn(t.Context(), n.at(portDNS), n.clients, l)
	}
	return n.client.TCPChurn(t.Context(), n.at(portShort), n.clients, l)
}

type peak struct {
	count int
	slabs int64
}

// watch follows the highest count and the slabs.
func watch(t testing.TB, h *lab.Host) *lab.Job[peak] {
	return lab.Go(t, func(ctx context.Context) (peak, error) {
		var p peak
		for ctx.Err() == nil {
			p.count, p.slabs = max(p.count, h.Count()), max(p.slabs, slabBytes())
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		return p, nil
	})
}

// shrinkSlabs gives back what an earlier trial left, whose namespaces are
// cleaned up in the background.
func shrinkSlabs() {
	before := slabBytes()
	for range 12 {
		time.Sleep(5 * time.Second)
		for _, cache := range []string{"nf_conntrack", "kmalloc-128"} {
			_ = os.WriteFile("/sys/kernel/slab/"+cache+"/shrink", []byte("1"), 0)
		}
		now := slabBytes()
		if now >= before {
			return
		}
		before = now
	}
}

// slabBytes is what entries and their extensions take.
func slabBytes() (sum int64) {
	data, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != "nf_conntrack" && f[0] != "kmalloc-128" {
			continue
		}
		n, err1 := strconv.ParseInt(f[1], 10, 64)
		size, err2 := strconv.ParseInt(f[3], 10, 64)
		if err1 == nil && err2 == nil {
			sum += n * size
		}
	}
	return sum
}

var _ tune.Settings = (*machine)(nil)
