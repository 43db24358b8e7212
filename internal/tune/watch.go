package tune

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/internal/journal"
)

// watchEvery is the time between two looks during a trial.
const watchEvery = 5 * time.Second

// Health is how a machine does: running totals, and what memory is left.
type Health struct {
	At             time.Duration // CLOCK_BOOTTIME
	Invalid        uint64        // packets that could not be tracked
	Resets         uint64        // TCP resets sent and connections reset
	Refused        uint64        // packets refused by a full table
	AvailableBytes int64
	TotalBytes     int64
	// InvalidRate and ResetRate, a second, are set in a baseline.
	InvalidRate, ResetRate float64
}

// Baseline compares two readings from before the change.
func Baseline(a, b Health) *Health {
	s := (b.At - a.At).Seconds()
	if s > 0 {
		b.InvalidRate = float64(b.Invalid-a.Invalid) / s
		b.ResetRate = float64(b.Resets-a.Resets) / s
	}
	return &b
}

const (
	dataInvalidRate = "baseline_invalid_per_second"
	dataResetRate   = "baseline_resets_per_second"
)

func (h *Health) data() map[string]string {
	f := func(x float64) string { return strconv.FormatFloat(x, 'f', 3, 64) }
	return map[string]string{dataInvalidRate: f(h.InvalidRate), dataResetRate: f(h.ResetRate)}
}

// watch judges a trial while it runs.
type watch struct {
	known           bool // whether there is a baseline
	invalid, resets float64
	last            Health
	started         bool
	worse           int // looks in a row that were worse
}

func newWatch(o *journal.Op) *watch {
	w := &watch{}
	var errI, errR error
	w.invalid, errI = strconv.ParseFloat(o.Data[dataInvalidRate], 64)
	w.resets, errR = strconv.ParseFloat(o.Data[dataResetRate], 64)
	w.known = errI == nil && errR == nil
	return w
}

// worseLooks in a row end the part of the trial that is to blame.
const worseLooks = 3

// minMemoryShare of memory must stay available.
const minMemoryShare = 0.03

// cause is what a look at the machine blames, and which settings answer for it.
type cause struct {
	why  string
	keys func(key string) bool
}

// judge compares a look with the baseline. Resets and invalid packets speak
// against timeouts, a lack of memory against max. Refusals speak against
// nothing: lowering max could only make them worse.
func (w *watch) judge(h Health) *cause {
	if h.TotalBytes > 0 && float64(h.AvailableBytes) < minMemoryShare*float64(h.TotalBytes) {
		return &cause{fmt.Sprintf("only %s of memory is left", byteSize(h.AvailableBytes)),
			func(key string) bool { return key == KeyMax || key == KeyBuckets || key == KeyHashsize }}
	}
	prev, started := w.last, w.started
	w.last, w.started = h, true
	s := (h.At - prev.At).Seconds()
	if !w.known || !started || s <= 0 {
		return nil
	}
	invalid, resets := float64(h.Invalid-prev.Invalid)/s, float64(h.Resets-prev.Resets)/s
	if !muchMore(invalid, w.invalid) && !muchMore(resets, w.resets) {
		w.worse = 0
		return nil
	}
	if w.worse++; w.worse < worseLooks {
		return nil
	}
	return &cause{fmt.Sprintf("%.0f invalid packets and %.0f resets a second, were %.0f and %.0f", invalid, resets, w.invalid, w.resets),
		func(key string) bool { return strings.Contains(key, "timeout") || key == keyLoose || key == keyLiberal }}
}

// muchMore is three times the baseline, and at least twenty a second more.
func muchMore(now, base float64) bool { return now > 3*base && now > base+20 }

// watchOnce looks once and takes back what is to blame. done is set when the
// trial is over. Errors are told and tried again: the deadline stands.
func (k *Keeper) watchOnce(ctx context.Context, before *journal.Op, w *watch, look func() (Health, error)) (o *journal.Op, done bool) {
	id := before.ID
	var blame *cause
	if look != nil {
		if h, err := look(); err == nil {
			blame = w.judge(h)
		}
	}
	log, err := k.Journal.Read()
	if err != nil {
		k.say("%s: %v", id, err)
		return before, false
	}
	if o = log.Op(id); o == nil {
		return before, false // lost; see [Keeper.revertLost]
	}
	if !o.State.Open() {
		return o, true
	}
	if blame == nil && !holds(o) {
		return o, false
	}
	err = k.Journal.Do(ctx, func(tx *journal.Tx) error {
		o = tx.Log().Op(id)
		if o == nil || !o.State.Open() || o.Data[dataConfirming] != "" {
			return nil
		}
		if blame == nil {
			return k.revertOp(tx, o, deferred(o), "the table has drained")
		}
		k.say("%s: %s", id, blame.why)
		return k.revertOp(tx, o, blame.keys, blame.why)
	})
	if err != nil {
		k.say("%s: %v", id, err)
	}
	if o == nil {
		return before, false
	}
	return o, !o.State.Open()
}
