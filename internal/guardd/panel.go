package guardd

import (
	"context"
	"net/netip"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/census"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
)

// panelEntries is how many entries a panel holds: a dump of that many takes some
// 25 ms and tells shares within 0.7 %.
const panelEntries = 20_000

// panelTop is how many sources are told apart: an attack comes from more than
// the few that a person looks at.
const panelTop = 1024

// panels reads the composition of the table from the same buckets again and
// again.
type panels struct{ seed uint64 }

// mostPorts bounds how many ports are told apart.
const mostPorts = 256

// read takes a panel. The count is that of now; own are the machine's addresses.
func (p *panels) read(ctx context.Context, ref string, count int64, t *ct.Timeouts, former []ct.Timeouts, own map[netip.Addr]bool) (*guard.Table, error) {
	conn, err := ctnl.Dial(ctnl.Options{Netns: ref})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	begin := time.Now()
	c := census.New(census.Options{Timeouts: t, Former: former, Seed: p.seed, Sample: panelEntries, Top: panelTop, SourcesOnly: true})
	ports := make(map[uint16]uint64)
	sum, err := conn.Dump(ctx, ctnl.Query{Limit: panelEntries}, func(f *ct.Flow) error {
		c.Add(f)
		if guard.ClassOf(f) == guard.HalfOpen && f.Orig.Src.Is4() && own[f.Reply.Src] {
			if _, known := ports[f.Reply.SrcPort]; known || len(ports) < mostPorts {
				ports[f.Reply.SrcPort]++
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	table := &guard.Table{Census: c.Result(), HalfOpen: ports, Count: int64(sum.CountBefore)}
	table.Census.Complete = !sum.Stopped
	table.Census.CountBefore = ct.Known(count)
	if sum.Stopped {
		table.Census.SampleError = census.SampleError(table.Census.Entries, uint64(max(count, int64(table.Census.Entries))))
	}
	table.Took = time.Since(begin)
	return table, nil
}
