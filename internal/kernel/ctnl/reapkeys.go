package ctnl

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/ctwarden/ctwarden/internal/kernel/ctwalk"
)

// Reaper has the kernel look for entries by their keys, which removes those among
// them that have expired: thousands at a time, where Reap goes through the whole
// table.
type Reaper struct{ workers []*ctwalk.Reaper }

// reapers is how many run side by side: each removal takes locks of its own
// buckets only.
const reapers = 2

// NewReaper returns a Reaper for this connection's namespace. It says why where
// there is no such way.
func (c *Conn) NewReaper() (*Reaper, error) {
	all, err := ctwalk.OpenReapers(reapers, c.opts.Netns, c.inode)
	if err != nil {
		return nil, err
	}
	return &Reaper{all}, nil
}

// Close frees what the Reaper holds.
func (r *Reaper) Close() error {
	var errs []error
	for _, w := range r.workers {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}

// reapChunk is how many keys are taken at a time.
const reapChunk = 4096

// Reap removes those of the entries that have expired. It returns the keys of
// those that may still be there, in no order: found, be it as another entry with
// the same tuple, or of a kind that cannot be looked for this way, which is not
// TCP, UDP, or is not in the default zone.
func (r *Reaper) Reap(ctx context.Context, keys []Key) ([]Key, error) {
	var (
		next atomic.Int64
		wg   sync.WaitGroup
		left = make([][]Key, len(r.workers))
		errs = make([]error, len(r.workers))
	)
	for i, w := range r.workers {
		wg.Go(func() {
			for errs[i] == nil && ctx.Err() == nil {
				begin := int(next.Add(reapChunk)) - reapChunk
				if begin >= len(keys) {
					return
				}
				left[i], errs[i] = reapSome(w, keys[begin:min(begin+reapChunk, len(keys))], left[i])
			}
		})
	}
	wg.Wait()
	var all []Key
	for _, some := range left {
		all = append(all, some...)
	}
	return all, errors.Join(append(errs, ctx.Err())...)
}

// reapSome appends to left the keys that may still be there.
func reapSome(w *ctwalk.Reaper, keys, left []Key) ([]Key, error) {
	asked := 0
	for i := range keys {
		k := &keys[i]
		if k.zone != 0 || k.zoneOrig != 0 || !w.Add(k.Orig()) {
			left = append(left, *k)
			continue
		}
		keys[asked], *k = *k, keys[asked] // those that were asked for, in front
		asked++
	}
	return left, w.Run(func(i int) { left = append(left, keys[i]) })
}
