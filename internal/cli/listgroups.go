package cli

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowfmt"
	"github.com/ctwarden/ctwarden/internal/flowgroup"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/protect"
	"github.com/ctwarden/ctwarden/internal/kernel/sockdiag"
)

// printGroups counts the entries and prints the groups.
func (l *lister) printGroups(cmd *cobra.Command) (ctnl.Summary, error) {
	if l.format == flowfmt.Conntrack {
		return ctnl.Summary{}, fmt.Errorf("-o conntrack shows entries, not groups")
	}
	order, err := l.groupOrder()
	if err != nil {
		return ctnl.Summary{}, err
	}
	o := new(owners)
	by, err := flowgroup.Parse(l.by, o)
	if err != nil {
		return ctnl.Summary{}, err
	}
	if by.NeedsOwners() {
		if err := o.open(l.table); err != nil {
			return ctnl.Summary{}, err
		}
	}
	groups := flowgroup.New(by, l.groups)
	at := l.table.context(l.env.Now())
	sum, err := l.table.each(cmd.Context(), l.filter, at, false, func(f *ct.Flow) error {
		groups.Add(f)
		return nil
	})
	if err != nil {
		return sum, err
	}
	top := groups.Top(l.top, order)
	l.shown = len(top)
	l.writeGroups(by, groups, top, &sum)
	return sum, nil
}

func (l *lister) groupOrder() (flowgroup.Order, error) {
	if l.sort == "" {
		l.sort = "entries"
	}
	order, ok := flowgroup.Orders[l.sort]
	if !ok {
		return nil, fmt.Errorf("cannot sort groups by %q: it is entries, assured, unreplied, packets or bytes", l.sort)
	}
	return order, nil
}

func (l *lister) writeGroups(by *flowgroup.By, t *flowgroup.Table, top []flowgroup.Group, sum *ctnl.Summary) {
	lack, forgotten := t.Error()
	switch l.format {
	case flowfmt.JSON:
		l.beginJSON("groups")
		for i, g := range top {
			if i > 0 {
				l.out.WriteByte(',')
			}
			b, _ := json.Marshal(g)
			l.out.WriteByte('\n')
			l.out.Write(b)
		}
		l.endJSON(listSummary{Shown: len(top), Received: sum.Received, Short: sum.Short(), Resized: sum.Resized(),
			CountBefore: sum.CountBefore, CountAfter: sum.CountAfter,
			Groups: t.Groups(), Forgotten: forgotten, Error: lack})
		return
	case flowfmt.CSV:
		l.groupsCSV(by, top)
	default:
		l.groupsTable(by, t, top)
	}
	if forgotten > 0 {
		fmt.Fprintf(l.env.Stderr, "ctwarden: more than %d groups: %d small ones were forgotten, and any count may be too low by up to %d\n",
			l.groups, forgotten, lack)
	}
}

func (l *lister) groupsCSV(by *flowgroup.By, top []flowgroup.Group) {
	w := csv.NewWriter(l.out)
	_ = w.Write(append(slices.Clone(by.Columns()), "entries", "assured", "unreplied", "packets", "bytes")) // errors stay in l.out
	for _, g := range top {
		row := slices.Clone(g.Key)
		for _, v := range []uint64{g.Entries, g.Assured, g.Unreplied, g.Packets, g.Bytes} {
			row = append(row, strconv.FormatUint(v, 10))
		}
		_ = w.Write(row)
	}
	w.Flush()
}

func (l *lister) groupsTable(by *flowgroup.By, t *flowgroup.Table, top []flowgroup.Group) {
	total := t.Total()
	rows := [][]string{{"ENTRIES", "SHARE", "ASSURED", "UNREPLIED"}}
	if total.Bytes > 0 {
		rows[0] = append(rows[0], "BYTES")
	}
	rows[0] = append(rows[0], upper(by.Columns())...)
	for _, g := range top {
		row := []string{strconv.FormatUint(g.Entries, 10), percent(g.Entries, total.Entries),
			percent(g.Assured, g.Entries), percent(g.Unreplied, g.Entries)}
		if total.Bytes > 0 {
			row = append(row, strconv.FormatUint(g.Bytes, 10))
		}
		rows = append(rows, append(row, g.Key...))
	}
	numbers := len(rows[0]) - len(by.Columns())
	writeColumns(l.out, rows, numbers)
	if rest := t.Groups() - len(top); rest > 0 {
		fmt.Fprintf(l.env.Stderr, "ctwarden: %d of %d groups, %d entries in all\n", len(top), t.Groups(), total.Entries)
	}
}

func upper(names []string) []string {
	out := slices.Clone(names)
	for i := range out {
		out[i] = strings.ToUpper(out[i])
	}
	return out
}

func percent(n, of uint64) string {
	if of == 0 {
		return "-"
	}
	return strconv.FormatFloat(100*float64(n)/float64(of), 'f', 1, 64) + "%"
}

// writeColumns aligns a table, its first columns to the right.
func writeColumns(w interface{ WriteString(string) (int, error) }, rows [][]string, numbers int) {
	width := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, c := range r {
			width[i] = max(width[i], len(c))
		}
	}
	for _, r := range rows {
		var line strings.Builder
		for i, c := range r {
			gap := strings.Repeat(" ", width[i]-len(c))
			if i < numbers {
				line.WriteString(gap + c + "  ")
			} else {
				line.WriteString(c + gap + "  ")
			}
		}
		_, _ = w.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// owners names processes and containers for groups. It must not be asked
// before open.
type owners struct {
	index      *sockdiag.Index
	self       map[netip.Addr]bool
	containers map[netip.Addr]string
}

func (o *owners) open(t *table) (err error) {
	if o.index, err = sockdiag.Open(t.ref); err != nil {
		return err
	}
	o.self, err = protect.Own(t.ref)
	o.containers = sockdiag.ContainerAddresses(t.NetnsInode())
	return err
}

func (o *owners) local(a netip.Addr) bool { return o.self[a] || a.IsLoopback() }

func (o *owners) find(f *ct.Flow) (sockdiag.Process, bool) {
	if p, ok := o.index.Owner(f); ok {
		return p, true
	}
	if o.local(f.Reply.Src) {
		return o.index.BoundAnywhere(f)
	}
	return sockdiag.Process{}, false
}

// Process names the local process of a flow. Flows that are local and whose
// socket has closed are told from those passed on.
func (o *owners) Process(f *ct.Flow) string {
	if p, ok := o.find(f); ok {
		return p.Name
	}
	if o.local(f.Orig.Src) || o.local(f.Reply.Src) {
		return "(no socket)"
	}
	return "(forwarded)"
}

// Container names the container of a flow: by its process, or by an address
// that belongs to one.
func (o *owners) Container(f *ct.Flow) string {
	if p, ok := o.find(f); ok && p.Container != "" {
		return p.Container
	}
	for _, a := range [...]netip.Addr{f.Orig.Src, f.Reply.Src} {
		if name, ok := o.containers[a]; ok {
			return name
		}
	}
	return ""
}
