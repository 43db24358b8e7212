package observe

import (
	"context"
	"errors"
	"io/fs"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
)

// table is where entries and counters come from: ctnetlink, or where that is
// not loaded the text of /proc/net/nf_conntrack.
type table struct {
	r    *reader
	conn *ctnl.Conn // nil without ctnetlink
	err  error      // why there is no conn
}

// dumped says how a dump went.
type dumped struct {
	complete      bool // nobody stopped it
	short         bool // it missed more than moves anyway
	before, after ct.Value
	buckets       uint32 // 0 if not known
}

// openTable connects to ctnetlink unless that would load it.
func (r *reader) openTable() *table {
	t := &table{r: r, err: ctnl.ErrNotLoaded}
	if !r.fs.Live() || r.fs.Pid != 0 || r.mods == nil {
		return t
	}
	if !r.mods.Monolithic() && !r.mods.State("nf_conntrack_netlink", "ctnetlink_get_conntrack").Present() {
		return t
	}
	t.conn, t.err = ctnl.Dial(ctnl.Options{Netns: r.o.Netns})
	return t
}

func (t *table) close() {
	if t.conn != nil {
		t.conn.Close()
	}
}

// stats lays the counters of ctnetlink over those of /proc, which has others
// besides and may lack some.
func (t *table) stats(m *reading) error {
	if t.conn == nil {
		return t.err
	}
	cpus, err := t.conn.Stats()
	if err != nil {
		return err
	}
	for _, c := range cpus {
		for len(m.perCPU) <= c.CPU && c.CPU < maxCPUs {
			m.perCPU = append(m.perCPU, ct.Counters{})
		}
		if c.CPU < len(m.perCPU) {
			for name, v := range c.Counters.All {
				m.perCPU[c.CPU].SetByName(name, v)
			}
		}
	}
	g, err := t.conn.GlobalStats()
	if err == nil {
		m.count = ct.Known(int64(g.Count))
		if g.HasMax && !t.r.snap.Limits.Max.Known {
			t.r.snap.Limits.Max = ct.Known(int64(g.Max))
		}
	}
	return nil
}

// maxCPUs is above the kernel's NR_CPUS.
const maxCPUs = 16384

// dump calls fn with the entries until it returns false.
func (t *table) dump(ctx context.Context, fn func(*ct.Flow) bool) (dumped, error) {
	if t.conn == nil {
		return t.dumpText(ctx, fn)
	}
	sum, err := t.conn.Dump(ctx, ctnl.Query{}, func(f *ct.Flow) error {
		if !fn(f) {
			return ctnl.ErrStop
		}
		return nil
	})
	return dumped{
		complete: !sum.Stopped,
		short:    sum.Resized() || sum.Short() > tolerance(sum.Received),
		before:   ct.Known(int64(sum.CountBefore)), after: ct.Known(int64(sum.CountAfter)),
		buckets: sum.BucketsAfter,
	}, err
}

// tolerance is how many counted entries no dump need show: those of packets
// under way, and dead ones that wait for a listener.
func tolerance(received int) int { return 64 + received/50 }

func (t *table) dumpText(ctx context.Context, fn func(*ct.Flow) bool) (dumped, error) {
	d := dumped{complete: true, before: t.r.textCount()}
	n := 0
	var err error
	enterErr := t.r.inside(func() {
		err = t.r.fs.Table(func(f *ct.Flow) error {
			if !fn(f) {
				d.complete = false
				return procfs.ErrStop
			}
			if n++; n%1024 == 0 {
				return ctx.Err()
			}
			return nil
		})
	})
	if err = errors.Join(enterErr, err); err != nil {
		return d, t.unreadable(err)
	}
	d.after = t.r.textCount()
	least := min(d.before.Or(0), d.after.Or(0))
	d.short = d.complete && least-int64(n) > int64(tolerance(n))
	return d, nil
}

// unreadable puts both reasons together where neither way leads to the entries.
func (t *table) unreadable(err error) error {
	if errors.Is(t.err, ctnl.ErrNotLoaded) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(t.err, err)
}

func (r *reader) textCount() ct.Value {
	var st procfs.Stat
	if err := r.inside(func() { st, _ = r.fs.ConntrackStat() }); err != nil {
		return ct.Value{}
	}
	return st.Entries
}

// advice says what to do about entries that cannot be read.
func (t *table) advice(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "run it as root, or with CAP_NET_ADMIN"
	case errors.Is(err, ctnl.ErrNotLoaded):
		return "modprobe nf_conntrack_netlink, which changes nothing on a machine that tracks already"
	}
	return "look again"
}
