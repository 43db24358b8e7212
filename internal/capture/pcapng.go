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

// Block types of pcapng (draft-ietf-opsawg-pcapng).
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
)

const (
	orderMagic    = 0x1a2b3c4d
	optEnd        = 0
	optTsResol    = 9
	optTsOffset   = 14
	maxInterfaces = 65536
	maxOptions    = 1 << 16
)

// ErrDamaged is returned where a pcapng file contradicts itself so that the
// next block cannot be found.
var ErrDamaged = errors.New("damaged pcapng file")

type ngInterface struct {
	link   linkType
	snap   uint32
	units  uint64 // a second, in units of its timestamps
	offset int64  // seconds added to each
}

// pcapng is the block format: sections, interfaces, packets.
type pcapng struct {
	r      *bufio.Reader
	order  binary.ByteOrder
	ifaces []ngInterface
	last   sim.Time // simple packets bear no time
	skip   int64
}

func (p *pcapng) next(rec *record) error {
	for {
		if p.skip > 0 {
			if err := discard(p.r, p.skip); err != nil {
				return err
			}
			p.skip = 0
		}
		h, err := p.r.Peek(12)
		if err != nil {
			return ended(h, err)
		}
		if binary.LittleEndian.Uint32(h) == blockSection {
			if err := p.section(h); err != nil {
				return err
			}
			continue
		}
		if p.order == nil {
			return fmt.Errorf("%w: no section header", ErrDamaged)
		}
		kind, length := p.order.Uint32(h), p.order.Uint32(h[4:])
		if length < 12 || length%4 != 0 {
			return fmt.Errorf("%w: a block of %d bytes", ErrDamaged, length)
		}
		p.skip = int64(length)
		done, err := p.block(kind, int(length), rec)
		if done || err != nil {
			return err
		}
	}
}

func (p *pcapng) section(h []byte) error {
	switch {
	case binary.LittleEndian.Uint32(h[8:]) == orderMagic:
		p.order = binary.LittleEndian
	case binary.BigEndian.Uint32(h[8:]) == orderMagic:
		p.order = binary.BigEndian
	default:
		return fmt.Errorf("%w: a section of no known byte order", ErrDamaged)
	}
	length := p.order.Uint32(h[4:])
	if length < 28 || length%4 != 0 {
		return fmt.Errorf("%w: a section header of %d bytes", ErrDamaged, length)
	}
	p.ifaces = p.ifaces[:0]
	p.skip = int64(length)
	return nil
}

// block reads one block of which 12 bytes are known to be there. done tells
// that rec holds a packet.
func (p *pcapng) block(kind uint32, length int, rec *record) (done bool, err error) {
	const enhanced, obsolete, simple = 28, 28, 12
	switch kind {
	case blockInterface:
		return false, p.addInterface(length)
	case blockEnhanced, blockPacket:
		if length < enhanced+4 {
			return false, fmt.Errorf("%w: a packet block of %d bytes", ErrDamaged, length)
		}
		h, err := p.r.Peek(enhanced)
		if err != nil {
			return false, io.ErrUnexpectedEOF
		}
		id := p.order.Uint32(h[8:])
		if kind == blockPacket {
			id = uint32(p.order.Uint16(h[8:]))
		}
		if int64(id) >= int64(len(p.ifaces)) {
			return false, nil // of an interface that nobody described
		}
		i := &p.ifaces[id]
		rec.at = i.time(uint64(p.order.Uint32(h[12:]))<<32 | uint64(p.order.Uint32(h[16:])))
		p.last = rec.at
		return p.data(rec, i, enhanced, int(p.order.Uint32(h[20:])), p.order.Uint32(h[24:]), length)
	case blockSimple:
		if len(p.ifaces) == 0 || length < simple+4 {
			return false, nil
		}
		h, err := p.r.Peek(simple)
		if err != nil {
			return false, io.ErrUnexpectedEOF
		}
		orig := p.order.Uint32(h[8:])
		n := int(min(uint64(orig), uint64(length-simple-4)))
		rec.at = p.last
		return p.data(rec, &p.ifaces[0], simple, n, orig, length)
	}
	return false, nil
}

func (p *pcapng) data(rec *record, i *ngInterface, header, captured int, orig uint32, length int) (bool, error) {
	if captured < 0 || captured > length-header-4 {
		return false, fmt.Errorf("%w: a packet longer than its block", ErrDamaged)
	}
	n := min(captured, maxPacket)
	b, err := p.r.Peek(header + n)
	if err != nil {
		return false, io.ErrUnexpectedEOF
	}
	rec.link, rec.orig, rec.data = i.link, max(orig, uint32(captured)), b[header:]
	return true, nil
}

func (p *pcapng) addInterface(length int) error {
	if length < 20 || len(p.ifaces) >= maxInterfaces {
		return fmt.Errorf("%w: interface %d in %d bytes", ErrDamaged, len(p.ifaces), length)
	}
	b, err := p.r.Peek(min(length, maxOptions))
	if err != nil {
		return io.ErrUnexpectedEOF
	}
	i := ngInterface{link: linkType(p.order.Uint16(b[8:])), snap: p.order.Uint32(b[12:]), units: 1e6}
	opts := b[16 : len(b)-4]
	for len(opts) >= 4 {
		code, n := p.order.Uint16(opts), int(p.order.Uint16(opts[2:]))
		opts = opts[4:]
		if code == optEnd || n > len(opts) {
			break
		}
		switch {
		case code == optTsResol && n == 1:
			i.units = resolution(opts[0])
		case code == optTsOffset && n == 8:
			i.offset = int64(p.order.Uint64(opts))
		}
		opts = opts[min((n+3)&^3, len(opts)):]
	}
	p.ifaces = append(p.ifaces, i)
	return nil
}

// resolution turns if_tsresol into units a second: a power of ten, or of two
// if the highest bit is set. What does not fit counts as microseconds.
func resolution(v byte) uint64 {
	n := int(v & 0x7f)
	if v&0x80 != 0 {
		if n < 63 {
			return 1 << n
		}
		return 1e6
	}
	u := uint64(1)
	for range n {
		if u > 1e18 {
			return 1e6
		}
		u *= 10
	}
	return u
}

func (i *ngInterface) time(ticks uint64) sim.Time {
	seconds, rest := ticks/i.units, ticks%i.units
	hi, lo := bits.Mul64(rest, 1e9)
	frac, _ := bits.Div64(hi%i.units, lo, i.units)
	return sim.Time((int64(seconds&0x1ffffffff)+i.offset%(1<<33))*1e9 + int64(frac))
}
