package sim

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// FuzzPacket sends any packets through small tables of every era and checks
// that the table stays whole.
func FuzzPacket(f *testing.F) {
	f.Add([]byte("\x06\x02 some bytes that are packets of a kind, and more of them"), uint8(3))
	f.Add([]byte{132, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, uint8(5))
	f.Fuzz(func(t *testing.T, b []byte, era uint8) {
		e := eras[int(era)%len(eras)]
		c := DefaultConfig(e)
		c.Max, c.Buckets = 20, 4
		if era&0x80 != 0 {
			c.NAT = []NATRule{{Kind: Masquerade, To: netip.AddrFrom4([4]byte{203, 0, 113, 1})},
				{Kind: DNAT, To: netip.AddrFrom4([4]byte{10, 0, 0, 9}), ToMax: netip.AddrFrom4([4]byte{10, 0, 0, 12})}}
		}
		tab, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		var (
			at      []Time
			ps      []Packet
			results []Result
			now     Time
		)
		for len(b) >= 16 {
			now += Time(b[15]) * second
			at, ps = append(at, now), append(ps, packetFrom(b))
			results = append(results, tab.Packet(now, &ps[len(ps)-1]))
			b = b[16:]
		}
		checkWhole(t, tab)
		checkBatches(t, c, at, ps, results, tab.Counters())
	})
}

// checkBatches verifies that looking ahead changes nothing.
func checkBatches(t *testing.T, c Config, at []Time, ps []Packet, want []Result, counters ct.Counters) {
	t.Helper()
	tab, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]Result, len(ps))
	tab.Packets(at, ps, got)
	if !slices.Equal(got, want) || tab.Counters() != counters {
		t.Fatalf("packets together: %v, one by one: %v", got, want)
	}
}

func packetFrom(b []byte) Packet {
	protos := []ct.Proto{ct.TCP, ct.UDP, ct.SCTP, ct.ICMP, ct.ICMPv6, ct.GRE, ct.DCCP, ct.UDPLite, 99}
	p := Packet{Flags: PacketFlags(b[1] & 0x1f &^ b[2]), Hook: Hook(b[2] & 1)}
	p.Tuple = ct.Tuple{Proto: protos[int(b[0])%len(protos)], SrcPort: uint16(b[3] & 3), DstPort: uint16(b[3] >> 6),
		ICMPType: b[4], ICMPID: uint16(b[3] & 1)}
	src, dst := b[5]&3, b[5]>>6
	if b[0]&0x80 != 0 {
		p.Tuple.Src, p.Tuple.Dst = netip.AddrFrom16([16]byte{15: src}), netip.AddrFrom16([16]byte{14: 1, 15: dst})
	} else {
		p.Tuple.Src, p.Tuple.Dst = netip.AddrFrom4([4]byte{10, 0, 0, src}), netip.AddrFrom4([4]byte{10, 0, 1, dst})
	}
	if b[6]&1 != 0 {
		p.Tuple, _ = swapped(p.Tuple)
	}
	if b[6]&2 != 0 {
		p.Inner, _ = swapped(p.Tuple)
		p.Inner.Proto = protos[int(b[7])%len(protos)]
	}
	p.TCP = Segment{Flags: b[4], Seq: uint32(b[7]) << (b[8] & 24), Ack: uint32(b[9]) << (b[10] & 24),
		Window: uint16(b[11]) << (b[12] & 8), PayloadLen: uint32(b[13]), Options: ParseTCPOptions(b[7:15], uint32(b[9]))}
	p.DCCP = DCCPPacket{Type: b[4] & 15, Seq: uint64(b[7]), Ack: uint64(b[8])}
	for _, typ := range b[7 : 7+int(b[14]&3)] {
		p.SCTP.Chunks = append(p.SCTP.Chunks, SCTPChunk{Type: typ & 15, Flags: typ >> 7, Length: uint16(b[13]), InitTag: uint32(b[12] & 1)})
	}
	p.SCTP.VTag = uint32(b[11] & 1)
	p.Zone, p.ZoneDir = uint16(b[12]>>7), ZoneDir(b[13]%3)
	return p
}

func swapped(t ct.Tuple) (ct.Tuple, bool) {
	t.Src, t.Dst = t.Dst, t.Src
	t.SrcPort, t.DstPort = t.DstPort, t.SrcPort
	return t, true
}

// checkWhole verifies that every confirmed entry stands in its chains, once in
// each, and that the count is right.
func checkWhole(t *testing.T, tab *Table) {
	t.Helper()
	links := map[int32]int{}
	for b := range tab.heads {
		for l := tab.heads[b]; l != 0; l = tab.entries[l>>1].next[l&1] {
			if links[l]++; links[l] > 1 {
				t.Fatalf("link %d stands in two places", l)
			}
			k := tab.key(&tab.entries[l>>1], int(l&1))
			if tab.bucket(tab.hash(&k)) != uint32(b) {
				t.Fatalf("link %d stands in bucket %d", l, b)
			}
		}
	}
	n := 0
	for i := range tab.entries {
		e := &tab.entries[i]
		if !e.has(ct.StatusConfirmed) {
			continue
		}
		n++
		want := 2
		if e.has(ct.StatusNATClash) {
			want = 1
		}
		if links[int32(i)<<1]+links[int32(i)<<1|1] != want {
			t.Fatalf("entry %d stands in %d chains", i, links[int32(i)<<1]+links[int32(i)<<1|1])
		}
	}
	if n != tab.Count() {
		t.Fatalf("%d entries, count %d", n, tab.Count())
	}
}
