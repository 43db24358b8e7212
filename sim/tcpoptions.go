package sim

import "encoding/binary"

// TCPOptions is what the kernel's tracker takes from the options of a segment.
type TCPOptions struct {
	// Present: the header is longer than 20 bytes. The kernel forgets scale
	// and flags of a side whose SYN carries options, and keeps them where it
	// carries none.
	Present   bool
	HasWScale bool
	SACKPerm  bool
	HasSACK   bool
	WScale    uint8  // as sent; the model cuts it to 14
	SACK      uint32 // highest right edge after the acknowledgement
}

const (
	tcpOptEnd      = 0
	tcpOptNop      = 1
	tcpOptWScale   = 3
	tcpOptSACKPerm = 4
	tcpOptSACK     = 5
	tcpMaxWScale   = 14
)

// ParseTCPOptions reads the options as tcp_options and tcp_sack of the kernel
// do, which stop at the first option they dislike and look at the first SACK
// option only. ack is the segment's acknowledgement number.
func ParseTCPOptions(b []byte, ack uint32) TCPOptions {
	o := TCPOptions{Present: len(b) > 0, SACK: ack}
	for len(b) > 0 {
		switch b[0] {
		case tcpOptEnd:
			return o
		case tcpOptNop:
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return o
		}
		o.add(b[0], b[2:b[1]], ack)
		b = b[b[1]:]
	}
	return o
}

func (o *TCPOptions) add(kind byte, data []byte, ack uint32) {
	switch {
	case kind == tcpOptSACKPerm && len(data) == 0:
		o.SACKPerm = true
	case kind == tcpOptWScale && len(data) == 1:
		o.HasWScale, o.WScale = true, data[0]
	case kind == tcpOptSACK && len(data) >= 8 && len(data)%8 == 0 && !o.HasSACK:
		o.HasSACK = true
		for ; len(data) > 0; data = data[8:] {
			if edge := binary.BigEndian.Uint32(data[4:]); after(edge, o.SACK) {
				o.SACK = edge
			}
		}
	}
}

// after reports whether sequence number a lies behind b, modulo 2^32.
func after(a, b uint32) bool { return int32(b-a) < 0 }

// before reports whether sequence number a lies in front of b, modulo 2^32.
func before(a, b uint32) bool { return int32(a-b) < 0 }
