package simdiff

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim"
)

// TestCross captures a connection that both ends close at once. A kernel that saw
// the host's FIN first agrees with the model if the capture has them within a
// moment of each other, and not if it has the host's long after. To a gateway
// between them neither FIN is its own.
func TestCross(t *testing.T) {
	host := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		apart           time.Duration
		gateway, agrees bool
	}{
		{30 * time.Microsecond, false, true},
		{5 * time.Millisecond, false, false},
		{0, true, true},
		{5 * time.Millisecond, true, false},
	} {
		file := closing(t, host, c.apart)
		own := []netip.Addr{host}
		if c.gateway {
			own = nil
		}
		end := time.Unix(1000, 0).Add(time.Second)
		config := sim.DefaultConfig(sim.Latest())
		config.Knobs.Acct = true
		kernel := replay{config: config, own: own, forwards: c.gateway, late: map[int]int{3: 4}}
		kernel.run(t, file, end, end)
		flows := map[ct.Tuple]ct.Flow{}
		for _, f := range kernel.table.Dump() {
			flows[f.Orig] = *f
		}
		r := replay{config: config, own: own, forwards: c.gateway}
		r.run(t, file, end, end)
		lines, tuples := r.difference(flows)
		if len(lines) != 1 {
			t.Fatalf("the order makes no difference: %q", lines)
		}
		if lines, _ = r.cross(t, file, end, end, flows, tuples); (len(lines) == 0) != c.agrees {
			t.Errorf("%s apart, gateway %t: %q", c.apart, c.gateway, lines)
		}
	}
}

// closing writes a capture of a connection to a host; the FINs are packets 3 and 4.
func closing(t *testing.T, host netip.Addr, apart time.Duration) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "closing.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := pcapgo.NewWriterNanos(f)
	if err := w.WriteFileHeader(1<<16, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	client, server := net.IP{192, 0, 2, 2}, net.IP(host.AsSlice())
	at := time.Unix(1000, 0)
	send := func(after time.Duration, in bool, tcp layers.TCP) {
		at = at.Add(after)
		ip := layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: server, DstIP: client}
		tcp.SrcPort, tcp.DstPort, tcp.Window = 80, 40000, 500
		if in {
			ip.SrcIP, ip.DstIP, tcp.SrcPort, tcp.DstPort = client, server, 40000, 80
		}
		b := gopacket.NewSerializeBuffer()
		err := tcp.SetNetworkLayerForChecksum(&ip)
		if err == nil {
			err = gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, &ip, &tcp)
		}
		if err == nil {
			err = w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(b.Bytes()), Length: len(b.Bytes())}, b.Bytes())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const soon = 100 * time.Microsecond
	send(0, true, layers.TCP{SYN: true, Seq: 100})
	send(soon, false, layers.TCP{SYN: true, ACK: true, Seq: 500, Ack: 101})
	send(soon, true, layers.TCP{ACK: true, Seq: 101, Ack: 501})
	send(soon, true, layers.TCP{FIN: true, ACK: true, Seq: 101, Ack: 501})
	send(apart, false, layers.TCP{FIN: true, ACK: true, Seq: 501, Ack: 101})
	send(soon, true, layers.TCP{ACK: true, Seq: 102, Ack: 502})
	send(soon, false, layers.TCP{ACK: true, Seq: 502, Ack: 102})
	return f
}
