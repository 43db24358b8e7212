package evict

import (
	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowgroup"
)

// Preview says what is selected, and what losing it would mean.
type Preview struct {
	Selected int
	// Translated entries end their connections for good. Replied ones that are
	// not translated live on only where rules and tcp_loose let a packet from
	// the middle of a connection make a new entry. Unreplied ones lose a
	// handshake or a question at most, and Ended ones nothing.
	Translated, Replied, Unreplied, Ended uint64
	// BelowFloor counts entries that a shortened timeout would hold to less
	// than what the RFCs ask of a gateway: see [Floor].
	BelowFloor uint64
	// Classes, Sources, Targets and Owners group them by protocol and state, by
	// source, by destination with its port, and by local process; Owners is nil
	// if nobody could name those.
	Classes, Sources, Targets, Owners *flowgroup.Table

	around Surroundings
}

// Surroundings are what a preview needs to know of the machine.
type Surroundings struct {
	Owners      flowgroup.Owners    // nil if processes cannot be told
	Passing     func(*ct.Flow) bool // whether a flow only passes through this machine
	SoftSeconds uint32              // timeout to be given, 0 for deletion
}

// NewPreview starts a preview; Add what is selected.
func NewPreview(o Surroundings) *Preview {
	p := &Preview{around: o, Classes: groups("proto,state", nil), Sources: groups("src", nil), Targets: groups("dst,proto,dport", nil)}
	if o.Owners != nil {
		p.Owners = groups("process", o.Owners)
	}
	return p
}

// Add takes in one entry.
func (p *Preview) Add(f *ct.Flow) {
	p.Selected++
	p.Classes.Add(f)
	p.Sources.Add(f)
	p.Targets.Add(f)
	if p.Owners != nil {
		p.Owners.Add(f)
	}
	p.count(f)
	o := &p.around
	if o.SoftSeconds > 0 && max(o.SoftSeconds, uint32(hardFloor(f))) < Floor(f) && o.Passing(f) {
		p.BelowFloor++
	}
}

// Preview describes the selection as it is.
func (s *Selection) Preview(o Surroundings) *Preview {
	p := NewPreview(o)
	for i := range s.entries {
		rec := s.read(&s.entries[i])
		f := rec.Flow()
		p.Add(&f)
	}
	return p
}

func (p *Preview) count(f *ct.Flow) {
	switch {
	case f.Orig.Proto == ct.TCP && (f.State == ct.TCPTimeWait || f.State == ct.TCPClose):
		p.Ended++
	case f.NAT():
		p.Translated++
	case f.Replied():
		p.Replied++
	default:
		p.Unreplied++
	}
}

// softFor is the timeout that an entry gets where seconds are asked for.
func (s *Selection) softFor(e *entry, seconds uint32) uint32 { return max(seconds, uint32(e.floor)) }

// maxGroups bounds the memory of a preview; it shows a handful of each.
const maxGroups = 1 << 18

func groups(by string, o flowgroup.Owners) *flowgroup.Table {
	b, err := flowgroup.Parse(by, o)
	if err != nil {
		panic(err) // a constant of this package
	}
	return flowgroup.New(b, maxGroups)
}
