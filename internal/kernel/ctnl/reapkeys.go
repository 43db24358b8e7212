package ctnl

import (
	"context"
	"iter"

	"github.com/ctwarden/ctwarden/internal/kernel/ctwalk"
)

// ReapKeys has the kernel look for entries by their keys, which removes those
// among them that have expired. It calls left with each that may still be there:
// it, or another that has its tuple; or one of a kind that cannot be looked for
// this way, which is not TCP, UDP, or is not in the default zone.
//
// Nothing has been called where it returns false: this kernel has no such way,
// and Reap goes through the whole table instead.
func (c *Conn) ReapKeys(ctx context.Context, keys iter.Seq[Key], left func(Key) error) (bool, error) {
	r, err := ctwalk.OpenReaper(c.opts.Netns, c.inode)
	if err != nil {
		return false, nil
	}
	defer r.Close()
	var asked, still []Key
	run := func() error {
		still = still[:0]
		err := r.Run(func(i int) { still = append(still, asked[i]) })
		asked = asked[:0]
		for i := range still {
			if err == nil {
				err = left(still[i])
			}
		}
		return err
	}
	for k := range keys {
		if k.zone != 0 || k.zoneOrig != 0 || !r.Add(k.Orig()) {
			if err := left(k); err != nil {
				return true, err
			}
			continue
		}
		if asked = append(asked, k); !r.Full() {
			continue
		}
		if err := run(); err != nil {
			return true, err
		}
		if ctx.Err() != nil {
			return true, ctx.Err()
		}
	}
	return true, run()
}
