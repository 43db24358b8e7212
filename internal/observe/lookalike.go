package observe

import (
	"context"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/lookalike"
)

// lookAlikes reads what can be mistaken for a full table.
func (r *reader) lookAlikes() *ct.Lookalikes {
	var l ct.Lookalikes
	src := lookalike.Source{Root: r.o.Root, Pid: r.fs.Pid}
	if err := r.inside(func() { l = src.Read() }); err != nil {
		r.blind("the neighbours of connection tracking", err, asRoot(err, mountProc))
		return nil
	}
	return &l
}

// dying counts the entries that have left the table and wait for a listener.
// More than maxDying are not counted further: they are enough to speak of.
func (r *reader) dying(ctx context.Context, t *table) {
	const maxDying = 1 << 20
	if t.conn == nil {
		return
	}
	n := int64(0)
	_, err := t.conn.Dying(ctx, ctnl.Query{}, func(*ct.Flow) error {
		if n++; n >= maxDying {
			return ctnl.ErrStop
		}
		return nil
	})
	if err == nil {
		r.snap.Dying = ct.Known(n)
	}
}
