package evict

import (
	"context"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// Writer changes entries, named by the flows that they were read as. Calls may
// be collected; Flush carries out the rest.
type Writer interface {
	Delete(f *ct.Flow) error
	Shorten(f *ct.Flow, seconds uint32) error
	Flush() error
	// Failed returns how many changes the kernel has refused so far: mostly
	// entries that were gone.
	Failed() int
}

// Options of a run.
type Options struct {
	SoftSeconds uint32 // shorten to this instead of deleting; 0 deletes
	Limit       int    // at most so many entries; 0 is no limit
	PerSecond   int    // at most so many a second; 0 is no limit
	// Sleep waits between portions where PerSecond is set. It returns early
	// with the context's error.
	Sleep func(context.Context, time.Duration) error
}

// Result says what was done.
type Result struct {
	Tried   int // changes sent
	Refused int // of those, refused: entries that were gone, mostly
	Shorter int // entries that had less left than asked for, and keep it
	// LongestSeconds is the longest timeout given: more than was asked for, where
	// entries of handshakes are among them.
	LongestSeconds uint32
}

// Done returns how many entries were changed.
func (r Result) Done() int { return r.Tried - r.Refused }

// portions is how many times a second a limited run sends.
const portions = 10

// Run removes or shortens the selected entries in the order in which they were
// read. On an error the result says how far it came.
func (s *Selection) Run(ctx context.Context, w Writer, o Options) (res Result, err error) {
	before := w.Failed()
	defer func() { res.Refused = w.Failed() - before }()
	portion := max(1, o.PerSecond/portions)
	inPortion := 0
	for i := range s.entries {
		if o.Limit > 0 && res.Tried >= o.Limit {
			break
		}
		sent, err := s.change(&s.entries[i], w, o.SoftSeconds)
		if err != nil {
			return res, err
		}
		if !sent {
			res.Shorter++
			continue
		}
		res.Tried++
		s.entries[i].changed = true
		if o.SoftSeconds > 0 {
			res.LongestSeconds = max(res.LongestSeconds, s.softFor(&s.entries[i], o.SoftSeconds))
		}
		if inPortion++; o.PerSecond > 0 && inPortion >= portion {
			inPortion = 0
			if err := w.Flush(); err != nil {
				return res, err
			}
			if err := o.Sleep(ctx, time.Duration(portion)*time.Second/time.Duration(o.PerSecond)); err != nil {
				return res, err
			}
		}
		if i%1024 == 0 && ctx.Err() != nil {
			w.Flush()
			return res, ctx.Err()
		}
	}
	return res, w.Flush()
}

// change sends what an entry needs, if anything: a timeout is never lengthened.
func (s *Selection) change(e *entry, w Writer, soft uint32) (sent bool, err error) {
	if !s.needs(e, soft) {
		return false, nil
	}
	rec := s.read(e)
	f := rec.Flow()
	if soft == 0 {
		return true, w.Delete(&f)
	}
	return true, w.Shorten(&f, s.softFor(e, soft))
}

// needs reports whether an entry would be changed at all.
func (s *Selection) needs(e *entry, soft uint32) bool {
	return soft == 0 || e.expires != 0 && s.read(e).TimeoutSeconds > s.softFor(e, soft)
}

// Records calls yield with the record, as flowrec writes it, of every entry
// that Run would change.
func (s *Selection) Records(o Options, yield func([]byte) error) error {
	n := 0
	for i := range s.entries {
		e := &s.entries[i]
		if o.Limit > 0 && n >= o.Limit {
			break
		}
		if !s.needs(e, o.SoftSeconds) {
			continue
		}
		n++
		if err := yield(s.records[e.at : e.at+1+uint32(s.records[e.at])]); err != nil {
			return err
		}
	}
	return nil
}
