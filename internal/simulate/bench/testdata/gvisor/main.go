// Command gvisor sends a capture through the connection tracking of gVisor's
// network stack: a peer of the benchmark, in a module of its own so that the
// project does not depend on it.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/header/parse"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	if _, err := r.Discard(24); err != nil {
		return err
	}
	// Time stands still: nothing expires, which is in the peer's favour.
	tables := stack.DefaultTables(faketime.NewManualClock(), rand.New(rand.NewSource(1)))
	tables.ForceReplaceTable(stack.NATID, tables.GetTable(stack.NATID, false), false)
	packets := 0
	for {
		h, err := r.Peek(16)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		size := int(binary.LittleEndian.Uint32(h[8:]))
		record, err := r.Peek(16 + size)
		if err != nil {
			return err
		}
		if !track(tables, record[16+14:]) {
			return fmt.Errorf("packet %d is not taken", packets)
		}
		packets++
		if _, err := r.Discard(16 + size); err != nil {
			return err
		}
	}
	fmt.Println(packets)
	return nil
}

// track takes a packet in, to a local process. The payload is not in the
// capture: the packet becomes one without.
func track(tables *stack.IPTables, ip []byte) bool {
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(ip)})
	defer pkt.DecRef()
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	pkt.RXChecksumValidated = true
	if !parse.IPv4(pkt) || !parse.TCP(pkt) {
		return false
	}
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	return tables.CheckPrerouting(pkt, nil, "eth0") && tables.CheckInput(pkt, "eth0")
}
