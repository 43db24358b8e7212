// Package capture turns packet captures into what connection tracking sees of
// each packet.
//
// It reads pcap and pcapng, plain or compressed with gzip or zstd, from any
// reader, in constant memory, and never trusts a length it finds. What it
// cannot use it skips and counts by reason.
package capture

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ctwarden/ctwarden/sim"
)

// ErrFormat is returned for input that is neither pcap nor pcapng.
var ErrFormat = errors.New("not a packet capture (pcap or pcapng, plain, gzip or zstd)")

// maxPacket bounds the bytes that are kept of one packet; connection tracking
// looks at headers only. Longer records are cut, not refused.
const maxPacket = 1 << 16

// bufferSize is what is read of the input at a time: little enough to stay in the
// processor's caches.
const bufferSize = 1 << 18

// record is one captured packet as the file has it. data is valid until the
// next call.
type record struct {
	at   sim.Time // nanoseconds since 1970
	link linkType
	orig uint32 // its length on the wire
	hops uint8  // time to live or hop limit, once decoded
	data []byte
}

// source yields records; io.EOF ends them.
type source interface {
	next(*record) error
}

// Reader reads one capture.
type Reader struct {
	src   source
	rec   record
	last  sim.Time
	leapt sim.Time // where a time that leapt ahead was skipped; 0 if none was
	stats Stats
	close func()
}

// Stats say what a capture held.
type Stats struct {
	Packets uint64 // handed out
	Bytes   uint64 // of IP packets on the wire
	// Skipped counts what was not handed out, by reason.
	Skipped map[Reason]uint64
	// Backwards counts packets that bear an earlier time than the one before;
	// they are handed out at the time of the one before.
	Backwards uint64
	// Cut is set when the capture ends in the middle of a packet, or could not be
	// read further: then Damage says why.
	Cut    bool
	Damage string
}

// latest bounds times: sums with timeouts stay far from the end of [sim.Time].
const latest = 1 << 62 // in the year 2116

// leap is how far a time may be ahead of the one before. One packet that is
// further ahead is taken for damaged, or all behind it would be dragged there;
// where the next one is there too, time has passed.
const leap = sim.Time(365 * 24 * time.Hour)

// NewReader recognises the format by the first bytes.
func NewReader(r io.Reader) (*Reader, error) {
	br := bufio.NewReaderSize(r, bufferSize)
	magic, err := br.Peek(4)
	if err != nil && len(magic) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrFormat)
	}
	cr := &Reader{stats: Stats{Skipped: make(map[Reason]uint64)}, close: func() {}}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("open gzip: %w", err)
		}
		br = bufio.NewReaderSize(z, bufferSize)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(128<<20))
		if err != nil {
			return nil, fmt.Errorf("open zstd: %w", err)
		}
		cr.close = z.Close
		br = bufio.NewReaderSize(z, bufferSize)
	}
	cr.src, err = openSource(br)
	if err != nil {
		cr.close()
		return nil, err
	}
	return cr, nil
}

func openSource(br *bufio.Reader) (source, error) {
	magic, err := br.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("%w: it ends after %d bytes", ErrFormat, len(magic))
	}
	if bytes.Equal(magic, []byte{0x0a, 0x0d, 0x0d, 0x0a}) {
		return &pcapng{r: br}, nil
	}
	return openPcap(br)
}

// Next fills p with the next packet that connection tracking would see, and
// returns its time. It returns io.EOF after the last. A capture that breaks off, or
// is damaged behind some packets, ends like one that does not, with Stats.Cut set.
func (r *Reader) Next(p *sim.Packet) (sim.Time, error) {
	rec := &r.rec
	for {
		if err := r.src.next(rec); err != nil {
			return 0, r.end(err)
		}
		if uint64(rec.at-r.last) > uint64(leap) && !r.timely(rec.at) {
			r.stats.Skipped[OddTime]++
			continue
		}
		if !plainTCP(rec, p) {
			if reason := decode(rec, p); reason != "" {
				r.stats.Skipped[reason]++
				continue
			}
		}
		if rec.at < r.last {
			r.stats.Backwards++
			rec.at = r.last
		}
		r.last = rec.at
		r.stats.Packets++
		r.stats.Bytes += uint64(p.Length)
		return rec.at, nil
	}
}

// end makes what is wrong with a capture its end, if there was something before.
func (r *Reader) end(err error) error {
	switch {
	case errors.Is(err, io.EOF):
	case errors.Is(err, io.ErrUnexpectedEOF):
		r.stats.Cut = true
	case r.stats.Packets > 0:
		r.stats.Cut, r.stats.Damage = true, err.Error()
	default:
		return err
	}
	return io.EOF
}

// timely reports whether a time that does not follow soon can be that of the next
// packet.
func (r *Reader) timely(at sim.Time) bool {
	switch {
	case at < 0 || at > latest:
		return false
	case r.stats.Packets == 0 || at < r.last:
		return true
	}
	before := r.leapt
	r.leapt = at
	return before != 0 && max(at-before, before-at) <= leap
}

// Hops returns the time to live, or hop limit, of the packet that Next returned
// last. A router drops what comes with 1 and is for somebody else, after
// tracking it: see [sim.FlagDropped].
func (r *Reader) Hops() uint8 { return r.rec.hops }

// Stats returns what was read so far.
func (r *Reader) Stats() Stats { return r.stats }

// Close frees what decompression holds. It does not close the input.
func (r *Reader) Close() { r.close() }
