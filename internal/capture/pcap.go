package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/ctwarden/ctwarden/sim"
)

// linkType is a LINKTYPE_ number of the tcpdump group's registry.
type linkType uint32

const (
	linkNull     linkType = 0
	linkEthernet linkType = 1
	linkRawBSD   linkType = 12
	linkRawOpen  linkType = 14
	linkRaw      linkType = 101
	linkLoop     linkType = 108
	linkSLL      linkType = 113
	linkIPv4     linkType = 228
	linkIPv6     linkType = 229
	linkSLL2     linkType = 276
)

// pcap is the classic format: a header of 24 bytes, then records with a header
// of 16 bytes each.
type pcap struct {
	r     *bufio.Reader
	big   bool     // big-endian
	unit  sim.Time // of the fraction of a second
	extra int      // bytes of the record header beyond 16
	link  linkType
	skip  int64 // bytes of the last record that are still in the way
	// window is what the reader has in memory, used what of it has been handed
	// out: records that lie in it cost no call.
	window []byte
	used   int
}

func openPcap(br *bufio.Reader) (source, error) {
	h, err := br.Peek(24)
	if err != nil {
		return nil, fmt.Errorf("%w: it ends after %d bytes", ErrFormat, len(h))
	}
	p := &pcap{r: br, unit: 1e3}
	switch binary.LittleEndian.Uint32(h) {
	case 0xa1b2c3d4:
	case 0xa1b23c4d:
		p.unit = 1
	case 0xd4c3b2a1:
		p.big = true
	case 0x4d3cb2a1:
		p.big, p.unit = true, 1
	case 0xa1b2cd34: // the "modified" format of old Linux distributions
		p.extra = 8
	default:
		return nil, ErrFormat
	}
	link := binary.LittleEndian.Uint32(h[20:])
	if p.big {
		link = bits.ReverseBytes32(link)
	}
	// The upper bits hold the length of a frame check sequence.
	p.link = linkType(link & 0x0fffffff)
	_, err = br.Discard(24)
	return p, err
}

func (p *pcap) next(rec *record) error {
	header := 16 + p.extra
	if w := p.window[p.used:]; len(w) >= header {
		if n := p.head(rec, w); n <= int64(len(w)-header) {
			p.used += header + int(n)
			rec.data = w[header : header+int(min(n, maxPacket))]
			return nil
		}
	}
	return p.refill(rec, header)
}

// head reads a record's header and returns the length of its data.
func (p *pcap) head(rec *record, h []byte) int64 {
	le := binary.LittleEndian
	h = h[:16]
	second, fraction, length, orig := le.Uint32(h), le.Uint32(h[4:]), le.Uint32(h[8:]), le.Uint32(h[12:])
	if p.big {
		swap := bits.ReverseBytes32
		second, fraction, length, orig = swap(second), swap(fraction), swap(length), swap(orig)
	}
	rec.at = sim.Time(second)*1e9 + sim.Time(fraction)*p.unit
	rec.link, rec.orig = p.link, max(orig, length)
	return int64(length)
}

// refill reads on, and hands out the record that the window does not hold.
func (p *pcap) refill(rec *record, header int) error {
	skip := int64(p.used) + p.skip
	p.window, p.used, p.skip = nil, 0, 0
	if err := discard(p.r, skip); err != nil {
		return err
	}
	h, err := p.r.Peek(header)
	if err != nil {
		return ended(h, err)
	}
	length := p.head(rec, h)
	if _, err := p.r.Discard(header); err != nil {
		return err
	}
	if rec.data, err = p.take(length); err != nil {
		return err
	}
	if held, err := p.r.Peek(p.r.Buffered()); err == nil && int64(len(held)) >= length {
		p.window, p.used, p.skip = held, int(length), 0
	}
	return nil
}

// take shows the record's bytes without copying them where the buffer holds
// them all, and leaves them to be skipped by the next call.
func (p *pcap) take(length int64) ([]byte, error) {
	n := int(min(length, maxPacket))
	data, err := p.r.Peek(n)
	if err != nil {
		if len(data) < n {
			return nil, io.ErrUnexpectedEOF
		}
		return nil, err
	}
	p.skip = length
	return data, nil
}

// ended tells a capture that ends between records from one that breaks off.
func ended(got []byte, err error) error {
	if errors.Is(err, io.EOF) && len(got) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

func discard(r *bufio.Reader, n int64) error {
	for n > 0 {
		step := int(min(n, 1<<30))
		d, err := r.Discard(step)
		n -= int64(d)
		if err != nil {
			return ended(make([]byte, 1), err)
		}
	}
	return nil
}
