package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

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
	order binary.ByteOrder
	nanos bool
	extra int // bytes of the record header beyond 16
	link  linkType
	skip  int64 // bytes of the last record that are still in the way
}

func openPcap(br *bufio.Reader) (source, error) {
	h, err := br.Peek(24)
	if err != nil {
		return nil, fmt.Errorf("%w: it ends after %d bytes", ErrFormat, len(h))
	}
	p := &pcap{r: br}
	switch binary.LittleEndian.Uint32(h) {
	case 0xa1b2c3d4:
		p.order = binary.LittleEndian
	case 0xa1b23c4d:
		p.order, p.nanos = binary.LittleEndian, true
	case 0xd4c3b2a1:
		p.order = binary.BigEndian
	case 0x4d3cb2a1:
		p.order, p.nanos = binary.BigEndian, true
	case 0xa1b2cd34: // the "modified" format of old Linux distributions
		p.order, p.extra = binary.LittleEndian, 8
	default:
		return nil, ErrFormat
	}
	// The upper bits hold the length of a frame check sequence.
	p.link = linkType(p.order.Uint32(h[20:]) & 0x0fffffff)
	_, err = br.Discard(24)
	return p, err
}

func (p *pcap) next(rec *record) error {
	if p.skip > 0 {
		if err := discard(p.r, p.skip); err != nil {
			return err
		}
		p.skip = 0
	}
	h, err := p.r.Peek(16 + p.extra)
	if err != nil {
		return ended(h, err)
	}
	seconds, fraction := p.order.Uint32(h), p.order.Uint32(h[4:])
	length, orig := p.order.Uint32(h[8:]), p.order.Uint32(h[12:])
	rec.at = sim.Time(seconds) * 1e9
	if p.nanos {
		rec.at += sim.Time(fraction)
	} else {
		rec.at += sim.Time(fraction) * 1e3
	}
	rec.link, rec.orig = p.link, max(orig, length)
	if _, err := p.r.Discard(16 + p.extra); err != nil {
		return err
	}
	rec.data, err = p.take(int64(length))
	return err
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
