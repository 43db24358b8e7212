package tui

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/census"
	"github.com/ctwarden/ctwarden/internal/flowexpr"
	"github.com/ctwarden/ctwarden/internal/flowfmt"
	"github.com/ctwarden/ctwarden/internal/flowgroup"
)

// View draws the screen.
func (m *Model) View() tea.View {
	v := tea.NewView(m.Frame())
	v.AltScreen = true
	return v
}

// Frame draws the screen as lines of text, as many as it is high.
func (m *Model) Frame() string {
	lines := m.head()
	body := m.height - len(lines) - 2
	switch m.mode {
	case inspecting:
		lines = append(lines, m.inspect(body)...)
	case previewing:
		lines = append(lines, m.previewLines(body)...)
	case helping:
		lines = append(lines, fit(strings.Split(helpText, "\n"), body)...)
	default:
		lines = append(lines, m.table(body)...)
	}
	for len(lines) < m.height-2 {
		lines = append(lines, "")
	}
	lines = append(lines, m.status(), m.keysLine())
	for i := range lines {
		lines[i] = cut(lines[i], m.width)
	}
	return strings.Join(lines, "\n")
}

// head are the lines about the table as a whole.
func (m *Model) head() []string {
	r := m.reading
	title := "ctwarden top  " + m.opt.Title
	if r == nil {
		return []string{title, "", "reading…", ""}
	}
	at := fmt.Sprintf("every %s  %s", m.interval().Round(100*time.Millisecond), r.Time.Format("15:04:05"))
	if m.frozen {
		at = "FROZEN  " + r.Time.Format("15:04:05")
	}
	return []string{
		title + strings.Repeat(" ", max(2, m.width-utf8.RuneCountInString(title)-len(at))) + at,
		m.bar(),
		m.rates(),
		m.protos,
		m.states,
		m.precision(),
		"",
	}
}

// bar shows how full the table is.
func (m *Model) bar() string {
	l := m.reading.Limits
	count := thousands(l.Count.Or(0))
	if !l.Max.Known || l.Max.N <= 0 {
		return count + " entries, no limit"
	}
	fill := float64(l.Count.Or(0)) / float64(l.Max.N)
	text := fmt.Sprintf(" %5.1f%%  %s of %s", 100*fill, count, thousands(l.Max.N))
	width := max(10, m.width-len(text)-2)
	full := min(width, int(math.Round(fill*float64(width))))
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", width-full) + "]" + text
}

// rates says how the table moves, and when it will be full.
func (m *Model) rates() string {
	r := m.reading.Rates
	if r == nil {
		return "rates follow with the next reading"
	}
	parts := []string{m.timeToFull()}
	if r.Panel {
		parts = append(parts, fmt.Sprintf("new %s/s  closed %s/s", perSecond(r.BirthsPerSecond), perSecond(r.DeathsPerSecond)))
	}
	s := r.Interval.Seconds()
	for _, c := range []struct {
		name string
		n    uint32
		has  ct.CounterSet
	}{{"dropped", r.Counters.Drop, ct.CounterDrop}, {"early drop", r.Counters.EarlyDrop, ct.CounterEarlyDrop}} {
		if r.Counters.Has&c.has != 0 && s > 0 {
			parts = append(parts, fmt.Sprintf("%s %s/s", c.name, perSecond(float64(c.n)/s)))
		}
	}
	return strings.Join(parts, "  ")
}

func (m *Model) timeToFull() string {
	l := m.reading.Limits
	g := m.growth.value
	rate := fmt.Sprintf("%+.0f/s", g)
	if math.Abs(g) < 0.5 {
		return "steady"
	}
	if !l.Max.Known || l.Max.N <= 0 || g < 0 {
		return rate
	}
	left := float64(l.Max.N - l.Count.Or(0))
	if left <= 0 {
		return "FULL"
	}
	seconds := left / g
	if seconds > 30*86400 {
		return rate
	}
	return rate + ", full in " + string(flowfmt.AppendSeconds(nil, int64(seconds)))
}

// composition is the panel by one property, the largest parts first.
func composition(flows []ct.Flow, field string) string {
	by, err := flowgroup.Parse(field, nil)
	if err != nil {
		return ""
	}
	t := flowgroup.New(by, 0)
	for i := range flows {
		t.Add(&flows[i])
	}
	total := t.Total()
	var parts []string
	for _, g := range t.Top(6, flowgroup.Orders["entries"]) {
		if g.Key[0] != "-" {
			parts = append(parts, g.Key[0]+" "+share(g.Entries, total.Entries))
		}
	}
	if field == "proto" {
		parts = append(parts, "assured "+share(total.Assured, total.Entries), "unreplied "+share(total.Unreplied, total.Entries))
	}
	if len(parts) == 0 {
		return "no " + field + "s"
	}
	return strings.Join(parts, "  ")
}

// precision says what the shares are worth.
func (m *Model) precision() string {
	n, all := uint64(len(m.reading.Flows)), uint64(m.reading.Limits.Count.Or(0))
	if m.reading.Complete {
		return fmt.Sprintf("all %s entries read: exact", thousands(int64(n)))
	}
	half := census.SampleError(n, all)
	text := fmt.Sprintf("panel of %s: shares are right to %.1f points", thousands(int64(n)), 100*half)
	if len(m.rows) > 0 && n > 0 {
		// The error of a share p is that of one half, times √(4p(1-p)).
		p := float64(m.rows[0].Entries) / float64(n)
		text += fmt.Sprintf(", the first row's to %.2f", 100*half*math.Sqrt(4*p*(1-p)))
	}
	return text + " (95%)"
}

// scale is by how much the panel's numbers are to be multiplied.
func (m *Model) scale() float64 {
	n := float64(len(m.reading.Flows))
	if m.reading.Complete || n == 0 {
		return 1
	}
	return max(1, float64(m.reading.Limits.Count.Or(0))/n)
}

func (m *Model) tableRows() int { return max(1, m.height-10) }

// table are the groups.
func (m *Model) table(height int) []string {
	if m.reading == nil {
		return nil
	}
	about := ""
	if !m.reading.Complete {
		about = "~"
	}
	name := strings.ToUpper(groupings[m.group])
	lines := []string{fmt.Sprintf("  %11s %7s %8s %9s  %s", "ENTRIES", "SHARE", "ASSURED", "UNREPLIED", strings.ReplaceAll(name, ",", " "))}
	rows := height - 1
	m.top = min(max(m.top, m.cursor-rows+1), m.cursor)
	scale := m.scale()
	for i := m.top; i < len(m.rows) && i < m.top+rows; i++ {
		g := m.rows[i]
		line := fmt.Sprintf("%s%11s %7s %8s %9s  %s", m.cursorMark(i), about+thousands(int64(math.Round(float64(g.Entries)*scale))),
			share(g.Entries, uint64(len(m.reading.Flows))), share(g.Assured, g.Entries), share(g.Unreplied, g.Entries), strings.Join(g.Key, " "))
		if i == m.cursor && !m.opt.Plain {
			line = "\x1b[7m" + pad(cut(line, m.width), m.width) + "\x1b[m"
		}
		lines = append(lines, line)
	}
	if len(m.rows) == 0 {
		lines = append(lines, "  nothing matches")
	}
	return lines
}

// cursorMark shows cursor and mark without colour.
func (m *Model) cursorMark(i int) string {
	b := []byte("  ")
	if i == m.cursor {
		b[0] = '>'
	}
	e, ok := parsedGroupings[m.group].Where(m.rows[i].Key)
	if ok && strings.Contains(e, "&&") {
		e = "(" + e + ")"
	}
	if _, marked := m.marks[e]; ok && marked {
		b[1] = '*'
	}
	return string(b)
}

// inspect shows what one group is made of.
func (m *Model) inspect(height int) []string {
	lines := []string{"looking into " + m.inspected}
	f, err := flowexpr.Compile(m.inspected)
	if err != nil {
		return append(lines, err.Error())
	}
	var sample []string
	at := flowfmt.Context{Timeouts: m.reading.Timeouts, NowNanos: m.reading.Time.UnixNano()}
	tables := map[string]*flowgroup.Table{}
	for _, by := range inspectBy {
		b, _ := flowgroup.Parse(by, nil)
		tables[by] = flowgroup.New(b, 0)
	}
	m.each(f, func(f *ct.Flow) {
		for _, t := range tables {
			t.Add(f)
		}
		if len(sample) < height {
			sample = append(sample, strings.TrimSuffix(string(at.AppendRow(nil, f)), "\n"))
		}
	})
	for _, by := range inspectBy {
		lines = append(lines, inspectLine(by, tables[by]))
	}
	lines = append(lines, "", strings.TrimSuffix(flowfmt.Header(flowfmt.Table), "\n"))
	return fit(append(lines, sample...), height)
}

var inspectBy = []string{"proto,state", "src", "dst", "proto,dport"}

func inspectLine(by string, t *flowgroup.Table) string {
	var parts []string
	top := t.Top(4, flowgroup.Orders["entries"])
	for _, g := range top {
		parts = append(parts, strings.TrimSuffix(strings.Join(g.Key, " "), " -")+" "+share(g.Entries, t.Total().Entries))
	}
	if rest := t.Groups() - len(top); rest > 0 {
		parts = append(parts, fmt.Sprintf("%d more", rest))
	}
	return fmt.Sprintf("  %-11s %s", by, strings.Join(parts, ", "))
}

// previewLines show what an eviction would mean and how it is called.
func (m *Model) previewLines(height int) []string {
	lines := []string{"what eviction would mean; nothing is done here", ""}
	if m.preview == "" {
		return append(lines, "reading the whole table…")
	}
	lines = append(lines, strings.Split(strings.TrimRight(m.preview, "\n"), "\n")...)
	lines = fit(lines, height-2)
	return append(lines, "", m.evictCommand())
}

func (m *Model) evictCommand() string { return m.opt.Evict + " '" + m.inspected + "'" }

// status is the line above the keys.
func (m *Model) status() string {
	switch {
	case m.mode == filtering && m.problem != "":
		return "filter: " + m.input + "_   " + m.problem
	case m.mode == filtering:
		return "filter: " + m.input + "_"
	case m.err != nil:
		return "the last reading failed: " + m.err.Error()
	}
	parts := []string{"by " + groupings[m.group], "sorted by " + orders[m.order]}
	if !m.filter.Empty() {
		parts = append(parts, "filter "+m.filter.String())
	}
	if n := len(m.marks); n > 0 {
		parts = append(parts, strconv.Itoa(n)+" marked")
	}
	return strings.Join(parts, " · ")
}

func (m *Model) keysLine() string {
	switch m.mode {
	case filtering:
		return "enter apply  esc leave  ctrl+u clear"
	case inspecting, helping:
		return "esc back"
	case previewing:
		return "w quit and print the command  esc back"
	}
	return "g group  s sort  f filter  enter look  space mark  e evict?  z freeze  ? help  q quit"
}

const helpText = `up down pgup pgdown   move
g G                   group by the next, the previous property
s                     sort by entries, unreplied, assured, bytes
f /                   filter by an expression, as: proto == "udp" && unreplied
enter                 look into the row under the cursor
space                 mark the row, or take its mark away; u takes all away
e                     what evicting the marked rows would mean: reads the whole
                      table once, changes nothing
z                     freeze the screen
q                     quit

Numbers with ~ are told from a panel: the same few thousand entries each time,
chosen by a hash. Shares are as precise as the line above the table says.`

// share is a part in per cent.
func share(n, of uint64) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(n)/float64(of))
}

func perSecond(v float64) string { return thousands(int64(math.Round(v))) }

// thousands writes a number with commas.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func fit(lines []string, height int) []string { return lines[:min(len(lines), max(0, height))] }

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// cut shortens a line to the screen; a line with an escape sequence is as wide
// as the screen already.
func cut(s string, width int) string {
	if strings.HasPrefix(s, "\x1b") || utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width])
}
