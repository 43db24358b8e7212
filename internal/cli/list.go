package cli

import (
	"bufio"
	"container/heap"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowexpr"
	"github.com/ctwarden/ctwarden/internal/flowfmt"
	"github.com/ctwarden/ctwarden/internal/flowgroup"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
)

const listLong = `Lists the entries of the connection tracking table, of both families and all
zones, as fast as the kernel hands them over and in constant memory.

The selecting flags are those of conntrack(8); --where takes an expression over
every field. With --by, entries are counted by what they share.`

const listExample = `  ctwarden list -p tcp --state SYN_SENT
  ctwarden list --by src --top 20
  ctwarden list --by dst,dport -s 10.0.0.0/8
  ctwarden list --by process,state
  ctwarden list --where 'proto == "tcp" && idle_min > 1h && !nat' -o conntrack
  ctwarden list --sort bytes --top 10`

// lister is one run of the command.
type lister struct {
	env    *Env
	sel    selection
	by     string
	sort   string
	top    int
	groups int
	output string
	json   bool

	format flowfmt.Format
	filter *flowexpr.Filter
	table  *table
	out    *bufio.Writer
	shown  int // entries or groups
}

func newList(env *Env) *cobra.Command {
	l := &lister{env: env}
	cmd := &cobra.Command{
		Use: "list", Short: "List the entries of the table, or count them by what they share",
		Long: listLong, Example: listExample, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return l.run(cmd) },
	}
	fs := cmd.Flags()
	l.sel.register(fs)
	fs.StringVar(&l.by, "by", "", "count by fields: "+strings.Join(flowgroup.Names, ", ")+"; src/24 for prefixes")
	fs.StringVar(&l.sort, "sort", "", "order: with --by entries, assured, unreplied, packets or bytes; else a number field of --where, with - in front the smallest first")
	fs.IntVar(&l.top, "top", 0, "only the first so many")
	fs.IntVar(&l.groups, "max-groups", flowgroup.DefaultMax, "groups counted exactly; beyond, small ones are forgotten and the error is told")
	fs.StringVarP(&l.output, "output", "o", "table", "table, json, csv or conntrack")
	fs.BoolVar(&l.json, "json", false, "the same as -o json")
	return cmd
}

func (l *lister) run(cmd *cobra.Command) (err error) {
	if l.json {
		l.output = "json"
	}
	if l.format, err = flowfmt.Parse(l.output); err != nil {
		return err
	}
	if l.filter, err = l.sel.compile(); err != nil {
		return err
	}
	if l.top < 0 {
		return errors.New("--top is a number of lines")
	}
	if l.table, err = l.sel.open(l.env); err != nil {
		return err
	}
	defer l.table.Close()
	if err := l.readIdle(); err != nil {
		return err
	}
	l.out = bufio.NewWriterSize(l.env.Stdout, 64<<10)
	sum, err := l.print(cmd)
	if err == nil {
		err = l.out.Flush()
	}
	if err == nil {
		warnShort(l.env, &sum)
		l.sayNothing(&sum)
	}
	return explainDial(err, l.sel.netns)
}

// sayNothing tells a person why nothing is shown.
func (l *lister) sayNothing(s *ctnl.Summary) {
	switch {
	case l.shown > 0 || l.format != flowfmt.Table:
	case s.CountBefore == 0 && l.filter.Empty():
		_, _ = fmt.Fprintln(l.env.Stderr, "ctwarden: the table is empty: nothing has passed yet, or nothing is tracked in this namespace")
	case s.CountBefore == 0:
		_, _ = fmt.Fprintln(l.env.Stderr, "ctwarden: no entry matches")
	default:
		fmt.Fprintf(l.env.Stderr, "ctwarden: none of %d entries matches\n", s.CountBefore)
	}
}

// readIdle finds out what idle times need, where any are looked at or shown.
func (l *lister) readIdle() error {
	asked := l.filter.Uses("idle_min") || strings.TrimPrefix(l.sort, "-") == "idle_min"
	if !asked && (l.by != "" || l.format == flowfmt.Conntrack) {
		return nil
	}
	if err := l.table.readTimeouts(); err != nil {
		return err
	}
	if asked && l.table.timeouts == nil {
		fmt.Fprintf(l.env.Stderr, "ctwarden: idle times are unknown, so nothing matches them: %s\n", l.table.whyNot)
	}
	return nil
}

func (l *lister) print(cmd *cobra.Command) (ctnl.Summary, error) {
	switch {
	case l.by != "":
		return l.printGroups(cmd)
	case l.sort != "":
		return l.printSorted(cmd)
	}
	return l.printAll(cmd)
}

// showsIDs reports whether the ids of entries are printed or gone by.
func (l *lister) showsIDs() bool {
	return l.format == flowfmt.JSON || l.format == flowfmt.CSV || strings.TrimPrefix(l.sort, "-") == "id"
}

// printAll streams the entries.
func (l *lister) printAll(cmd *cobra.Command) (ctnl.Summary, error) {
	at := l.table.context(l.env.Now())
	w := l.writer(at)
	w.begin()
	sum, err := l.table.each(cmd.Context(), l.filter, at, l.showsIDs(), func(f *ct.Flow) error {
		if err := w.flow(f); err != nil {
			return err
		}
		if l.top > 0 && w.n >= l.top {
			return ctnl.ErrStop
		}
		return nil
	})
	w.end(&sum)
	l.shown = w.n
	return sum, err
}

// flowWriter prints entries one by one.
type flowWriter struct {
	l   *lister
	at  flowfmt.Context
	buf []byte
	n   int
}

func (l *lister) writer(at *flowexpr.Context) *flowWriter {
	return &flowWriter{l: l, at: flowfmt.Context{NowNanos: at.NowNanos, Timeouts: at.Timeouts}}
}

func (w *flowWriter) begin() {
	if w.l.format == flowfmt.JSON {
		w.l.beginJSON("entries")
	}
	w.l.out.WriteString(flowfmt.Header(w.l.format))
}

func (w *flowWriter) flow(f *ct.Flow) error {
	b := w.buf[:0]
	if w.l.format == flowfmt.JSON {
		if w.n > 0 {
			b = append(b, ',')
		}
		b = append(b, '\n')
	}
	w.buf = w.at.Append(b, f, w.l.format)
	w.n++
	_, err := w.l.out.Write(w.buf)
	return err
}

func (w *flowWriter) end(s *ctnl.Summary) {
	if w.l.format == flowfmt.JSON {
		w.l.endJSON(listSummary{Shown: w.n, Received: s.Received, Stopped: s.Stopped,
			Short: s.Short(), Resized: s.Resized(), CountBefore: s.CountBefore, CountAfter: s.CountAfter})
	}
}

// listSummary closes a document.
type listSummary struct {
	Shown       int    `json:"shown"`
	Received    int    `json:"received"` // entries the kernel sent
	Stopped     bool   `json:"stopped,omitempty"`
	Short       int    `json:"short,omitempty"` // entries that may be missing
	Resized     bool   `json:"resized,omitempty"`
	CountBefore uint32 `json:"count_before"`
	CountAfter  uint32 `json:"count_after"`
	// Of groups: how many there are, how many were given up to bound memory,
	// and how many entries a group may lack for it.
	Groups    int    `json:"groups,omitempty"`
	Forgotten int    `json:"groups_forgotten,omitempty"`
	Error     uint64 `json:"entries_error,omitempty"`
}

// beginJSON writes a document up to its list, which is streamed.
func (l *lister) beginJSON(list string) {
	head, _ := json.Marshal(struct {
		Schema string `json:"schema"`
		identity
		Filter string   `json:"filter"`
		By     []string `json:"by,omitempty"`
	}{"ctwarden.list/1", l.table.id, l.filter.String(), l.columns()})
	l.out.Write(head[:len(head)-1])
	fmt.Fprintf(l.out, ",%q:[", list)
}

func (l *lister) columns() []string {
	if l.by == "" {
		return nil
	}
	return strings.Split(l.by, ",")
}

func (l *lister) endJSON(s listSummary) {
	tail, _ := json.Marshal(s)
	fmt.Fprintf(l.out, "\n],\"summary\":%s}\n", tail)
}

// printSorted keeps the first entries in a heap, so that memory is bounded.
func (l *lister) printSorted(cmd *cobra.Command) (ctnl.Summary, error) {
	name, ascending := strings.CutPrefix(l.sort, "-")
	field, ok := flowexpr.FindField(name)
	if !ok || !field.Numeric() {
		return ctnl.Summary{}, fmt.Errorf("cannot sort by %q: it is no number field", name)
	}
	if l.top == 0 {
		return ctnl.Summary{}, &HintError{errors.New("--sort needs --top"), "sorting the whole table would hold all of it in memory; --top 100 shows the first hundred"}
	}
	at := l.table.context(l.env.Now())
	h := &flowHeap{limit: l.top}
	sum, err := l.table.each(cmd.Context(), l.filter, at, l.showsIDs(), func(f *ct.Flow) error {
		v, ok := field.Number(f, at)
		if ascending {
			v = -v
		}
		if ok {
			h.offer(f, v)
		}
		return nil
	})
	if err != nil {
		return sum, err
	}
	slices.SortFunc(h.flows, func(a, b ranked) int { return -a.compare(b) })
	w := l.writer(at)
	w.begin()
	for i := range h.flows {
		if err := w.flow(&h.flows[i].flow); err != nil {
			return sum, err
		}
	}
	w.end(&sum)
	l.shown = w.n
	return sum, nil
}

type ranked struct {
	flow  ct.Flow
	value int64
}

func (r ranked) compare(o ranked) int {
	switch {
	case r.value < o.value:
		return -1
	case r.value > o.value:
		return 1
	}
	return 0
}

// flowHeap keeps the greatest; its root is the least of them.
type flowHeap struct {
	flows []ranked
	limit int
}

func (h *flowHeap) Len() int           { return len(h.flows) }
func (h *flowHeap) Less(i, j int) bool { return h.flows[i].value < h.flows[j].value }
func (h *flowHeap) Swap(i, j int)      { h.flows[i], h.flows[j] = h.flows[j], h.flows[i] }
func (h *flowHeap) Push(x any)         { h.flows = append(h.flows, x.(ranked)) }
func (h *flowHeap) Pop() any {
	last := h.flows[len(h.flows)-1]
	h.flows = h.flows[:len(h.flows)-1]
	return last
}

func (h *flowHeap) offer(f *ct.Flow, v int64) {
	if len(h.flows) < h.limit {
		heap.Push(h, ranked{*f, v})
	} else if v > h.flows[0].value {
		h.flows[0] = ranked{*f, v}
		heap.Fix(h, 0)
	}
}
