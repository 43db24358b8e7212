package tui

import (
	"context"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowexpr"
	"github.com/ctwarden/ctwarden/internal/flowgroup"
)

// Options of a display.
type Options struct {
	Title    string // "host vm, netns web"
	Interval time.Duration
	// Evict is the command line that an eviction would be, up to the
	// expression: "ctwarden evict --netns web --where".
	Evict string
	// Plain leaves out reverse video.
	Plain bool
	// Filter is the selection the display begins with; its kernel part is not
	// used, since a panel must be read unfiltered.
	Filter *flowexpr.Filter
}

// mode is what the keys mean.
type mode uint8

const (
	browsing mode = iota
	filtering
	inspecting
	previewing
	helping
)

// Model is the state of the display.
type Model struct {
	ctx    context.Context
	source Source
	opt    Options

	width, height int
	mode          mode
	reading       *Reading
	err           error
	frozen        bool
	busy          bool

	filter  *flowexpr.Filter
	input   string // the filter being typed
	problem string // what is wrong with it

	group, order int
	cursor, top  int
	rows         []flowgroup.Group
	total        uint64            // entries that pass the filter
	marks        map[string]string // expressions by group and key
	inspected    string            // the expression of the row looked into
	preview      string
	command      string // left for the shell on the way out
	growth       average
	protos       string // what the panel is made of, in words
	states       string
}

// groupings are the ways to group, in the order in which a key goes through.
var groupings = []string{"src", "dst", "proto,dport", "src/24", "dst/24", "proto,state", "dst,dport", "zone", "mark"}

var parsedGroupings = func() []*flowgroup.By {
	var all []*flowgroup.By
	for _, g := range groupings {
		by, err := flowgroup.Parse(g, nil)
		if err != nil {
			panic(err) // a constant of this package
		}
		all = append(all, by)
	}
	return all
}()

var orders = []string{"entries", "unreplied", "assured", "bytes"}

// New makes a display of 80 by 24.
func New(ctx context.Context, s Source, o Options) *Model {
	m := &Model{ctx: ctx, source: s, opt: o, width: 80, height: 24, filter: o.Filter, marks: map[string]string{}}
	if m.filter == nil {
		m.filter = new(flowexpr.Filter)
	}
	return m
}

// Resize sets the size in characters.
func (m *Model) Resize(width, height int) { m.width, m.height = max(width, 40), max(height, 12) }

// Command returns the eviction that was chosen, "" if none.
func (m *Model) Command() string { return m.command }

type (
	readMsg struct {
		r   *Reading
		err error
	}
	tickMsg    struct{}
	previewMsg struct {
		text string
		err  error
	}
)

// Init begins to read.
func (m *Model) Init() tea.Cmd { return m.read() }

func (m *Model) read() tea.Cmd {
	m.busy = true
	return func() tea.Msg {
		r, err := m.source.Read(m.ctx)
		return readMsg{r, err}
	}
}

// thrift bounds what readings may cost to a part of one processor: a fiftieth.
const thrift = 50

// interval is the time to the next reading: longer than was asked for where
// readings are dear, because other namespaces fill the same hash table.
func (m *Model) interval() time.Duration {
	if m.reading == nil {
		return m.opt.Interval
	}
	return max(m.opt.Interval, min(thrift*m.reading.Cost, maxInterval))
}

// maxInterval is where thrift ends.
const maxInterval = time.Minute

func (m *Model) tick() tea.Cmd {
	return tea.Tick(m.interval(), func(time.Time) tea.Msg { return tickMsg{} })
}

// Update takes one message.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.Resize(msg.Width, msg.Height)
	case readMsg:
		m.busy = false
		m.Show(msg.r, msg.err)
		return m, m.tick()
	case tickMsg:
		if m.frozen || m.busy {
			return m, m.tick()
		}
		return m, m.read()
	case previewMsg:
		m.preview = msg.text
		if msg.err != nil {
			m.preview = msg.err.Error()
		}
	case tea.KeyPressMsg:
		return m, m.key(msg.String(), msg.Key().Text)
	}
	return m, nil
}

// Show takes a reading, or the error there was instead of one: the last
// reading then stays on the screen with it.
func (m *Model) Show(r *Reading, err error) {
	m.err = err
	if err != nil {
		return
	}
	m.reading = r
	if r.Rates != nil && r.Rates.CountStart.Known && r.Rates.CountEnd.Known && r.Rates.Interval > 0 {
		m.growth.add(float64(r.Rates.CountEnd.N-r.Rates.CountStart.N) / r.Rates.Interval.Seconds())
	}
	m.protos, m.states = composition(r.Flows, "proto"), composition(r.Flows, "state")
	m.count()
}

// count groups the flows on the screen anew.
func (m *Model) count() {
	m.rows, m.total = nil, 0
	if m.reading == nil {
		return
	}
	t := flowgroup.New(parsedGroupings[m.group], 0)
	m.each(m.filter, t.Add)
	m.total = t.Total().Entries
	m.rows = t.Top(maxRows, flowgroup.Orders[orders[m.order]])
	m.cursor = min(m.cursor, max(0, len(m.rows)-1))
}

// maxRows bounds what can be scrolled through.
const maxRows = 1000

// each calls fn with the flows that a filter matches.
func (m *Model) each(s *flowexpr.Filter, fn func(*ct.Flow)) {
	at := &flowexpr.Context{Timeouts: m.reading.Timeouts, NowNanos: m.reading.Time.UnixNano()}
	for i := range m.reading.Flows {
		if f := &m.reading.Flows[i]; s.Match(f, at) {
			fn(f)
		}
	}
}

// average smooths a rate, so that the time to full does not jump about.
type average struct {
	value float64
	known bool
}

// smoothing is the weight of the latest reading.
const smoothing = 0.4

func (a *average) add(v float64) {
	if !a.known {
		a.value, a.known = v, true
		return
	}
	a.value += smoothing * (v - a.value)
}

// where is the expression of what is marked, or else of the row under the
// cursor, within the filter.
func (m *Model) where() string {
	var terms []string
	for _, e := range m.marks {
		terms = append(terms, e)
	}
	if len(terms) == 0 {
		e, ok := m.rowExpression()
		if !ok {
			return ""
		}
		terms = append(terms, e)
	}
	return m.within(terms)
}

// within joins alternatives, inside the filter.
func (m *Model) within(terms []string) string {
	slices.Sort(terms)
	all := strings.Join(terms, " || ")
	switch {
	case m.filter.Empty():
		return all
	case len(terms) > 1 || strings.Contains(all, "||"):
		all = "(" + all + ")"
	}
	return "(" + m.filter.String() + ") && " + all
}

// rowExpression selects the group under the cursor.
func (m *Model) rowExpression() (string, bool) {
	if m.cursor >= len(m.rows) {
		return "", false
	}
	e, ok := parsedGroupings[m.group].Where(m.rows[m.cursor].Key)
	if ok && strings.Contains(e, "&&") {
		e = "(" + e + ")"
	}
	return e, ok
}
