package evict

import (
	"errors"
	"math"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowgroup"
	"github.com/ctwarden/ctwarden/internal/flowrec"
)

// entry is one selected entry. The rest of it is in the records, which take
// less memory than flows.
type entry struct {
	expires int64 // nanoseconds on the reader's clock; 0 if not known
	at      uint32
	kept    bool  // seen again, as idle as it was
	floor   uint8 // seconds that a shortened timeout is not to undercut
}

// Selection is what a first reading chose.
type Selection struct {
	entries []entry
	records []byte
	byID    map[uint32][]int32 // for the second reading
	Preview Preview
}

// Preview says what is selected, and what losing it would mean.
type Preview struct {
	Read     uint64             // entries that were looked at
	Selected flowgroup.Stats    // of those
	Spared   [NumReasons]uint64 // matched the filter and are left alone
	// Translated entries end their connections for good. Replied ones that are
	// not translated live on only where rules and tcp_loose let a packet from
	// the middle of a connection make a new entry. Unreplied ones lose a
	// handshake or a question at most.
	Translated, Replied, Unreplied uint64
	// BelowFloor counts entries that a shortened timeout would hold to less
	// than what the RFCs ask of a gateway: see Floor.
	BelowFloor uint64
	// Active counts entries that the second reading found in use, or gone.
	Active uint64
	Classes, Sources, Targets,
	Owners *flowgroup.Table
}

// New makes an empty selection. owners names local processes; it may be nil.
func New(owners flowgroup.Owners) *Selection {
	s := new(Selection)
	s.Preview.Classes = groups("proto,state", nil)
	s.Preview.Sources = groups("src", nil)
	s.Preview.Targets = groups("dst,proto,dport", nil)
	if owners != nil {
		s.Preview.Owners = groups("process", owners)
	}
	return s
}

// maxGroups bounds the memory of a preview; it shows a handful of each.
const maxGroups = 1 << 16

func groups(by string, o flowgroup.Owners) *flowgroup.Table {
	b, err := flowgroup.Parse(by, o)
	if err != nil {
		panic(err) // a constant of this package
	}
	return flowgroup.New(b, maxGroups)
}

// Len returns how many entries are selected.
func (s *Selection) Len() int { return len(s.entries) }

// ErrTooMany says that a selection has outgrown what can be kept: some tens of
// millions of entries.
var ErrTooMany = errors.New("too many entries are selected; narrow the filter")

// Add selects an entry read at a time on the reader's clock. soft is the
// timeout in seconds that it is to get, 0 if it is to be deleted.
func (s *Selection) Add(f *ct.Flow, nowNanos int64, soft uint32, gateway bool) error {
	if len(s.records) > math.MaxUint32-256 {
		return ErrTooMany
	}
	p := &s.Preview
	e := entry{at: uint32(len(s.records))}
	rec := flowrec.Of(f)
	s.records = flowrec.Append(s.records, &rec)
	if f.Has(ct.HasTimeout) {
		e.expires = nowNanos + int64(f.Timeout())
	}
	if soft > 0 {
		rfc, hard := Floor(f, gateway)
		e.floor = uint8(hard)
		if max(soft, hard) < rfc {
			p.BelowFloor++
		}
	}
	s.entries = append(s.entries, e)
	switch {
	case f.NAT():
		p.Translated++
	case f.Replied():
		p.Replied++
	default:
		p.Unreplied++
	}
	for _, t := range []*flowgroup.Table{p.Classes, p.Sources, p.Targets, p.Owners} {
		if t != nil {
			t.Add(f)
		}
	}
	p.Selected = p.Classes.Total()
	return nil
}

// read returns what was kept of an entry.
func (s *Selection) read(e *entry) flowrec.Entry {
	rec, _, _, _ := flowrec.Next(s.records[e.at:]) // written by Add
	return rec
}

// Floor returns the least timeouts in seconds for an entry: what the RFCs ask
// of a gateway (5382 for TCP, 4787 for UDP, 5508 for ICMP; 0 elsewhere), and
// what is never undercut, because a handshake takes that long.
func Floor(f *ct.Flow, gateway bool) (rfc, hard uint32) {
	hard = 1
	if f.Orig.Proto == ct.TCP && (f.State == ct.TCPSynSent || f.State == ct.TCPSynRecv) {
		hard = 15
	}
	if !gateway {
		return 0, hard
	}
	switch f.Orig.Proto {
	case ct.TCP:
		if f.State == ct.TCPEstablished {
			return 7440, hard
		}
		return 240, hard
	case ct.UDP, ct.UDPLite:
		return 120, hard
	case ct.ICMP, ct.ICMPv6:
		return 60, hard
	}
	return 0, hard
}

// expirySlack is by how much the moment of expiry may seem to move between two
// readings of an idle entry: the kernel truncates to seconds each time, and
// the clock is read once for many entries.
const expirySlack = 1_250_000_000

// Again takes note of an entry of the second reading that still matches the
// filter. It stays selected if its timeout ran down by exactly the time that
// passed: then no packet has passed either.
func (s *Selection) Again(f *ct.Flow, nowNanos int64) {
	if s.byID == nil {
		s.byID = make(map[uint32][]int32, len(s.entries))
		for i := range s.entries {
			id := s.read(&s.entries[i]).ID
			s.byID[id] = append(s.byID[id], int32(i))
		}
	}
	if !f.Has(ct.HasTimeout) {
		return
	}
	for _, i := range s.byID[f.ID] {
		e := &s.entries[i]
		if e.expires == 0 || s.read(e).Orig != f.Orig {
			continue
		}
		d := nowNanos + int64(f.Timeout()) - e.expires
		e.kept = d >= -expirySlack && d <= expirySlack
	}
}

// Settle ends the second reading: entries not confirmed by it leave the
// selection. The preview's groups still count them.
func (s *Selection) Settle() {
	kept := s.entries[:0]
	for i := range s.entries {
		if s.entries[i].kept {
			kept = append(kept, s.entries[i])
		}
	}
	s.Preview.Active = uint64(len(s.entries) - len(kept))
	s.entries, s.byID = kept, nil
}
