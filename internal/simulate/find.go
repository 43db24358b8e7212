package simulate

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"

	"github.com/ctwarden/ctwarden/ct"
)

// Target is a condition over the figures of a run, such as "refused == 0 &&
// served >= 0.995".
type Target struct {
	text    string
	program *vm.Program
}

// figures are what a target can speak of.
func figures(r *Result) map[string]any {
	served, ok := r.LegitimateServed()
	if !ok {
		served = 1
		if r.Packets > 0 {
			served = 1 - float64(r.Refused)/float64(r.Packets)
		}
	}
	return map[string]any{
		"refused": int(r.Refused), "peak": r.Peak, "p50": r.P50, "p95": r.P95, "p99": r.P99,
		"early_drop": int(r.EarlyDrop), "early_drop_legitimate": int(r.LegitDrop), "lost": int(r.Lost),
		"invalid": int(r.Invalid), "gc_evicted": int(r.GCEvicted), "full_at": r.FullAt,
		"memory": int(r.Memory), "served": served, "packets": int(r.Packets), "max": r.Max, "buckets": r.Buckets,
	}
}

// ParseTarget compiles a condition.
func ParseTarget(text string) (*Target, error) {
	p, err := expr.Compile(text, expr.Env(figures(&Result{})), expr.AsBool())
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", text, err)
	}
	return &Target{text, p}, nil
}

// Met reports whether a run meets the target.
func (t *Target) Met(r *Result) (bool, error) {
	out, err := expr.Run(t.program, figures(r))
	if err != nil {
		return false, fmt.Errorf("target %q: %w", t.text, err)
	}
	return out.(bool), nil
}

// ErrNotFound says that no value in the range meets the target.
var ErrNotFound = errors.New("no value meets the target")

// Found is the outcome of a search.
type Found struct {
	Key    string   `json:"key"`
	Value  int      `json:"value"`
	Target string   `json:"target"`
	Runs   []Result `json:"runs"` // those made, the last the one that meets the target
}

// Which says what of the values that meet the target was searched.
func (f *Found) Which() string {
	if longest(f.Key) {
		return "longest"
	}
	return "smallest"
}

// longest reports whether more of a key is harder on the table: of timeouts the
// longest is wanted.
func longest(key string) bool {
	_, timeout := ct.ParseTimeoutKey(key)
	return timeout
}

// longestTimeout bounds the search: nothing is kept for longer by default.
const longestTimeout = 432_000

// finder is a search under way.
type finder struct {
	ctx     context.Context
	base    Setting
	target  *Target
	traffic func() (Traffic, error)
	o       Options
	tell    func(value int, met bool)
	found   *Found
}

// Find searches the smallest value of max or buckets, or the longest timeout,
// with which a run meets the target. The condition must stay met on the far side
// of that value, as it does for refusals over max. tell is told of every run.
func Find(ctx context.Context, base Setting, key string, low, high int, target *Target, traffic func() (Traffic, error), o Options, tell func(value int, met bool)) (*Found, error) {
	if !Searchable(key) || low < 0 || high < low {
		return nil, fmt.Errorf("%w: cannot search %s between %d and %d", ErrSetting, key, low, high)
	}
	f := &finder{ctx: ctx, base: base, target: target, traffic: traffic, o: o, tell: tell,
		found: &Found{Key: key, Target: target.text}}
	good, bad := high, low-1
	if longest(key) {
		good, bad = low, max(low, min(high, longestTimeout))+1
	}
	best, err := f.search(good, bad)
	if errors.Is(err, ErrNotFound) {
		return f.found, err
	}
	if err != nil {
		return nil, err
	}
	f.found.Runs = append(f.found.Runs, best)
	return f.found, nil
}

// try runs one value. A run that was called off says nothing.
func (f *finder) try(v int) (Result, bool, error) {
	s := f.base
	s.Name = f.found.Key + "=" + strconv.Itoa(v)
	if err := s.set(f.found.Key, strconv.Itoa(v)); err != nil {
		return Result{}, false, err
	}
	rs, err := Compare(f.ctx, []Setting{s}, f.traffic, f.o)
	if err == nil {
		err = f.ctx.Err()
	}
	if err != nil {
		return Result{}, false, err
	}
	met, err := f.target.Met(&rs[0])
	if f.tell != nil {
		f.tell(v, met)
	}
	f.found.Runs = append(f.found.Runs, rs[0])
	if met && err == nil {
		f.found.Value = v
	}
	return rs[0], met, err
}

// search finds the last value that meets the target between one that should meet
// it and one beyond all that are asked for, in either direction.
func (f *finder) search(good, bad int) (best Result, err error) {
	best, met, err := f.try(good)
	if err != nil {
		return best, err
	}
	if !met {
		return best, fmt.Errorf("%w: not even %s=%d", ErrNotFound, f.found.Key, good)
	}
	// A run that never filled the table tells what it needs, within one.
	next := good + (bad-good)/2
	if f.found.Key == "max" && bad < best.Peak && best.Peak < good {
		next = best.Peak
	}
	for next != good {
		r, met, err := f.try(next)
		if err != nil {
			return best, err
		}
		if met {
			best, good = r, next
		} else {
			bad = next
		}
		next = good + (bad-good)/2
	}
	return best, nil
}
