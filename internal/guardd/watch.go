package guardd

import (
	"context"
	"errors"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/service"
)

// slow does what needs doing once a second.
func (d *daemon) slow(ctx context.Context, now time.Time) error {
	d.lastSlow = now
	if d.place.gone(ctx) {
		d.log.say("%s has gone: nothing is left to guard", &d.place)
		return ErrGone
	}
	ref := d.place.ref
	if ref != d.ref() {
		d.setRef()
	}
	if m, err := d.vitals.Max(); err == nil {
		d.seen.max = m
	}
	if b, err := d.vitals.Buckets(); err == nil {
		d.seen.buckets = b
	}
	if r, err := d.vitals.Resets(); err == nil {
		d.seen.resets = r
	}
	if d.wantAlive > 0 && now.Sub(d.lastAlive) >= d.wantAlive {
		d.lastAlive = now
		d.tell(service.Alive)
	}
	// In the midst of an attack nothing is looked at that is not needed.
	if d.lookNow || now.After(d.nextLook) && (d.level <= guard.Watch || d.around.Load().partial()) {
		d.lookNow = false
		d.nextLook = now.Add(time.Hour) // until the answer sets it
		cfg := d.o.Config
		go func() {
			service.Gently(func() { d.arounds <- lookAround(ref, &cfg, d.o.SSHConnection, false) })
			d.alarm.Ring()
		}()
	}
	if d.shrinkSoon && !d.looking && d.level == guard.Calm {
		d.shrinkSoon = false
		go service.Shrink()
	}
	return nil
}

// read takes a reading. It reports false where the machine could not be read:
// then nothing is decided.
func (d *daemon) read() bool {
	r := &d.reading
	count, counters, err := d.vitals.Counters()
	anew := d.level > guard.Watch || d.seen.max == 0
	if err == nil && anew {
		d.seen.max, err = d.vitals.Max()
	}
	if err != nil {
		d.events++
		d.errs.say(d.log, "the table cannot be read", err)
		return false
	}
	if anew {
		if b, err := d.vitals.Buckets(); err == nil {
			d.seen.buckets = b
		}
		if n, err := d.vitals.Resets(); err == nil {
			d.seen.resets = n
		}
	}
	r.At, r.Wall = d.clock(), time.Now()
	r.Count, r.Max, r.Buckets, r.Resets, r.Counters = count, d.seen.max, d.seen.buckets, d.seen.resets, counters
	r.Events, r.Table = d.events, d.table
	r.HasMemory = d.mem != nil
	r.AvailableBytes, r.TotalBytes, r.HighestCount, r.BusyNamespaces = 0, 0, 0, 0
	if d.mem != nil {
		r.AvailableBytes, r.TotalBytes = d.mem.available.Or(0), d.mem.total.Or(0)
		r.HighestCount, r.BusyNamespaces = max(d.mem.highest, count), d.mem.busy
	}
	return true
}

// look is what was looked at beside the loop.
type look struct {
	table    *guard.Table
	mem      *memory
	tableErr error
	memErr   error
}

// look reads, beside the loop, what takes longer than a tick may.
func (d *daemon) look(ctx context.Context, table, mem bool, after time.Duration) {
	if d.looking {
		return
	}
	d.looking = true
	a := d.around.Load()
	var known *ct.Timeouts
	var former []ct.Timeouts
	if a.known {
		known = &a.Timeouts
		if d.hands != nil {
			ok := false
			if former, ok = d.hands.own.sets(known, time.Now()); !ok {
				known, former = nil, nil
			}
		}
	}
	count, ref := d.reading.Count, d.ref()
	go func() {
		var l look
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if mem {
			l.mem, l.memErr = readMemory(ctx)
		}
		read := func() { l.table, l.tableErr = d.panels.read(ctx, ref, count, known, former, a.spare.Self) }
		switch {
		case !table:
		case after <= 0:
			service.Gently(read)
		case nap(ctx, after) == nil: // a decision waits for it
			read()
		}
		d.looked <- l
		d.alarm.Ring()
	}()
}

func (d *daemon) takeLook(l look) {
	d.looking = false
	d.table, d.mem = l.table, l.mem
	if l.tableErr != nil && !errors.Is(l.tableErr, context.Canceled) {
		d.events++
		d.errs.say(d.log, "the table's entries cannot be read", l.tableErr)
	}
	if l.memErr != nil && !errors.Is(l.memErr, context.Canceled) {
		d.errs.say(d.log, "memory and other namespaces cannot be read", l.memErr)
	}
}

func readMemory(ctx context.Context) (*memory, error) {
	m := new(memory)
	var err error
	if m.total, m.available, err = (procfs.FS{}).Meminfo(); err != nil {
		return nil, err
	}
	m.highest, m.busy, err = fullest(ctx)
	return m, err
}
