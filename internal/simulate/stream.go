package simulate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/ctwarden/ctwarden/sim"
)

// blockPackets is how many packets of a stream are read while those before are
// simulated.
const blockPackets = 64 * sim.BatchSize

// block is a part of a stream.
type block struct {
	at      []sim.Time
	packets []sim.Packet
}

// read fills the block; err is io.EOF behind the last packet.
func (b *block) read(src Source) (err error) {
	b.at, b.packets = b.at[:0], b.packets[:0]
	for len(b.at) < blockPackets {
		b.packets = b.packets[:len(b.at)+1]
		at, err := src.Next(&b.packets[len(b.at)])
		if err != nil {
			b.packets = b.packets[:len(b.at)]
			return err
		}
		b.at = append(b.at, at)
	}
	return nil
}

// Stream runs all settings side by side over packets that can be read only once,
// in constant memory, however many there are. Calling it off ends the traffic:
// what was seen until then is the result.
func Stream(ctx context.Context, settings []Setting, src Source, o Options) ([]Result, error) {
	o = o.complete()
	runners := make([]*runner, len(settings))
	for i, s := range settings {
		rn, err := newRunner(s, &Captured{}, o, func(p Progress) { o.Progress(i, p) })
		if err != nil {
			return nil, fmt.Errorf("simulate %q: %w", s.Name, err)
		}
		runners[i] = rn
	}
	var blocks [2]block
	for i := range blocks {
		blocks[i] = block{make([]sim.Time, 0, blockPackets), make([]sim.Packet, 0, blockPackets)}
	}
	err := blocks[0].read(src)
	for i := 0; ; i++ {
		b, next := &blocks[i%2], &blocks[(i+1)%2]
		if len(b.at) > 0 {
			var wg sync.WaitGroup
			for _, rn := range runners {
				wg.Go(func() { rn.block(b, i) })
			}
			if err == nil && ctx.Err() == nil {
				err = next.read(src)
			} else {
				next.at = next.at[:0]
			}
			wg.Wait()
		}
		if len(next.at) == 0 {
			break
		}
	}
	if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		return nil, err
	}
	out := make([]Result, len(runners))
	for i, rn := range runners {
		out[i] = rn.finish(&Captured{})
	}
	return out, nil
}

// block simulates a block, number n of the stream.
func (rn *runner) block(b *block, n int) {
	var verdicts [sim.BatchSize]sim.Verdict
	at, ps := b.at, b.packets
	for len(at) > 0 {
		k := min(len(at), sim.BatchSize)
		rn.packets(at[:k], ps[:k], verdicts[:k])
		at, ps = at[k:], ps[k:]
	}
	if n%8 == 0 {
		rn.tick(rn.last)
	}
}
