package ctnl

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// whole appends every attribute that an entry can have, also those that a
// request never carries.
func (e *encoder) whole(f *ct.Flow) {
	e.newEntry(f)
	if f.Has(ct.HasID) {
		e.u32(ctaID, f.ID)
	}
	if f.Has(ct.HasUse) {
		e.u32(ctaUse, f.Use)
	}
	if f.Has(ct.HasCounters) {
		for i, c := range []ct.DirCounters{f.OrigCounters, f.ReplyCounters} {
			n := e.nest(uint16(ctaCountersOrig + i))
			e.u64(ctaCountersPackets, c.Packets)
			e.u64(ctaCountersBytes, c.Bytes)
			e.unnest(n)
		}
	}
	if f.Has(ct.HasTimestamp) {
		n := e.nest(ctaTimestamp)
		e.u64(ctaTimestampStart, uint64(f.StartNanos))
		e.u64(ctaTimestampStop, uint64(f.StopNanos))
		e.unnest(n)
	}
	if f.Has(ct.HasEventTime) {
		e.u64(ctaTimestampEvent, uint64(f.EventNanos))
	}
	if f.Has(ct.HasSecCtx) {
		n := e.nest(ctaSecCtx)
		e.bytes(ctaSecCtxName, append([]byte(f.SecCtx), 0))
		e.unnest(n)
	}
}

func randTuple(r *rand.Rand, p ct.Proto, v4 bool) ct.Tuple {
	t := ct.Tuple{Proto: p}
	if v4 {
		t.Src, t.Dst = randAddr4(r), randAddr4(r)
	} else {
		t.Src, t.Dst = randAddr6(r), randAddr6(r)
	}
	switch {
	case p.IsICMP():
		t.ICMPType, t.ICMPCode, t.ICMPID = uint8(r.Uint32()), uint8(r.Uint32()), uint16(r.Uint32())
	case p.HasPorts(), p == ct.GRE:
		t.SrcPort, t.DstPort = uint16(r.Uint32()), uint16(r.Uint32())
	}
	return t
}

func randAddr4(r *rand.Rand) netip.Addr {
	var b [4]byte
	host.PutUint32(b[:], r.Uint32())
	return netip.AddrFrom4(b)
}

func randAddr6(r *rand.Rand) netip.Addr {
	var b [16]byte
	host.PutUint64(b[:], r.Uint64())
	host.PutUint64(b[8:], r.Uint64())
	return netip.AddrFrom16(b)
}

var protos = []ct.Proto{ct.TCP, ct.UDP, ct.UDPLite, ct.SCTP, ct.DCCP, ct.GRE, ct.ICMP, ct.ICMPv6, 50, 255}

// randFlow returns an entry with a random selection of everything. NAT bits
// are left out, because a request with them says something else than the
// entry that results.
func randFlow(r *rand.Rand) ct.Flow {
	p := protos[r.IntN(len(protos))]
	v4 := r.IntN(2) == 0
	f := ct.Flow{
		Orig: randTuple(r, p, v4), Reply: randTuple(r, p, v4),
		Status:         ct.Status(r.Uint32())&settable | ct.StatusConfirmed,
		Fields:         ct.Fields(r.Uint32())&^(ct.HasUnknown|ct.HasZone|ct.HasProtoInfo|ct.HasMark) | ct.HasTimeout,
		TimeoutSeconds: r.Uint32(),
	}
	if f.Mark = r.Uint32N(3); f.Mark != 0 {
		f.Fields |= ct.HasMark
	}
	switch zone := uint16(1 + r.Uint32N(65535)); r.IntN(4) {
	case 0:
		f.Zone = zone
		f.Fields |= ct.HasZone
	case 1:
		f.ZoneOrig = zone
	case 2:
		f.ZoneReply = zone
	}
	if p.HasState() && r.IntN(4) > 0 {
		f.Fields |= ct.HasProtoInfo
		f.State = ct.State(r.Uint32N(10))
		randState(r, &f)
	}
	randRare(r, &f, v4)
	return f
}

func randState(r *rand.Rand, f *ct.Flow) {
	b := func() uint8 { return uint8(r.Uint32()) }
	switch f.Orig.Proto {
	case ct.TCP:
		f.TCP = ct.TCPInfo{WScaleOrig: b(), WScaleReply: b(), FlagsOrig: b(), FlagsReply: b()}
	case ct.SCTP:
		f.SCTP = ct.SCTPInfo{VTagOrig: r.Uint32(), VTagReply: r.Uint32()}
	case ct.DCCP:
		f.DCCP = ct.DCCPInfo{Role: b(), HandshakeSeq: r.Uint64()}
	}
}

func randRare(r *rand.Rand, f *ct.Flow, v4 bool) {
	if f.Has(ct.HasID) {
		f.ID = r.Uint32()
	}
	if f.Has(ct.HasUse) {
		f.Use = r.Uint32()
	}
	if f.Has(ct.HasCounters) {
		f.OrigCounters = ct.DirCounters{Packets: r.Uint64(), Bytes: r.Uint64()}
		f.ReplyCounters = ct.DirCounters{Packets: r.Uint64(), Bytes: r.Uint64()}
	}
	if f.Has(ct.HasTimestamp) {
		f.StartNanos, f.StopNanos = int64(r.Uint64()), int64(r.Uint64())
	}
	if f.Has(ct.HasEventTime) {
		f.EventNanos = int64(r.Uint64())
	}
	if f.Has(ct.HasLabels) {
		host.PutUint64(f.Labels[3:], r.Uint64())
	}
	if f.Has(ct.HasMaster) {
		f.Master = randTuple(r, ct.TCP, v4)
	}
	if f.Has(ct.HasSeqAdj) {
		f.SeqAdjOrig = ct.SeqAdj{CorrectionPos: r.Uint32(), OffsetBefore: r.Uint32(), OffsetAfter: r.Uint32()}
		f.SeqAdjReply = ct.SeqAdj{CorrectionPos: r.Uint32(), OffsetBefore: r.Uint32(), OffsetAfter: r.Uint32()}
	}
	if f.Has(ct.HasSynProxy) {
		f.SynProxy = ct.SynProxy{ISN: r.Uint32(), ITS: r.Uint32(), TSOff: r.Uint32()}
	}
	if f.Has(ct.HasHelper) {
		f.Helper = []string{"ftp", "sip", "netbios-ns"}[r.IntN(3)]
	}
	if f.Has(ct.HasSecCtx) {
		f.SecCtx = []string{"system_u:object_r:client_packet_t:s0", "x"}[r.IntN(2)]
	}
}

// TestRoundTrip encodes, decodes and encodes random entries, decoding always
// into the same Flow.
func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var d decoder
	var got ct.Flow
	for range 20_000 {
		want := randFlow(r)
		var first, second encoder
		first.whole(&want)
		if err := d.entry(attrs(first.b), &got); err != nil {
			t.Fatalf("%v\n%+v", err, want)
		}
		if got != want {
			t.Fatalf("decoded\n%+v, want\n%+v", got, want)
		}
		second.whole(&got)
		if !bytes.Equal(first.b, second.b) {
			t.Fatalf("encoded anew\n%x, first\n%x", second.b, first.b)
		}
	}
}

// TestUnknownKeptApart puts attributes that nobody knows at every level.
func TestUnknownKeptApart(t *testing.T) {
	want := randFlow(rand.New(rand.NewPCG(3, 4)))
	want.Orig.Proto, want.Reply.Proto = ct.TCP, ct.TCP
	var e encoder
	e.u32(0x3ffe, 0xdeadbeef)
	e.newEntry(&want)
	n := e.nest(ctaCountersOrig)
	e.u64(99, 7)
	e.unnest(n)
	e.bytes(ctaTimeout, []byte{1, 2, 3}) // of a size that it never has
	var got []Unknown
	d := decoder{unknown: func(_ *ct.Flow, u Unknown) {
		u.Payload = bytes.Clone(u.Payload)
		got = append(got, u)
	}}
	var f ct.Flow
	if err := d.entry(attrs(e.b), &f); err != nil {
		t.Fatal(err)
	}
	wantUnknown := []Unknown{
		{0, 0x3ffe, []byte{0xde, 0xad, 0xbe, 0xef}},
		{ctaCountersOrig, 99, []byte{0, 0, 0, 0, 0, 0, 0, 7}},
		{0, ctaTimeout, []byte{1, 2, 3}},
	}
	if !reflect.DeepEqual(got, wantUnknown) {
		t.Errorf("kept apart %v, want %v", got, wantUnknown)
	}
	if !f.Has(ct.HasUnknown) || f.Orig != want.Orig || f.TimeoutSeconds != want.TimeoutSeconds {
		t.Errorf("flow %+v", f)
	}
}

func TestMalformedEntry(t *testing.T) {
	var e encoder
	e.u32(ctaMark, 1)
	cut := append(bytes.Clone(e.b), 200, 0, 1, 0)
	for _, b := range [][]byte{nil, e.b, cut} {
		if err := new(decoder).entry(attrs(b), new(ct.Flow)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

// FuzzDecode decodes anything, with and without the shortcuts, which must not
// differ; and what was decoded must survive another round.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		fl := randFlow(r)
		var e encoder
		e.whole(&fl)
		f.Add(e.b)
	}
	var fast decoder
	slow := decoder{general: true}
	var a, b ct.Flow
	f.Fuzz(func(t *testing.T, msg []byte) {
		errA, errB := fast.entry(attrs(msg), &a), slow.entry(attrs(msg), &b)
		if (errA == nil) != (errB == nil) || a != b {
			t.Fatalf("shortcuts differ: %v, %v\n%+v\n%+v", errA, errB, a, b)
		}
		var x ct.Expectation
		fast.expectation(attrs(msg), &x)
		policy(attrs(msg))
		counters(attrs(msg))
		if errA != nil || creatable(&a) != nil {
			return
		}
		var e encoder
		e.whole(&a)
		if err := fast.entry(attrs(e.b), &b); err != nil {
			t.Fatalf("own encoding of %+v: %v", a, err)
		}
	})
}

// FuzzBlock walks anything as a block of messages.
func FuzzBlock(f *testing.F) {
	var e encoder
	e.end(e.begin(subsysCT, ctNew, flagMulti, 1, 2))
	e.end(e.begin(0, nlmsgDone, flagMulti, 1, 0))
	f.Add(e.b)
	f.Add(e.b[:30])
	f.Fuzz(func(t *testing.T, b []byte) {
		var d decoder
		var fl ct.Flow
		walk(b, 1, func(m message) error {
			if a, _, err := m.attrs(); err == nil {
				d.entry(a, &fl)
			}
			return nil
		})
		var l Listener
		l.datagram(b, &Handler{
			Flow:   func(EventKind, *ct.Flow) error { return nil },
			Expect: func(EventKind, *ct.Expectation) error { return nil },
		})
	})
}

func TestDecodeAllocatesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var d decoder
	var f ct.Flow
	msgs := make([][]byte, 100)
	for i := range msgs {
		want := randFlow(r)
		var e encoder
		e.whole(&want)
		msgs[i] = e.b
		d.entry(attrs(e.b), &f) // fills the interner
	}
	n := testing.AllocsPerRun(10, func() {
		for _, m := range msgs {
			d.entry(attrs(m), &f)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for %d entries", n, len(msgs))
	}
}

// BenchmarkDecode decodes a block of established TCP entries, as a dump does.
func BenchmarkDecode(b *testing.B) {
	const n = 135 // what fits a block
	r := rand.New(rand.NewPCG(9, 10))
	var e encoder
	for range n {
		f := ct.Flow{Orig: randTuple(r, ct.TCP, true), Reply: randTuple(r, ct.TCP, true), State: ct.TCPEstablished,
			Fields: ct.HasProtoInfo | ct.HasID | ct.HasUse | ct.HasSynProxy, ID: r.Uint32(), Use: 1, Mark: 1, TimeoutSeconds: 1}
		start := e.begin(subsysCT, ctNew, flagMulti, 1, 2)
		e.whole(&f)
		e.end(start)
	}
	d := reading{c: new(Conn), q: new(Query), all: true, sum: new(Summary), fn: func(*ct.Flow) error { return nil }}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := walk(e.b, 1, d.message); err != nil {
			b.Fatal(err)
		}
		d.recent.keys = [recentLen]uint64{}
		d.recent.marks = [1 << recentBits]uint16{}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/entry")
}
