package tui

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowexpr"
)

var update = flag.Bool("update", false, "rewrite the golden frames")

// fake is a source whose table is made up, the same each time.
type fake struct {
	readings int
	err      error
	asked    string
}

func (s *fake) Read(context.Context) (*Reading, error) {
	if s.err != nil {
		return nil, s.err
	}
	s.readings++
	t := ct.DefaultTimeouts(ct.KernelVersion{Major: 6, Minor: 18})
	r := &Reading{Time: time.Date(2026, 1, 31, 12, 0, 2*s.readings, 0, time.UTC), Timeouts: &t, Cost: 12 * time.Millisecond}
	r.Limits.Count, r.Limits.Max = ct.Known(int64(160000+1000*s.readings)), ct.Known(262144)
	r.Flows = flows()
	if s.readings > 1 {
		r.Rates = &ct.Rates{Interval: 2 * time.Second, CountStart: ct.Known(r.Limits.Count.N - 1000), CountEnd: r.Limits.Count,
			Panel: true, BirthsPerSecond: 812.4, DeathsPerSecond: 312.4}
		r.Rates.Counters.Has = ct.CounterDrop | ct.CounterEarlyDrop
		r.Rates.Counters.EarlyDrop = 24
	}
	return r, nil
}

var flows = sync.OnceValue(func() (all []ct.Flow) {
	for i := range 10000 {
		all = append(all, madeUp(i))
	}
	return all
})

func madeUp(i int) ct.Flow {
	src := netip.AddrFrom4([4]byte{10, 0, byte(i % 7), byte(i * i % 251)})
	f := ct.Flow{ID: uint32(i), TimeoutSeconds: uint32(100 + i), Fields: ct.HasTimeout | ct.HasProtoInfo | ct.HasID,
		State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured,
		Orig: ct.Tuple{Src: src, Dst: netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 20)}), Proto: ct.TCP, SrcPort: uint16(1024 + i), DstPort: 443}}
	switch {
	case i%10 < 3:
		f.Orig.Src, f.State, f.Status = netip.MustParseAddr("198.51.100.9"), ct.TCPSynSent, 0
	case i%10 == 3:
		f.Orig.Proto, f.Orig.DstPort, f.Fields, f.State = ct.UDP, 53, ct.HasTimeout|ct.HasID, 0
	}
	f.Reply, _ = f.Orig.Invert()
	return f
}

func (s *fake) Preview(_ context.Context, where string) (string, error) {
	s.asked = where
	return "48600 of 162000 entries to be deleted\n  whose     198.51.100.9 48600\nNothing was done. --yes does it.\n", nil
}

// screen is a display with two readings.
func screen(t *testing.T, keys ...string) (*Model, *fake) {
	t.Helper()
	s := new(fake)
	m := New(t.Context(), s, Options{Title: "gw1", Interval: 2 * time.Second, Evict: "ctwarden evict --where", Plain: true})
	m.Update(m.Init()())
	m.Update(m.read()())
	press(m, keys...)
	return m, s
}

// press sends keys and runs what they start, a program's quit aside.
func press(m *Model, keys ...string) (quit bool) {
	for _, k := range keys {
		_, cmd := m.Update(keyPress(k))
		if cmd == nil {
			continue
		}
		msg := cmd()
		if _, ok := msg.(tea.QuitMsg); ok {
			quit = true
			continue
		}
		m.Update(msg)
	}
	return quit
}

func keyPress(k string) tea.KeyPressMsg {
	named := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "up": tea.KeyUp, "down": tea.KeyDown,
		"space": tea.KeySpace, "backspace": tea.KeyBackspace, "pgdown": tea.KeyPgDown, "end": tea.KeyEnd, "home": tea.KeyHome}
	if code, ok := named[k]; ok {
		msg := tea.KeyPressMsg{Code: code}
		if k == "space" {
			msg.Text = " "
		}
		return msg
	}
	return tea.KeyPressMsg{Code: []rune(k)[0], Text: k}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	var lines []string
	for l := range strings.SplitSeq(got, "\n") {
		lines = append(lines, strings.TrimRight(l, " "))
	}
	got = strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", path, got)
	}
}

func TestFrames(t *testing.T) {
	typed := strings.Split(`proto == "udp"`, "")
	for i, k := range typed {
		if k == " " {
			typed[i] = "space"
		}
	}
	for name, keys := range map[string][]string{
		"start":   nil,
		"ports":   {"g", "g", "s"},
		"marked":  {"space", "down", "space"},
		"inspect": {"enter"},
		"preview": {"space", "space", "e"},
		"filter":  append(append([]string{"f"}, typed...), "enter"),
		"wrong":   {"f", "i", "d", "l", "e", "enter"},
		"frozen":  {"z"},
		"end":     {"end"},
		"help":    {"?"},
	} {
		m, _ := screen(t, keys...)
		golden(t, name, m.Frame())
	}
}

func TestFramesFitEverySize(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {40, 12}, {200, 60}, {1, 1}} {
		for _, keys := range [][]string{nil, {"enter"}, {"space", "e"}, {"?"}, {"f"}} {
			m, _ := screen(t)
			m.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
			press(m, keys...)
			lines := strings.Split(m.Frame(), "\n")
			if len(lines) != m.height {
				t.Errorf("%v %v: %d lines", size, keys, len(lines))
			}
			for _, l := range lines {
				if utf8.RuneCountInString(l) > m.width {
					t.Errorf("%v %v: too wide: %q", size, keys, l)
				}
			}
		}
	}
}

func TestFirstFrameAndErrors(t *testing.T) {
	s := new(fake)
	m := New(t.Context(), s, Options{Title: "gw1", Interval: time.Second})
	if f := m.Frame(); !strings.Contains(f, "reading…") {
		t.Errorf("before the first reading:\n%s", f)
	}
	press(m, "enter", "space", "e", "g", "s", "down", "end")
	s.err = errors.New("no such namespace")
	m.Update(m.read()())
	if f := m.Frame(); !strings.Contains(f, "no such namespace") {
		t.Errorf("the error is not shown:\n%s", f)
	}
}

func TestPreviewAsksForWhatIsMarked(t *testing.T) {
	m, s := screen(t, "space", "e")
	if want := "src == 198.51.100.9"; s.asked != want {
		t.Errorf("asked %q, want %q", s.asked, want)
	}
	if quit := press(m, "w"); !quit || m.Command() != "ctwarden evict --where 'src == 198.51.100.9'" {
		t.Errorf("command %q", m.Command())
	}
	m, s = screen(t, "f", "u", "n", "r", "e", "p", "l", "i", "e", "d", "enter", "g", "g", "space", "e")
	if want := `(unreplied) && (proto == "tcp" && dport == 443)`; s.asked != want {
		t.Errorf("asked %q, want %q", s.asked, want)
	}
	if _, err := flowexpr.Compile(s.asked); err != nil {
		t.Error(err)
	}
	if m.Command() != "" {
		t.Error("a command without being asked")
	}
}

func TestFrozenStopsReading(t *testing.T) {
	m, s := screen(t, "z")
	n := s.readings
	m.Update(tickMsg{})
	if s.readings != n || m.busy {
		t.Error("a frozen screen reads on")
	}
}

// TestThrift: dear readings become rare.
func TestThrift(t *testing.T) {
	m, _ := screen(t)
	m.reading.Cost = 200 * time.Millisecond
	if got := m.interval(); got != 10*time.Second {
		t.Errorf("interval %s after a reading of 200 ms", got)
	}
}
