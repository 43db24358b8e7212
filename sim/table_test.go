package sim

import (
	"net/netip"
	"testing"
	"unsafe"

	"github.com/ctwarden/ctwarden/ct"
)

const second = Time(1e9)

func newTable(t testing.TB, change func(*Config)) *Table {
	t.Helper()
	c := DefaultConfig(Latest())
	c.Max, c.Buckets = 4096, 4096
	if change != nil {
		change(&c)
	}
	tab, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func tcpPacket(forward bool, flags uint8, seq, ack uint32) *Packet {
	p := &Packet{Tuple: ct.Tuple{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"),
		Proto: ct.TCP, SrcPort: 4000, DstPort: 80}}
	if !forward {
		p.Tuple, _ = p.Tuple.Invert()
	}
	p.TCP = Segment{Seq: seq, Ack: ack, Flags: flags, Window: 1000}
	return p
}

func TestEntrySize(t *testing.T) {
	if s := unsafe.Sizeof(entry{}); s != 32 {
		t.Errorf("what walks look at takes %d bytes, want 32", s)
	}
	if s := unsafe.Sizeof(track{}); s != 64 {
		t.Errorf("what trackers remember takes %d bytes, want 64", s)
	}
	if s := unsafe.Sizeof(entry{}) + unsafe.Sizeof(track{}) + unsafe.Sizeof(side{}); s > 184 {
		t.Errorf("an entry with its side record takes %d bytes, want at most 184", s)
	}
}

func TestHandshake(t *testing.T) {
	tab := newTable(t, nil)
	steps := []struct {
		forward  bool
		flags    uint8
		seq, ack uint32
		state    ct.State
		timeout  uint32
		assured  bool
	}{
		{true, TCPSyn, 1000, 0, ct.TCPSynSent, 120, false},
		{false, TCPSyn | TCPAck, 5000, 1001, ct.TCPSynRecv, 60, false},
		{true, TCPAck, 1001, 5001, ct.TCPEstablished, 432000, true},
		{true, TCPFin | TCPAck, 1001, 5001, ct.TCPFinWait, 120, true},
		{false, TCPAck, 5001, 1002, ct.TCPCloseWait, 60, true},
		{false, TCPFin | TCPAck, 5001, 1002, ct.TCPLastAck, 30, true},
		{true, TCPAck, 1002, 5002, ct.TCPTimeWait, 120, true},
	}
	var f ct.Flow
	for i, s := range steps {
		r := tab.Packet(Time(i)*second, tcpPacket(s.forward, s.flags, s.seq, s.ack))
		if r.Verdict != Accepted || !tab.Flow(r.Entry, &f) {
			t.Fatalf("step %d: %+v", i, r)
		}
		if f.State != s.state || f.TimeoutSeconds != s.timeout || f.Assured() != s.assured {
			t.Errorf("step %d: %s %d s assured %v, want %s %d s %v", i, f.StateName(), f.TimeoutSeconds,
				f.Assured(), ct.StateName(ct.TCP, s.state), s.timeout, s.assured)
		}
	}
	if tab.Count() != 1 {
		t.Errorf("count %d, want 1", tab.Count())
	}
}
