package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"os"
	"strings"

	"github.com/ctwarden/ctwarden/internal/workload"
	"github.com/ctwarden/ctwarden/sim"
)

// traffic is live connections that all speak: handshakes within a second, then
// requests and answers, in the order in which many hosts make them.
const traffic = `
version: 1
duration: %s
seed: 1
classes:
  - name: talkers
    kind: tcp
    arrivals: {initial: %d}
    sources: 10.0.0.0/8
    destinations: 192.0.2.0/24
    ports: 443
    lifetime: {mean: 12h}
    pause: {shape: exponential, mean: %s}
    round_trip: 30ms
`

// generate writes a capture of live flows, headers only, and returns the number
// of packets: dozens for each of a few flows, half a dozen for each of many.
func generate(name string, live int) (packets int, err error) {
	duration, pause := "30s", "3s"
	switch {
	case live > 4<<20:
		duration, pause = "2s", "8s"
	case live > 1<<18:
		duration, pause = "6s", "4s"
	}
	spec, err := workload.Parse(strings.NewReader(fmt.Sprintf(traffic, duration, live, pause)))
	if err != nil {
		return 0, err
	}
	g, err := workload.New(spec, 0, 1)
	if err != nil {
		return 0, err
	}
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	w.Write(fileHeader())
	var record [16 + frameBytes]byte
	last := sim.Time(0)
	sink := workload.Each(func(at sim.Time, p *sim.Packet) sim.Verdict {
		last = max(last, at)
		frame(&record, last, p)
		w.Write(record[:])
		packets++
		return sim.Accepted
	})
	if err := g.RunUntil(context.Background(), math.MaxInt64, sink); err != nil {
		return 0, err
	}
	return packets, w.Flush()
}

const frameBytes = 14 + 20 + 20

// fileHeader is that of a classic capture of Ethernet frames.
func fileHeader() []byte {
	h := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	h = append(h, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	h = binary.LittleEndian.AppendUint32(h, 262144)
	return binary.LittleEndian.AppendUint32(h, 1)
}

// frame writes a record with an Ethernet, an IPv4 and a TCP header.
func frame(b *[16 + frameBytes]byte, at sim.Time, p *sim.Packet) {
	le, be := binary.LittleEndian, binary.BigEndian
	total := 40 + p.TCP.PayloadLen
	le.PutUint32(b[0:], 1_700_000_000+uint32(at/1e9))
	le.PutUint32(b[4:], uint32(at%1e9/1e3))
	le.PutUint32(b[8:], frameBytes)
	le.PutUint32(b[12:], 14+total)
	e := b[16:]
	copy(e, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0})
	ip := e[14:]
	clear(ip)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	be.PutUint16(ip[2:], uint16(total))
	put(ip[12:], p.Tuple.Src)
	put(ip[16:], p.Tuple.Dst)
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(be.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	be.PutUint16(ip[10:], ^uint16(sum&0xffff+sum>>16))
	tcp := ip[20:]
	be.PutUint16(tcp[0:], p.Tuple.SrcPort)
	be.PutUint16(tcp[2:], p.Tuple.DstPort)
	be.PutUint32(tcp[4:], p.TCP.Seq)
	be.PutUint32(tcp[8:], p.TCP.Ack)
	tcp[12], tcp[13] = 5<<4, p.TCP.Flags
	be.PutUint16(tcp[14:], p.TCP.Window)
}

func put(b []byte, a netip.Addr) {
	x := a.As4()
	copy(b, x[:])
}
