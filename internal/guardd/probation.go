package guardd

import (
	"context"
	"errors"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/evict"
	"github.com/ctwarden/ctwarden/internal/flowrec"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
)

// probation is one [guard.Thin] being carried out: a first reading chooses, a
// second acquits what moved, the rest gets a short timeout, and a last reading
// has the kernel remove what expired and counts what lives.
type probation struct {
	h      *hands
	action guard.Action
	ctx    context.Context
	cancel context.CancelFunc
	over   chan struct{} // closed when all is done

	conn   *ctnl.Conn
	chosen *evict.Selection
	id     string    // in the journal, "" if it could not be put there
	at     time.Time // when the short timeouts were given
}

// settle is the time between the two readings: timeouts are told in whole
// seconds.
const settle = 2 * time.Second

// afterExpiry is how much later than the short timeouts the table is read: the
// kernel keeps them to the tick of its clock.
const afterExpiry = 100 * time.Millisecond

// handshakeFloor is what evict never goes below for a handshake, in seconds.
const handshakeFloor = 15

func (p *probation) run() (r guard.Result) {
	r.Action = p.action
	thin := p.action.Thin
	if thin == nil {
		r.Err = errors.New("nothing is said of which entries")
		return r
	}
	if r.Err = p.waitTurn(); r.Err != nil {
		return r
	}
	if p.conn, r.Err = p.h.dial(); r.Err != nil {
		return r
	}
	defer p.conn.Close()
	p.h.fault("thin-begin")
	if thin.Over {
		r.Err = p.freeOver(thin, &r)
		return r
	}
	if r.Err = p.choose(thin, &r); r.Err != nil || p.chosen.Len() == 0 {
		return r
	}
	p.record(thin, &r)
	p.h.fault("thin-recorded")
	w := batchWriter{p.conn.NewBatch()}
	p.at = time.Now()
	res, err := p.chosen.Run(p.ctx, w, evict.Options{SoftSeconds: thin.Seconds, Limit: thin.Limit})
	r.Changed = res.Done()
	p.h.fault("thin-shortened")
	if err != nil && !errors.Is(err, context.Canceled) {
		r.Err = err
	}
	if r.Changed > 0 {
		p.await(thin, &r)
	}
	p.h.fault("thin-reaped")
	p.close(&r)
	return r
}

// waitTurn lets the short timeouts of a guard that was killed run down: until
// then what is left of an entry tells nothing.
func (p *probation) waitTurn() error {
	p.h.mu.Lock()
	left := time.Until(p.h.notBefore)
	p.h.mu.Unlock()
	if left <= 0 {
		return nil
	}
	return nap(p.ctx, left)
}

// choose reads the table twice.
func (p *probation) choose(thin *guard.Thin, r *guard.Result) error {
	a := p.h.around()
	if !a.known {
		return errors.Join(errUnknown, errors.New(a.whyNot))
	}
	spare, err := a.refreshSSH(p.h.ref(), p.h.ssh)
	if err != nil {
		return err
	}
	sets, ok := p.h.own.sets(&a.Timeouts, time.Now())
	if !ok {
		return errUnknown
	}
	s := newSuspects(thin, a, spare, append(sets, a.Timeouts), p.h.clock())
	clock := readClock{}
	_, err = p.conn.Dump(p.ctx, ctnl.Query{}, func(f *ct.Flow) error { return s.take(f, clock.nanos()) })
	if err != nil {
		return err
	}
	s.settleFirst()
	p.chosen = &s.sel
	r.Selected, r.Spared = s.sel.Len(), s.spared
	if r.Selected == 0 {
		return nil
	}
	if err := nap(p.ctx, settle); err != nil {
		return err
	}
	clock = readClock{}
	_, err = p.conn.Dump(p.ctx, ctnl.Query{}, func(f *ct.Flow) error {
		if _, spared := spare.Spares(f); !spared {
			p.chosen.Again(f, clock.nanos())
		}
		return nil
	})
	r.Active = p.chosen.Settle()
	return err
}

// freeOver gives a second to entries of connections that both sides have ended.
// One reading is enough: it does not matter how long ago that was, and the
// kernel removes them when it next walks over them.
func (p *probation) freeOver(thin *guard.Thin, r *guard.Result) error {
	spare, err := p.h.around().refreshSSH(p.h.ref(), p.h.ssh)
	if err != nil {
		return err
	}
	p.chosen = new(evict.Selection)
	clock := readClock{}
	_, err = p.conn.Dump(p.ctx, ctnl.Query{}, func(f *ct.Flow) error {
		if !isOver(f) || p.chosen.Len() >= min(thin.Limit, mostSuspects) {
			return nil
		}
		if _, spared := spare.Spares(f); spared {
			r.Spared++
			return nil
		}
		return p.chosen.Add(f, clock.nanos())
	})
	r.Selected = p.chosen.Len()
	if err != nil || r.Selected == 0 {
		return err
	}
	p.record(thin, r)
	p.at = time.Now()
	res, err := p.chosen.Run(p.ctx, batchWriter{p.conn.NewBatch()}, evict.Options{SoftSeconds: thin.Seconds, Limit: thin.Limit})
	r.Changed = res.Done()
	p.h.fault("thin-shortened")
	p.close(r)
	return err
}

// isOver reports whether an entry is of a TCP connection that both sides have
// ended: it only keeps stray packets from being taken for others'. What is
// translated also keeps its port from being given to another too soon.
func isOver(f *ct.Flow) bool {
	return f.Orig.Proto == ct.TCP && f.State == ct.TCPTimeWait && f.Has(ct.HasProtoInfo) && f.Has(ct.HasTimeout) && f.TimeoutSeconds > 1 &&
		!f.NAT() && !f.Status.Any(ct.StatusDying)
}

// mostSideBytes bounds what all side files together take: the journal keeps the
// last 16.
const mostSideBytes = 64 << 20

// record puts the probation into the journal. It is not held up by a full disk:
// an entry that moves has its timeout back with the next packet.
func (p *probation) record(thin *guard.Thin, r *guard.Result) {
	o := evict.Options{SoftSeconds: thin.Seconds, Limit: thin.Limit}
	id, err := p.h.ledger.beginProbation(p.ctx, p.chosen, o, p.action.Why, p.action.String())
	if err != nil {
		p.h.log.say("what goes on probation is not on record (%v); it goes on probation all the same, for whatever moves gets its timeout back", err)
		return
	}
	p.id = id
}

// await waits until the short timeouts have run down, then reads the table to
// the end: the kernel removes what has expired on the way, and what is still
// there has survived. Handshakes, which get their floor at least, are not waited
// for: the next probation leaves those alone that still run down. If it is
// called off, survivors get their timeouts back.
func (p *probation) await(thin *guard.Thin, r *guard.Result) {
	if err := nap(p.ctx, time.Duration(thin.Seconds)*time.Second+afterExpiry); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), quickly)
		defer cancel()
		n, err := restore(ctx, p.conn, p.chosen.Each, p.at, thin.Seconds)
		p.h.log.say("probation called off: %d entries have their timeouts back", n)
		r.Err = errors.Join(r.Err, err)
		return
	}
	survived := 0
	_, err := p.conn.Dump(p.ctx, ctnl.Query{}, func(f *ct.Flow) error {
		if floorOf(f) <= thin.Seconds && p.chosen.Changed(f) {
			survived++
		}
		return nil
	})
	r.Survived = min(survived, r.Changed)
	r.Err = errors.Join(r.Err, err)
}

func (p *probation) close(r *guard.Result) {
	if p.id == "" {
		return
	}
	err := p.h.ledger.j.Mark(context.Background(), p.id, journal.Change{State: journal.Confirmed,
		Counts: map[string]uint64{"changed": uint64(r.Changed), "active": uint64(r.Active), "survived": uint64(r.Survived)}})
	if err != nil {
		p.h.log.say("the end of the probation is not on record: %v", err)
	}
}

// endProbation calls off the probation that is meant, if it is under way.
func (h *hands) endProbation(r *guard.Result) error {
	h.mu.Lock()
	p := h.probation
	h.mu.Unlock()
	if p == nil || r.Action.Of != 0 && r.Action.Of != p.action.ID {
		return nil
	}
	p.cancel()
	<-p.over
	return nil
}

// restoreSlack is how far the end of an untouched entry may lie from where a
// probation put it: the time that writing took, and truncated seconds.
const restoreSlack = 5 * time.Second

// restore gives entries that still run down as a probation left them, at a
// moment, the timeouts that they would have now.
func restore(ctx context.Context, c *ctnl.Conn, entries func(func(*flowrec.Entry) bool), at time.Time, seconds uint32) (int, error) {
	byID := make(map[uint32]flowrec.Entry)
	for e := range entries {
		byID[e.ID] = *e
	}
	b := c.NewBatch()
	type deed struct {
		key  ctnl.Key
		left uint32
	}
	var deeds []deed
	_, err := c.Dump(ctx, ctnl.Query{}, func(f *ct.Flow) error {
		was, ok := byID[f.ID]
		if !ok || was.Orig != f.Orig || was.State != f.State || !f.Has(ct.HasTimeout) {
			return nil
		}
		passed := time.Since(at)
		given := time.Duration(max(seconds, floorOf(f))) * time.Second
		left := int64(was.TimeoutSeconds) - int64(passed/time.Second)
		if f.Timeout() > given-passed+restoreSlack || left <= int64(f.TimeoutSeconds) {
			return nil // a packet has passed since
		}
		k, err := ctnl.KeyOf(f)
		deeds = append(deeds, deed{k, uint32(left)})
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, d := range deeds {
		if err := b.Update(d.key, ctnl.Change{TimeoutSeconds: d.left}); err != nil {
			return 0, err
		}
	}
	err = b.Flush()
	return len(deeds) - b.Failed(), err
}

func floorOf(f *ct.Flow) uint32 {
	if guard.ClassOf(f) == guard.HalfOpen {
		return handshakeFloor
	}
	return 1
}

// batchWriter shortens entries through ctnetlink. It cannot delete.
type batchWriter struct{ b *ctnl.Batch }

var errNoDelete = errors.New("the guard deletes no entries")

func (w batchWriter) Delete(*ct.Flow) error { return errNoDelete }

func (w batchWriter) Shorten(f *ct.Flow, seconds uint32) error {
	k, err := ctnl.KeyOf(f)
	if err != nil {
		return err
	}
	return w.b.Update(k, ctnl.Change{TimeoutSeconds: seconds})
}

func (w batchWriter) Flush() error { return w.b.Flush() }
func (w batchWriter) Failed() int  { return w.b.Failed() }

// readClock gives times for entries as they are read, asking for the time only
// now and then. The times are monotonic: a step of the wall clock between the
// readings would acquit or condemn everything.
type readClock struct {
	last int64
	n    int
}

func (c *readClock) nanos() int64 {
	if c.n%256 == 0 {
		c.last = int64(time.Since(begun))
	}
	c.n++
	return c.last
}

// begun is where the clock of this process starts.
var begun = time.Now()

func nap(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
