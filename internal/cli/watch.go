package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowdiff"
	"github.com/ctwarden/ctwarden/internal/flowexpr"
	"github.com/ctwarden/ctwarden/internal/flowfmt"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
)

const watchLong = `Shows entries as they are made, change and go.

By default it listens to the kernel's events. Listening costs the path of every
packet that makes or ends an entry some microseconds, and every new entry of the
host 128 bytes; under a flood that halves what the machine can take. --poll
reads the table at intervals and tells the differences instead: it costs a
reading each time and nothing in between, and does not see what comes and goes
between two readings.

What was lost because it could not be read in time is said.`

const watchExample = `  ctwarden watch -p tcp --dport 443
  ctwarden watch --event destroy --where 'bytes > 1000000' -o json
  ctwarden watch --poll 5s -s 10.0.0.0/8`

// watcher is one run of the command.
type watcher struct {
	env    *Env
	sel    selection
	poll   time.Duration
	events string
	count  int
	length time.Duration
	output string
	json   bool

	format flowfmt.Format
	kinds  ctnl.Groups
	filter *flowexpr.Filter
	table  *table

	mu   sync.Mutex // guards out
	out  *bufio.Writer
	buf  []byte
	seen int
	lost uint64
	rate eventRate
}

func newWatch(env *Env) *cobra.Command {
	w := &watcher{env: env}
	cmd := &cobra.Command{
		Use: "watch", Short: "Show entries as they are made, change and go",
		Long: watchLong, Example: watchExample, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return w.run(cmd.Context()) },
	}
	fs := cmd.Flags()
	w.sel.register(fs)
	fs.DurationVar(&w.poll, "poll", 0, "tell differences between readings at this interval instead of listening")
	fs.StringVarP(&w.events, "event", "e", "all", "new, update, destroy, or all")
	fs.IntVar(&w.count, "count", 0, "end after so many")
	fs.DurationVar(&w.length, "for", 0, "end after this time")
	fs.StringVarP(&w.output, "output", "o", "table", "table, json (a line each), csv or conntrack")
	fs.BoolVar(&w.json, "json", false, "the same as -o json")
	return cmd
}

func (w *watcher) run(ctx context.Context) (err error) {
	if err := w.check(); err != nil {
		return err
	}
	if w.table, err = w.sel.open(w.env); err != nil {
		return err
	}
	defer w.table.Close()
	if w.filter.Uses("idle_min") {
		if err := w.table.readTimeouts(); err != nil {
			return err
		}
	}
	if w.length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.length)
		defer cancel()
	}
	w.out = bufio.NewWriterSize(w.env.Stdout, 64<<10)
	w.head()
	stop := w.flushing()
	if w.poll > 0 {
		err = w.pollTable(ctx)
	} else {
		err = w.listen(ctx)
	}
	stop()
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ctnl.ErrStop) {
		err = nil
	}
	if err = errors.Join(err, w.out.Flush()); err == nil && w.lost > 0 {
		fmt.Fprintf(w.env.Stderr, "ctwarden: %d shown, %d lost\n", w.seen, w.lost)
	}
	return err
}

func (w *watcher) check() (err error) {
	if w.json {
		w.output = "json"
	}
	if w.format, err = flowfmt.Parse(w.output); err != nil {
		return err
	}
	if w.kinds, err = parseEvents(w.events); err != nil {
		return err
	}
	if w.poll != 0 && w.poll < minPoll {
		return fmt.Errorf("--poll is at least %s: each reading walks the whole table", minPoll)
	}
	if w.count < 0 || w.length < 0 {
		return errors.New("--count and --for cannot be negative")
	}
	w.filter, err = w.sel.compile()
	return err
}

const minPoll = 500 * time.Millisecond

func parseEvents(list string) (ctnl.Groups, error) {
	var g ctnl.Groups
	for name := range strings.SplitSeq(strings.ToLower(list), ",") {
		switch strings.TrimSpace(name) {
		case "new":
			g |= ctnl.GroupNew
		case "update", "updates":
			g |= ctnl.GroupUpdate
		case "destroy":
			g |= ctnl.GroupDestroy
		case "all":
			g |= ctnl.GroupsFlows
		default:
			return 0, fmt.Errorf("unknown event %q: it is new, update, destroy or all", name)
		}
	}
	return g, nil
}

// head writes what stands above the events.
func (w *watcher) head() {
	switch w.format {
	case flowfmt.JSON:
		b, _ := json.Marshal(struct {
			Schema string `json:"schema"`
			identity
			Filter      string  `json:"filter"`
			PollSeconds float64 `json:"poll_seconds,omitempty"`
		}{"ctwarden.watch/1", w.table.id, w.filter.String(), w.poll.Seconds()})
		w.out.Write(append(b, '\n'))
	case flowfmt.CSV:
		w.out.WriteString("time,event," + flowfmt.Header(flowfmt.CSV))
	case flowfmt.Table:
		w.out.WriteString(fmt.Sprintf("%-12s  %-7s  ", "TIME", "EVENT") + flowfmt.Header(flowfmt.Table))
	}
}

// flushing writes out what has gathered, several times a second.
func (w *watcher) flushing() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				w.mu.Lock()
				w.out.Flush()
				w.mu.Unlock()
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// listen shows the kernel's events.
func (w *watcher) listen(ctx context.Context) error {
	w.warnBefore()
	l, err := ctnl.Listen(ctnl.ListenOptions{Options: ctnl.Options{Netns: w.sel.netns}, Groups: w.kinds})
	if err != nil {
		return explainDial(err, w.sel.netns)
	}
	defer l.Close()
	return l.Run(ctx, ctnl.Handler{
		Flow: func(k ctnl.EventKind, f *ct.Flow) error {
			now := w.env.Now()
			if w.rate.count(now) {
				fmt.Fprintf(w.env.Stderr, "ctwarden: more than %d events a second: listening slows the kernel down now; --poll does not\n", floodEvents)
			}
			if !w.filter.Match(f, w.table.context(now)) {
				return nil
			}
			return w.show(now, eventNames[k], f)
		},
		Lost: func(n uint64) error { return w.tellLost(w.env.Now(), n) },
	})
}

var eventNames = map[ctnl.EventKind]string{ctnl.EventNew: "new", ctnl.EventUpdate: "update", ctnl.EventDestroy: "destroy"}

// warnBefore says what listening means on this machine.
func (w *watcher) warnBefore() {
	fmt.Fprintf(w.env.Stderr, "ctwarden: listening costs the kernel some microseconds an event, and 128 bytes a new entry on the whole host; --poll costs neither\n")
	s, err := w.table.readSurroundings()
	if err != nil {
		return
	}
	switch e := s.settings.Knobs.Events; {
	case e.Known && e.N == 0:
		fmt.Fprintf(w.env.Stderr, "ctwarden: nf_conntrack_events is 0: there are no events; --poll does without\n")
	case e.Known && e.N == 2:
		fmt.Fprintf(w.env.Stderr, "ctwarden: entries made before somebody listened stay silent, to their end\n")
	}
}

// pollTable shows the differences between readings.
func (w *watcher) pollTable(ctx context.Context) error {
	d := new(flowdiff.Diff)
	for {
		d.Begin()
		at := w.table.context(w.env.Now())
		sum, err := w.table.each(ctx, w.filter, at, true, func(f *ct.Flow) error {
			switch d.See(f) {
			case flowdiff.New:
				return w.showKind(ctnl.GroupNew, "new", f)
			case flowdiff.Updated:
				return w.showKind(ctnl.GroupUpdate, "update", f)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if sum.Resized() {
			fmt.Fprintf(w.env.Stderr, "ctwarden: the table was resized during the reading: some differences are none\n")
		}
		err = d.End(func(f *ct.Flow) error { return w.showKind(ctnl.GroupDestroy, "destroy", f) })
		if err != nil {
			return err
		}
		if err := sleep(ctx, w.poll); err != nil {
			return err
		}
	}
}

func (w *watcher) showKind(g ctnl.Groups, name string, f *ct.Flow) error {
	if w.kinds&g == 0 {
		return nil
	}
	return w.show(w.env.Now(), name, f)
}

// show writes one event, and ends the watch with the last that was asked for.
func (w *watcher) show(now time.Time, event string, f *ct.Flow) error {
	at := flowfmt.Context{NowNanos: now.UnixNano(), Timeouts: w.table.timeouts}
	b := w.buf[:0]
	switch w.format {
	case flowfmt.JSON:
		b = append(b, `{"time":"`...)
		b = now.UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(append(append(b, `","event":"`...), event...), `","flow":`...)
		b = append(at.AppendJSON(b, f), "}\n"...)
	case flowfmt.CSV:
		b = now.UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(append(append(b, ','), event...), ',')
		b = at.AppendCSV(b, f)
	case flowfmt.Conntrack:
		b = append(b, conntrackEvents[event]...)
		b = at.AppendConntrack(b, f)
	default:
		b = now.AppendFormat(b, "15:04:05.000  ")
		b = append(append(b, event...), "         "[len(event):]...)
		b = at.AppendRow(b, f)
	}
	w.buf = b
	w.mu.Lock()
	_, err := w.out.Write(b)
	w.mu.Unlock()
	if w.seen++; err == nil && w.seen == w.count {
		return ctnl.ErrStop
	}
	return err
}

// conntrackEvents are the heads of lines of conntrack -E.
var conntrackEvents = map[string]string{"new": "    [NEW] ", "update": " [UPDATE] ", "destroy": "[DESTROY] "}

func (w *watcher) tellLost(now time.Time, n uint64) error {
	w.lost += n
	if w.format == flowfmt.JSON {
		w.mu.Lock()
		defer w.mu.Unlock()
		_, err := fmt.Fprintf(w.out, "{\"time\":%q,\"event\":\"lost\",\"lost\":%d}\n", now.UTC().Format(time.RFC3339Nano), n)
		return err
	}
	fmt.Fprintf(w.env.Stderr, "ctwarden: %d events were lost: they came faster than they could be read\n", n)
	return nil
}

// floodEvents is the rate at which listening begins to weigh: at some nine
// microseconds each, a tenth of a processor and more.
const floodEvents = 10000

// eventRate notices the first second with too many events.
type eventRate struct {
	second int64
	n      int
	told   bool
}

func (r *eventRate) count(now time.Time) (flood bool) {
	if s := now.Unix(); s != r.second {
		r.second, r.n = s, 0
	}
	if r.n++; r.n > floodEvents && !r.told {
		r.told = true
		return true
	}
	return false
}
