package capture

import (
	"errors"
	"fmt"
	"io"

	"github.com/ctwarden/ctwarden/sim"
)

// Merge reads several captures as one, in the order of their times.
type Merge struct {
	in   []*Reader
	name []string
	head []head
}

type head struct {
	at   sim.Time
	p    sim.Packet
	more bool
}

// NewMerge merges readers; names stand for them in errors.
func NewMerge(in []*Reader, names []string) *Merge {
	return &Merge{in: in, name: names}
}

// Next fills p with the earliest packet of all captures. It returns io.EOF
// after the last.
func (m *Merge) Next(p *sim.Packet) (sim.Time, error) {
	if len(m.in) == 1 {
		at, err := m.in[0].Next(p)
		return at, m.named(0, err)
	}
	if m.head == nil {
		m.head = make([]head, len(m.in))
		for i := range m.in {
			if err := m.advance(i); err != nil {
				return 0, err
			}
		}
	}
	best := -1
	for i := range m.head {
		if m.head[i].more && (best < 0 || m.head[i].at < m.head[best].at) {
			best = i
		}
	}
	if best < 0 {
		return 0, io.EOF
	}
	at := m.head[best].at
	*p = m.head[best].p
	return at, m.advance(best)
}

func (m *Merge) advance(i int) error {
	at, err := m.in[i].Next(&m.head[i].p)
	m.head[i].at, m.head[i].more = at, err == nil
	if errors.Is(err, io.EOF) {
		return nil
	}
	return m.named(i, err)
}

func (m *Merge) named(i int, err error) error {
	if err == nil || errors.Is(err, io.EOF) || i >= len(m.name) {
		return err
	}
	return fmt.Errorf("read %s: %w", m.name[i], err)
}

// Stats returns what was read of each capture, in their order.
func (m *Merge) Stats() []Stats {
	out := make([]Stats, len(m.in))
	for i, r := range m.in {
		out[i] = r.Stats()
	}
	return out
}
