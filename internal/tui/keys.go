package tui

import (
	tea "charm.land/bubbletea/v2"

	"github.com/ctwarden/ctwarden/internal/flowexpr"
)

// key acts on a key press: its name, and the text that it types.
func (m *Model) key(name, text string) tea.Cmd {
	if name == "ctrl+c" {
		return tea.Quit
	}
	switch m.mode {
	case filtering:
		m.typeFilter(name, text)
		return nil
	case inspecting, helping:
		if name == "q" || name == "esc" || name == "enter" || name == "?" || name == "left" {
			m.mode = browsing
		}
		return nil
	case previewing:
		return m.previewKey(name)
	}
	return m.browse(name)
}

func (m *Model) browse(name string) tea.Cmd {
	switch name {
	case "q": // not esc: over a slow line a key may arrive as an escape and its rest
		return tea.Quit
	case "up", "k":
		m.cursor = max(0, m.cursor-1)
	case "down", "j":
		m.cursor = min(m.cursor+1, max(0, len(m.rows)-1))
	case "pgup":
		m.cursor = max(0, m.cursor-m.tableRows())
	case "pgdown":
		m.cursor = min(m.cursor+m.tableRows(), max(0, len(m.rows)-1))
	case "home":
		m.cursor = 0
	case "end":
		m.cursor = max(0, len(m.rows)-1)
	case "g":
		m.regroup((m.group + 1) % len(groupings))
	case "G":
		m.regroup((m.group + len(groupings) - 1) % len(groupings))
	case "s":
		m.order = (m.order + 1) % len(orders)
		m.count()
	case "f", "/":
		m.mode, m.input, m.problem = filtering, m.filter.String(), ""
	case "z":
		m.frozen = !m.frozen
	case "space":
		m.mark()
	case "u":
		clear(m.marks)
	case "enter", "right":
		if e, ok := m.rowExpression(); ok {
			m.mode, m.inspected = inspecting, m.within([]string{e})
		}
	case "e":
		return m.askPreview()
	case "?", "h":
		m.mode = helping
	}
	return nil
}

func (m *Model) regroup(to int) {
	m.group, m.cursor, m.top = to, 0, 0
	m.count()
}

// mark marks the row under the cursor, or takes its mark away.
func (m *Model) mark() {
	e, ok := m.rowExpression()
	if !ok {
		return
	}
	if _, marked := m.marks[e]; marked {
		delete(m.marks, e)
	} else {
		m.marks[e] = e
	}
	m.cursor = min(m.cursor+1, max(0, len(m.rows)-1))
}

// maxInput bounds what can be typed into the filter.
const maxInput = 500

func (m *Model) typeFilter(name, text string) {
	switch name {
	case "esc":
		m.mode = browsing
	case "enter":
		m.acceptFilter()
	case "backspace":
		if r := []rune(m.input); len(r) > 0 {
			m.input = string(r[:len(r)-1])
		}
	case "ctrl+u":
		m.input = ""
	default:
		if len(m.input)+len(text) <= maxInput {
			m.input += text
		}
	}
}

func (m *Model) acceptFilter() {
	f := new(flowexpr.Filter)
	if m.input != "" {
		var err error
		if f, err = flowexpr.Compile(m.input); err != nil {
			m.problem = err.Error()
			return
		}
	}
	m.filter, m.mode, m.cursor, m.top = f, browsing, 0, 0
	m.count()
}

// askPreview has the whole table read for what eviction would mean.
func (m *Model) askPreview() tea.Cmd {
	where := m.where()
	if where == "" {
		return nil
	}
	m.mode, m.preview, m.inspected = previewing, "", where
	return func() tea.Msg {
		text, err := m.source.Preview(m.ctx, where)
		return previewMsg{text, err}
	}
}

func (m *Model) previewKey(name string) tea.Cmd {
	switch name {
	case "q", "esc", "left":
		m.mode = browsing
	case "w":
		m.command = m.evictCommand()
		return tea.Quit
	}
	return nil
}
