package capture

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/ctwarden/ctwarden/sim"
)

// TestFirstFragmentOfDatagram: the rest of a datagram follows, so its length is
// no contradiction; and without fragments it is one.
func TestFirstFragmentOfDatagram(t *testing.T) {
	for _, c := range []struct {
		fragment  uint16
		malformed bool
		length    uint32
	}{{0x2000, false, 2028}, {0, true, 1500}} {
		b := make([]byte, 14+1500)
		binary.BigEndian.PutUint16(b[12:], 0x0800)
		ip := b[14:]
		ip[0], ip[8], ip[9] = 0x45, 64, 17
		binary.BigEndian.PutUint16(ip[2:], 1500)
		binary.BigEndian.PutUint16(ip[6:], c.fragment)
		binary.BigEndian.PutUint16(ip[24:], 2008)
		got, _, _ := readAll(t, classic(t, false, b))
		if len(got) != 1 || got[0].Flags&sim.FlagMalformed != 0 != c.malformed || got[0].Length != c.length {
			t.Errorf("flags of fragmentation %#x: %+v", c.fragment, got)
		}
	}
}

func TestHops(t *testing.T) {
	b := make([]byte, 14+28)
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	b[14], b[17], b[22], b[23] = 0x45, 28, 7, 17
	r, err := NewReader(bytes.NewReader(classic(t, false, b)))
	if err != nil {
		t.Fatal(err)
	}
	var p sim.Packet
	if _, err := r.Next(&p); err != nil || r.Hops() != 7 {
		t.Errorf("hops %d, %v", r.Hops(), err)
	}
}
