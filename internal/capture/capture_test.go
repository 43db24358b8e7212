package capture

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/klauspost/compress/zstd"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

var began = time.Date(2026, 3, 14, 3, 12, 0, 123456789, time.UTC)

// frame serializes layers with lengths and checksums filled in.
func frame(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buf.Bytes())
}

func ether(next layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: next}
}

func ip4(p layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: p, SrcIP: []byte{10, 0, 0, 1}, DstIP: []byte{192, 0, 2, 7}}
}

func ip6(p layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: p, SrcIP: netip.MustParseAddr("fd00::1").AsSlice(), DstIP: netip.MustParseAddr("2001:db8::7").AsSlice()}
}

func tcpLayer(over gopacket.NetworkLayer) *layers.TCP {
	tl := &layers.TCP{SrcPort: 40000, DstPort: 443, Seq: 1000, Ack: 7, SYN: true, ACK: true, Window: 512,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{7}}, {OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2}}}
	_ = tl.SetNetworkLayerForChecksum(over)
	return tl
}

// frames are packets of every kind that the decoder knows, on Ethernet.
func frames(t testing.TB) map[string][]byte {
	u4, u6 := ip4(layers.IPProtocolUDP), ip6(layers.IPProtocolUDP)
	udp := func(over gopacket.NetworkLayer) *layers.UDP {
		u := &layers.UDP{SrcPort: 5353, DstPort: 53}
		_ = u.SetNetworkLayerForChecksum(over)
		return u
	}
	t4, t6 := ip4(layers.IPProtocolTCP), ip6(layers.IPProtocolTCP)
	echo := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 99, Seq: 1}
	inner := frame(t, u4, udp(u4), gopacket.Payload("inside"))
	icmp6 := ip6(layers.IPProtocolICMPv6)
	echo6 := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}
	_ = echo6.SetNetworkLayerForChecksum(icmp6)
	return map[string][]byte{
		"udp4":  frame(t, ether(layers.EthernetTypeIPv4), u4, udp(u4), gopacket.Payload("query")),
		"udp6":  frame(t, ether(layers.EthernetTypeIPv6), u6, udp(u6), gopacket.Payload("query")),
		"tcp4":  frame(t, ether(layers.EthernetTypeIPv4), t4, tcpLayer(t4), gopacket.Payload("hello")),
		"tcp6":  frame(t, ether(layers.EthernetTypeIPv6), t6, tcpLayer(t6)),
		"vlan":  frame(t, ether(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4}, u4, udp(u4)),
		"ping":  frame(t, ether(layers.EthernetTypeIPv4), ip4(layers.IPProtocolICMPv4), echo, gopacket.Payload("0123456789")),
		"ping6": frame(t, ether(layers.EthernetTypeIPv6), icmp6, echo6, &layers.ICMPv6Echo{Identifier: 77, SeqNumber: 1}),
		"error": frame(t, ether(layers.EthernetTypeIPv4), ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)}, gopacket.Payload(inner)),
	}
}

func classic(t testing.TB, nanos bool, pkts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if nanos {
		w = pcapgo.NewWriterNanos(&b)
	}
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for i, p := range pkts {
		ci := gopacket.CaptureInfo{Timestamp: began.Add(time.Duration(i) * time.Second), CaptureLength: len(p), Length: len(p)}
		if err := w.WritePacket(ci, p); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func nextGen(t testing.TB, pkts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range pkts {
		ci := gopacket.CaptureInfo{Timestamp: began.Add(time.Duration(i) * time.Second), CaptureLength: len(p), Length: len(p)}
		if err := w.WritePacket(ci, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readAll reads a capture to its end.
func readAll(t testing.TB, data []byte) ([]sim.Packet, []sim.Time, Stats) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var ps []sim.Packet
	var ts []sim.Time
	for {
		var p sim.Packet
		at, err := r.Next(&p)
		if errors.Is(err, io.EOF) {
			return ps, ts, r.Stats()
		}
		if err != nil {
			t.Fatal(err)
		}
		ps, ts = append(ps, p), append(ts, at)
	}
}

func TestDecode(t *testing.T) {
	a4, b4 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.0.2.7")
	a6, b6 := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("2001:db8::7")
	opts := sim.TCPOptions{Present: true, HasWScale: true, WScale: 7, SACKPerm: true, SACK: 7}
	want := map[string]sim.Packet{
		"udp4":  {Tuple: ct.Tuple{Src: a4, Dst: b4, Proto: ct.UDP, SrcPort: 5353, DstPort: 53}, Length: 33},
		"udp6":  {Tuple: ct.Tuple{Src: a6, Dst: b6, Proto: ct.UDP, SrcPort: 5353, DstPort: 53}, Length: 53},
		"tcp4":  {Tuple: ct.Tuple{Src: a4, Dst: b4, Proto: ct.TCP, SrcPort: 40000, DstPort: 443}, Length: 53, TCP: sim.Segment{Seq: 1000, Ack: 7, PayloadLen: 5, Window: 512, Flags: sim.TCPSyn | sim.TCPAck, Options: opts}},
		"tcp6":  {Tuple: ct.Tuple{Src: a6, Dst: b6, Proto: ct.TCP, SrcPort: 40000, DstPort: 443}, Length: 68, TCP: sim.Segment{Seq: 1000, Ack: 7, Window: 512, Flags: sim.TCPSyn | sim.TCPAck, Options: opts}},
		"vlan":  {Tuple: ct.Tuple{Src: a4, Dst: b4, Proto: ct.UDP, SrcPort: 5353, DstPort: 53}, Length: 28},
		"ping":  {Tuple: ct.Tuple{Src: a4, Dst: b4, Proto: ct.ICMP, ICMPType: 8, ICMPID: 99}, Length: 38},
		"ping6": {Tuple: ct.Tuple{Src: a6, Dst: b6, Proto: ct.ICMPv6, ICMPType: 128, ICMPID: 77}, Length: 48},
		"error": {Tuple: ct.Tuple{Src: a4, Dst: b4, Proto: ct.ICMP, ICMPType: 3, ICMPCode: 1}, Length: 62, Inner: ct.Tuple{Src: a4, Dst: b4, Proto: ct.UDP, SrcPort: 5353, DstPort: 53}},
	}
	for name, f := range frames(t) {
		for format, data := range map[string][]byte{"pcap": classic(t, false, f), "nanos": classic(t, true, f), "pcapng": nextGen(t, f)} {
			ps, ts, _ := readAll(t, data)
			if len(ps) != 1 {
				t.Errorf("%s, %s: %d packets", name, format, len(ps))
				continue
			}
			if d := cmp.Diff(want[name], ps[0], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
				t.Errorf("%s, %s (-want +got)\n%s", name, format, d)
			}
			at := sim.Time(began.UnixNano())
			if format == "pcap" {
				at = at / 1000 * 1000
			}
			if ts[0] != at {
				t.Errorf("%s, %s: time %d, want %d", name, format, ts[0], at)
			}
		}
	}
}

// An independent decoder agrees on ports for random mixes, and compression
// changes nothing.
func TestCompressionAndOrder(t *testing.T) {
	f := frames(t)
	plain := classic(t, true, f["udp4"], f["tcp6"], f["ping"])
	want, times, _ := readAll(t, plain)
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	_, _ = g.Write(plain)
	_ = g.Close()
	z, _ := zstd.NewWriter(&zs)
	_, _ = z.Write(plain)
	_ = z.Close()
	for name, data := range map[string][]byte{"gzip": gz.Bytes(), "zstd": zs.Bytes()} {
		got, _, _ := readAll(t, data)
		if len(got) != len(want) || got[1].Tuple != want[1].Tuple {
			t.Errorf("%s: %d packets", name, len(got))
		}
	}
	r1, _ := NewReader(bytes.NewReader(plain))
	r2, _ := NewReader(bytes.NewReader(plain))
	m := NewMerge([]*Reader{r1, r2}, []string{"a", "b"})
	var last sim.Time
	n := 0
	for {
		var p sim.Packet
		at, err := m.Next(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || at < last {
			t.Fatalf("packet %d at %d after %d: %v", n, at, last, err)
		}
		last = at
		n++
	}
	if n != 6 || last != times[2] {
		t.Errorf("merged %d packets, last at %d", n, last)
	}
}

func TestBrokenCaptures(t *testing.T) {
	f := frames(t)
	whole := classic(t, false, f["udp4"], f["tcp4"])
	_, _, st := readAll(t, whole[:len(whole)-3])
	if !st.Cut || st.Packets != 1 {
		t.Errorf("a capture that breaks off: %+v", st)
	}
	for _, bad := range [][]byte{nil, []byte("hello"), make([]byte, 24), whole[:20]} {
		if _, err := NewReader(bytes.NewReader(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%d bytes of no capture: %v", len(bad), err)
		}
	}
	snapped := classic(t, false)
	snapped = append(snapped, 0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 90, 0, 0, 0)
	snapped = append(snapped, f["udp4"][:20]...)
	_, _, st = readAll(t, snapped)
	if st.Skipped[CutShort] != 1 {
		t.Errorf("snap length of 20: %+v", st)
	}
	late := classic(t, false, f["udp4"])
	early := bytes.Clone(late[24:])
	early[0], early[1], early[2], early[3] = 1, 0, 0, 0
	_, ts, st := readAll(t, append(late, early...))
	if st.Backwards != 1 || ts[1] != ts[0] {
		t.Errorf("time going backwards: %+v, %v", st, ts)
	}
}

// Whatever the bytes, nothing panics, nothing is handed out without addresses,
// and the model takes what is.
func FuzzReader(f *testing.F) {
	fr := frames(f)
	for _, p := range fr {
		f.Add(classic(f, false, p))
		f.Add(nextGen(f, p))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := NewReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer r.Close()
		cfg := sim.DefaultConfig(sim.Latest())
		cfg.Max, cfg.Buckets = 64, 64
		tb, err := sim.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			var p sim.Packet
			at, err := r.Next(&p)
			if err != nil {
				return
			}
			if !p.Tuple.Src.IsValid() || !p.Tuple.Dst.IsValid() {
				t.Fatalf("a packet without addresses: %+v", p)
			}
			tb.Packet(at, &p)
		}
	})
}

func BenchmarkNext(b *testing.B) {
	f := frames(b)
	var pkts [][]byte
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		pkts = append(pkts, [][]byte{f["udp4"], f["tcp4"], f["tcp4"], f["tcp6"]}[rng.IntN(4)])
	}
	data := classic(b, true, pkts...)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		r, err := NewReader(bytes.NewReader(data))
		if err != nil {
			b.Fatal(err)
		}
		var p sim.Packet
		for {
			if _, err := r.Next(&p); err != nil {
				break
			}
			n++
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Mpkt/s")
}

// TestPlainTCP: the short way decodes as the long one, or not at all.
func TestPlainTCP(t *testing.T) {
	whole := frames(t)["tcp4"]
	rng := rand.New(rand.NewPCG(3, 4))
	plain := 0
	for range 200000 {
		b := bytes.Clone(whole)
		for range rng.IntN(4) {
			b[12+rng.IntN(len(b)-12)] = byte(rng.IntN(256)) >> rng.IntN(8)
		}
		rec := record{link: linkEthernet, data: b[:len(b)-rng.IntN(8)*rng.IntN(2)], orig: uint32(len(b) + rng.IntN(40) - 4)}
		long := rec
		var p, want sim.Packet
		if !plainTCP(&rec, &p) {
			continue
		}
		plain++
		reason := decode(&long, &want)
		if reason != "" || rec.hops != long.hops || cmp.Diff(want, p, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) != "" {
			t.Fatalf("%x: %q, %+v, want %+v", rec.data, reason, p, want)
		}
	}
	if plain < 50000 {
		t.Errorf("only %d plain packets", plain)
	}
}

// at returns a classic pcap of one SYN at each of the times, seconds since 1970.
func at(t *testing.T, seconds ...uint32) []byte {
	t.Helper()
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = le.AppendUint16(le.AppendUint16(b, 2), 4)
	b = le.AppendUint32(le.AppendUint32(le.AppendUint32(le.AppendUint32(b, 0), 0), 1<<16), uint32(linkEthernet))
	frame := make([]byte, 54)
	frame[12], frame[14], frame[17], frame[22], frame[23], frame[46], frame[47] = 8, 0x45, 40, 64, 6, 0x50, 2
	for _, s := range seconds {
		b = le.AppendUint32(le.AppendUint32(b, s), 0)
		b = le.AppendUint32(le.AppendUint32(b, uint32(len(frame))), uint32(len(frame)))
		b = append(b, frame...)
	}
	return b
}

// One packet far ahead of all others drags none with it; where time has passed,
// it has.
func TestOddTimes(t *testing.T) {
	const now, never = 1_700_000_000, 0xffffffff
	for _, c := range []struct {
		seconds   []uint32
		used, odd uint64
		last      uint32
	}{
		{[]uint32{now, never, now + 1, now + 2}, 3, 1, now + 2},
		{[]uint32{now, now + 700*86400, now + 700*86400 + 1, now + 700*86400 + 2}, 3, 1, now + 700*86400 + 2},
		{[]uint32{now, now + 86400}, 2, 0, now + 86400},
		{[]uint32{0, 1}, 2, 0, 1},
	} {
		r, err := NewReader(bytes.NewReader(at(t, c.seconds...)))
		if err != nil {
			t.Fatal(err)
		}
		var p sim.Packet
		var last sim.Time
		for {
			when, err := r.Next(&p)
			if err != nil {
				break
			}
			last = when
		}
		st := r.Stats()
		if st.Packets != c.used || st.Skipped[OddTime] != c.odd || st.Backwards != 0 || last != sim.Time(c.last)*1e9 {
			t.Errorf("%v: %d used, %d odd, %d backwards, last %d", c.seconds, st.Packets, st.Skipped[OddTime], st.Backwards, last)
		}
	}
}

// What is damaged behind some packets ends there; what is damaged at once is an
// error.
func TestDamage(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(at(t, 1, 2, 3))
	_ = w.Close()
	b := z.Bytes()
	b[len(b)-5] ^= 1 // the checksum
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var p sim.Packet
	n := 0
	for ; err == nil; n++ {
		_, err = r.Next(&p)
	}
	if st := r.Stats(); !errors.Is(err, io.EOF) || st.Packets != 3 || !st.Cut || st.Damage == "" {
		t.Errorf("%v after %d: %+v", err, n, st)
	}
}
