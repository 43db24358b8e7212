package evict

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowrec"
)

func flow(n byte) *ct.Flow {
	f := &ct.Flow{Orig: ct.Tuple{Src: netip.AddrFrom4([4]byte{10, 0, 0, n}), Dst: netip.MustParseAddr("192.0.2.1"),
		Proto: ct.TCP, SrcPort: 1000, DstPort: 443}, ID: uint32(n), State: ct.TCPEstablished, TimeoutSeconds: 1000,
		Fields: ct.HasTimeout | ct.HasProtoInfo | ct.HasID, Status: ct.StatusSeenReply | ct.StatusAssured}
	f.Reply, _ = f.Orig.Invert()
	return f
}

func TestGuardSparesEveryKind(t *testing.T) {
	peer := netip.MustParseAddr("198.51.100.7")
	set := func(a netip.Addr) map[netip.Addr]bool { return map[netip.Addr]bool{a: true} }
	base := flow(1)
	for want, tc := range map[Reason]struct {
		guard Guard
		edit  func(*ct.Flow)
	}{
		SSH:        {Guard{IsSSH: func(f *ct.Flow) bool { return f.ID == 1 }}, nil},
		SSHPeer:    {Guard{SSHPeers: set(peer)}, func(f *ct.Flow) { f.Orig.Src = peer }},
		Offload:    {Guard{}, func(f *ct.Flow) { f.Status |= ct.StatusOffload }},
		Helper:     {Guard{}, func(f *ct.Flow) { f.Fields |= ct.HasHelper }},
		Master:     {Guard{}, func(f *ct.Flow) { f.Status |= ct.StatusExpected }},
		SeqAdj:     {Guard{}, func(f *ct.Flow) { f.Status |= ct.StatusSeqAdjust }},
		SynProxy:   {Guard{}, func(f *ct.Flow) { f.SynProxy.ISN = 5 }},
		Fixed:      {Guard{}, func(f *ct.Flow) { f.Status |= ct.StatusFixedTimeout }},
		Mark:       {Guard{}, func(f *ct.Flow) { f.Mark = 1 }},
		Label:      {Guard{}, func(f *ct.Flow) { f.Labels[15] = 1 }},
		Zone:       {Guard{}, func(f *ct.Flow) { f.ZoneReply = 9 }},
		Own:        {Guard{Self: set(base.Orig.Src)}, nil},
		Gateway:    {Guard{Gateways: set(base.Orig.Dst)}, nil},
		Nameserver: {Guard{Nameservers: set(peer)}, func(f *ct.Flow) { f.Reply.Src = peer }},
		Routing:    {Guard{}, func(f *ct.Flow) { f.Orig.DstPort = 179 }},
	} {
		f := flow(1)
		if tc.edit != nil {
			tc.edit(f)
		}
		if r, ok := tc.guard.Spares(f); !ok || r != want {
			t.Errorf("%s: spared %v as %s", want, ok, r)
		}
		forced, _, err := ParseReasons(want.String())
		if err != nil {
			t.Fatal(err)
		}
		tc.guard.Force = forced
		if r, ok := tc.guard.Spares(f); ok {
			t.Errorf("--force %s: still spared as %s", want, r)
		}
	}
	if r, ok := (&Guard{}).Spares(base); ok {
		t.Errorf("a plain flow is spared as %s", r)
	}
	known := Guard{MarksUsed: ct.No}
	marked := flow(2)
	marked.Mark = 7
	if _, ok := known.Spares(marked); ok {
		t.Error("a mark that no rule uses spares its entry")
	}
	if _, whole, err := ParseReasons("mark, whole-table"); err != nil || !whole {
		t.Errorf("whole-table: %v, %v", whole, err)
	}
	if _, _, err := ParseReasons("everything"); err == nil {
		t.Error("an unknown reason was accepted")
	}
}

const second = int64(time.Second)

// TestSecondReading: only entries whose timeout ran down by just the time that
// passed stay selected.
func TestSecondReading(t *testing.T) {
	s := new(Selection)
	for n := byte(1); n <= 7; n++ {
		if err := s.Add(flow(n), 100*second); err != nil {
			t.Fatal(err)
		}
	}
	later := 110 * second
	again := func(n byte, left uint32, edit func(*ct.Flow)) {
		f := flow(n)
		f.TimeoutSeconds = left
		if edit != nil {
			edit(f)
		}
		s.Again(f, later)
	}
	again(1, 990, nil)                                      // idle
	again(2, 989, nil)                                      // idle, and truncated the other way
	again(3, 1000, nil)                                     // renewed
	again(4, 300, nil)                                      // now waits for an acknowledgement
	again(5, 990, func(f *ct.Flow) { f.Orig.SrcPort++ })    // another flow with the same id
	again(6, 990, func(f *ct.Flow) { f.Fields = ct.HasID }) // offloaded meanwhile
	if got := s.Settle(); got != 5 {                        // the seventh has gone
		t.Errorf("%d entries were active, want 5", got)
	}
	for n := byte(1); n <= 7; n++ {
		if got, want := s.Holds(flow(n)), n <= 2; got != want {
			t.Errorf("entry %d held: %v", n, got)
		}
	}
}

// recorder is a writer that remembers.
type recorder struct {
	deleted   []uint32
	shortened map[uint32]uint32
	flushes   int
	fail      error
}

func (r *recorder) Delete(f *ct.Flow) error { r.deleted = append(r.deleted, f.ID); return r.fail }
func (r *recorder) Shorten(f *ct.Flow, s uint32) error {
	r.shortened[f.ID] = s
	return r.fail
}
func (r *recorder) Flush() error { r.flushes++; return nil }
func (r *recorder) Failed() int  { return 0 }

func selection(t *testing.T, n byte) *Selection {
	s := new(Selection)
	for i := byte(1); i <= n; i++ {
		if err := s.Add(flow(i), 0); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestRunDeletesUpToTheLimit(t *testing.T) {
	r := &recorder{}
	res, err := selection(t, 10).Run(context.Background(), r, Options{Limit: 4})
	if err != nil || res.Done() != 4 || !slices.Equal(r.deleted, []uint32{1, 2, 3, 4}) || r.flushes != 1 {
		t.Errorf("%+v, %v, deleted %v", res, err, r.deleted)
	}
}

func TestRunNeverLengthensATimeout(t *testing.T) {
	s := new(Selection)
	short, syn, offloaded := flow(1), flow(2), flow(3)
	short.TimeoutSeconds = 5
	syn.State, syn.TimeoutSeconds = ct.TCPSynSent, 100
	offloaded.Fields = ct.HasID
	for _, f := range []*ct.Flow{short, syn, offloaded, flow(4)} {
		s.Add(f, 0)
	}
	r := &recorder{shortened: map[uint32]uint32{}}
	o := Options{SoftSeconds: 5}
	res, err := s.Run(context.Background(), r, o)
	if err != nil || res.Done() != 2 || res.Shorter != 2 || res.LongestSeconds != 15 {
		t.Errorf("%+v, %v", res, err)
	}
	if r.shortened[2] != 15 || r.shortened[4] != 5 || len(r.shortened) != 2 {
		t.Errorf("shortened to %v", r.shortened)
	}
	var ids []uint32
	s.Records(o, func(b []byte) error {
		e, _, _, err := flowrec.Next(b)
		ids = append(ids, e.ID)
		return err
	})
	if !slices.Equal(ids, []uint32{2, 4}) {
		t.Errorf("records of %v", ids)
	}
	ids = nil
	for f := range s.AllChanged() {
		ids = append(ids, f.ID)
	}
	if !slices.Equal(ids, []uint32{2, 4}) || s.Changed(short) || !s.Changed(syn) {
		t.Errorf("changed are %v", ids)
	}
}

func TestRunKeepsThePace(t *testing.T) {
	r := &recorder{}
	var slept time.Duration
	o := Options{PerSecond: 20, Sleep: func(_ context.Context, d time.Duration) error { slept += d; return nil }}
	if _, err := selection(t, 10).Run(context.Background(), r, o); err != nil {
		t.Fatal(err)
	}
	if slept != 500*time.Millisecond || r.flushes != 6 {
		t.Errorf("slept %s, flushed %d times", slept, r.flushes)
	}
	stop := errors.New("stop")
	o.Sleep = func(context.Context, time.Duration) error { return stop }
	r = &recorder{}
	if res, err := selection(t, 10).Run(context.Background(), r, o); !errors.Is(err, stop) || res.Tried != 2 {
		t.Errorf("interrupted: %+v, %v", res, err)
	}
}

func TestPreview(t *testing.T) {
	s := new(Selection)
	nat, udp := flow(2), flow(3)
	nat.Reply.Dst = netip.MustParseAddr("203.0.113.1")
	udp.Orig.Proto, udp.Reply.Proto, udp.Status, udp.State = ct.UDP, ct.UDP, 0, 0
	for _, f := range []*ct.Flow{flow(1), nat, udp} {
		s.Add(f, 0)
	}
	p := s.Preview(Surroundings{SoftSeconds: 130, Passing: func(*ct.Flow) bool { return true }})
	if p.Selected != 3 || p.Translated != 1 || p.Replied != 1 || p.Unreplied != 1 || p.BelowFloor != 2 {
		t.Errorf("%+v", p)
	}
	if p.Sources.Groups() != 3 || p.Targets.Groups() != 2 || p.Owners != nil {
		t.Errorf("groups: %d sources, %d targets", p.Sources.Groups(), p.Targets.Groups())
	}
}
