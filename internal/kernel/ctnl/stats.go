package ctnl

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
)

// CPUCounters are the counters that one processor keeps.
type CPUCounters struct {
	CPU int
	ct.Counters
}

// Stats reads the namespace's counters, one set for each possible processor.
// Which counters a kernel offers is in their Has. Needs 3.6 or later
// (CTA_STATS_*, IPCTNL_MSG_CT_GET_STATS_CPU).
func (c *Conn) Stats() ([]CPUCounters, error) {
	var all []CPUCounters
	err := c.request(subsysCT, ctGetStatsCPU, flagDump, func(m message) error {
		a, cpu, err := m.attrs()
		if err != nil {
			return err
		}
		all = append(all, CPUCounters{CPU: int(cpu), Counters: counters(a)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read connection tracking counters: %w", err)
	}
	return all, nil
}

// statNames holds the name of each CTA_STATS_* attribute, as
// ct.Counters.SetByName knows it.
var statNames = [...]string{1: "searched", 2: "found", 3: "new", 4: "invalid", 5: "ignore",
	6: "delete", 7: "delete_list", 8: "insert", 9: "insert_failed", 10: "drop",
	11: "early_drop", 12: "icmp_error", 13: "search_restart", 14: "clash_resolve",
	15: "chaintoolong"}

func counters(b attrs) (c ct.Counters) {
	for a := range b.all {
		if v, ok := a.u32(); ok && int(a.typ) < len(statNames) {
			c.SetByName(statNames[a.typ], v)
		}
	}
	return c
}

// GlobalStats are the two numbers that decide about new flows.
type GlobalStats struct {
	Count  uint32 // entries of the namespace, in whatever condition
	Max    uint32 // nf_conntrack_max, one number for the host; 0 is no limit
	HasMax bool   // 4.18 and later
}

// GlobalStats reads count and maximum. It costs the kernel nothing.
func (c *Conn) GlobalStats() (GlobalStats, error) {
	var g GlobalStats
	err := c.request(subsysCT, ctGetStats, 0, func(m message) error {
		b, _, err := m.attrs()
		if err != nil {
			return err
		}
		for a := range b.all {
			switch v, ok := a.u32(); {
			case ok && a.typ == ctaStatsGlobalEntries:
				g.Count = v
			case ok && a.typ == ctaStatsGlobalMaxEntries:
				g.Max, g.HasMax = v, true
			}
		}
		return errEnd
	})
	if err != nil {
		return g, fmt.Errorf("read connection tracking count: %w", err)
	}
	return g, nil
}

// request sends a request without attributes and reads the whole answer.
func (c *Conn) request(subsys, kind uint8, flags uint16, each func(message) error) error {
	if err := c.ready(); err != nil {
		return err
	}
	seq := c.nextSeq(1)
	e := encoder{c.out[:0]}
	e.end(e.begin(subsys, kind, flags, seq, unix.AF_UNSPEC))
	c.out = e.b
	if err := c.send(e.b); err != nil {
		return err
	}
	err := c.answers(seq, each)
	if err != nil && flags&flagDump != 0 {
		c.stale = true
	}
	return err
}
