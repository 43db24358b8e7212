package logsrc

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	// maxUnpacked bounds what one packed file may become.
	maxUnpacked = 64 << 30
	// maxDictionary bounds the memory that a packed file may ask for.
	maxDictionary = 128 << 20
)

// ErrTooLarge is returned when a packed file becomes larger than its bound.
var ErrTooLarge = errors.New("unpacks to more than is read")

// errDictionary is returned when unpacking would take too much memory.
var errDictionary = errors.New("needs more memory to unpack than is allowed")

// unpack recognises gzip, xz, zstd and bzip2 by their first bytes, whatever
// the file is called; all else passes as it is. At most most bytes come out of
// a packed source.
func unpack(r io.Reader, most int64) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(maxXZHeader)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var u io.Reader
	closer := func() {}
	switch {
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		u, err = gzip.NewReader(br)
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		var d *zstd.Decoder
		d, err = zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxDictionary),
			zstd.WithDecoderMaxMemory(maxDictionary), zstd.WithDecoderConcurrency(1))
		if err == nil {
			u, closer = d, d.Close
		}
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		if xzDictionary(magic) > maxDictionary {
			return nil, errDictionary
		}
		u, err = xz.NewReader(br)
	case bytes.HasPrefix(magic, []byte("BZh")) && len(magic) > 9 && string(magic[4:10]) == "\x31\x41\x59\x26\x53\x59":
		u, err = bzip2.NewReader(br), nil
	default:
		return io.NopCloser(&rest{br, r}), nil
	}
	if err != nil {
		return nil, err
	}
	return &bounded{r: u, left: most, most: most, close: closer}, nil
}

// rest reads what a bufio.Reader holds and then its source without a copy.
type rest struct {
	br *bufio.Reader
	r  io.Reader
}

func (r *rest) Read(p []byte) (int, error) {
	if n := r.br.Buffered(); n > 0 {
		return r.br.Read(p[:min(n, len(p))])
	}
	return r.r.Read(p)
}

// bounded fails after a number of bytes.
type bounded struct {
	r          io.Reader
	left, most int64
	close      func()
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		var one [1]byte
		if n, err := b.r.Read(one[:]); n == 0 && err != nil {
			return 0, err
		}
		return 0, fmt.Errorf("%w: %d bytes", ErrTooLarge, b.most)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func (b *bounded) Close() error {
	b.close()
	return nil
}

// maxXZHeader covers a stream header and a block header with two filters.
const maxXZHeader = 12 + 64

// xzDictionary returns the size of the dictionary that the first block of an
// xz stream asks for: the property of filter 0x21, LZMA2 (xz file format
// 5.3.1). The reader would reserve it unseen.
func xzDictionary(header []byte) int64 {
	for i := 12; i+2 < len(header); i++ {
		if header[i] != 0x21 || header[i+1] != 1 {
			continue
		}
		bits := header[i+2] & 0x3f
		if bits >= 40 {
			return 1 << 32
		}
		return int64(2|bits&1) << (bits/2 + 11)
	}
	return 0
}
