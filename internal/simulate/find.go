package simulate

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"
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

// Find searches the smallest value of a key with which a run meets the target.
// The condition must stay met above that value, as it does for refusals over
// max. tell is told of every run.
func Find(ctx context.Context, base Setting, key string, low, high int, target *Target, traffic func() (Traffic, error), o Options, tell func(value int, met bool)) (*Found, error) {
	if !Searchable(key) || low < 0 || high < low {
		return nil, fmt.Errorf("%w: cannot search %s between %d and %d", ErrSetting, key, low, high)
	}
	f := &Found{Key: key, Target: target.text}
	try := func(v int) (Result, bool, error) {
		s := base
		s.Name = key + "=" + strconv.Itoa(v)
		if err := s.set(key, strconv.Itoa(v)); err != nil {
			return Result{}, false, err
		}
		rs, err := Compare(ctx, []Setting{s}, traffic, o)
		if err != nil {
			return Result{}, false, err
		}
		met, err := target.Met(&rs[0])
		if tell != nil {
			tell(v, met)
		}
		f.Runs = append(f.Runs, rs[0])
		return rs[0], met, err
	}
	best, met, err := try(high)
	if err != nil {
		return nil, err
	}
	if !met {
		return f, fmt.Errorf("%w: not even %s=%d", ErrNotFound, key, high)
	}
	f.Value = high
	// A run that never filled the table tells what it needs.
	if key == "max" && best.Peak < high && best.Peak >= low {
		high = best.Peak
	}
	for low < high {
		mid := low + (high-low)/2
		r, met, err := try(mid)
		if err != nil {
			return nil, err
		}
		if met {
			high, best, f.Value = mid, r, mid
		} else {
			low = mid + 1
		}
	}
	if f.Value != high {
		r, met, err := try(high)
		if err != nil {
			return nil, err
		}
		if met {
			best, f.Value = r, high
		}
	}
	f.Runs = append(f.Runs, best)
	return f, nil
}
