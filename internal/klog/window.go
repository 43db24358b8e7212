package klog

import (
	"bytes"
	"errors"
	"io"
)

const (
	// blockSize is how much is read and searched at a time: so much that waking
	// the other goroutine for each block costs little.
	blockSize = 2 << 20
	// reach is how far around a needle its line or record is looked for. What
	// is longer is no log line.
	reach = 16 << 10
)

// block is one piece of a source, with room in front for the end of the piece
// before it.
type block struct {
	buf  []byte // of 2*reach + blockSize
	n    int    // bytes read, from 2*reach on
	last bool
	err  error
}

// readAhead reads blocks in a goroutine of its own, so that reading, or
// unpacking, and searching overlap. It ends at the reader's end, at an error,
// or when done is closed.
func readAhead(r io.Reader, done <-chan struct{}) (blocks <-chan *block, free chan<- *block) {
	full, empty := make(chan *block), make(chan *block, 2)
	for range cap(empty) {
		empty <- &block{buf: make([]byte, 2*reach+blockSize)}
	}
	go func() {
		defer close(full)
		for {
			var b *block
			select {
			case b = <-empty:
			case <-done:
				return
			}
			b.n, b.err = io.ReadFull(r, b.buf[2*reach:])
			b.last = b.err != nil
			if errors.Is(b.err, io.EOF) || errors.Is(b.err, io.ErrUnexpectedEOF) {
				b.err = nil
			}
			last := b.last
			select {
			case full <- b:
			case <-done:
				return
			}
			if last {
				return
			}
		}
	}()
	return full, empty
}

// window is the part of a source that is in memory.
type window struct {
	b     []byte
	base  int64 // offset of b[0] in the source
	final bool  // b reaches to the end of the source
}

// lineFinder finds the line around an offset. It remembers where it looked,
// so that a line without end costs no more than any other.
type lineFinder struct {
	start  int64 // where the current line begins; -1 is unknown
	looked int64 // up to where line ends were looked for
}

// around returns the line that holds offset i, without its line end; the NULs
// that a crash leaves in a file end a line too. ok is false if the line begins
// or ends out of reach.
func (f *lineFinder) around(w *window, i int) (from, to int, ok bool) {
	begin := int(max(f.looked-w.base, 0))
	if f.looked < w.base || i-begin > reach {
		begin = max(i-reach, 0)
		f.start = -1
		if begin == 0 && w.base == 0 {
			f.start = 0
		}
	}
	if begin <= i {
		if j := bytes.LastIndexByte(w.b[begin:i], '\n') + 1; j > 0 {
			begin += j
			f.start = w.base + int64(begin)
		}
		if j := bytes.LastIndexByte(w.b[begin:i], 0) + 1; j > 0 {
			f.start = w.base + int64(begin+j)
		}
		f.looked = w.base + int64(i)
	}
	from = int(f.start - w.base)
	if f.start < w.base || i-from > reach {
		return 0, 0, false
	}
	rest := w.b[i:min(i+reach, len(w.b))]
	ended := w.final && len(w.b)-i <= reach
	for _, end := range []byte{'\n', 0} {
		if j := bytes.IndexByte(rest, end); j >= 0 {
			rest, ended = rest[:j], true
		}
	}
	return from, i + len(rest), ended
}

// next returns the line after the one that ends at to, if it is in sight.
func (w *window) next(to int) []byte {
	if to+1 >= len(w.b) {
		return nil
	}
	rest := w.b[to+1 : min(to+1+1024, len(w.b))]
	if i := bytes.IndexByte(rest, '\n'); i >= 0 {
		return rest[:i]
	}
	if w.final {
		return rest
	}
	return nil
}

// near returns b from at most reach bytes before from to at most reach bytes
// after to, and where from lies in it.
func (w *window) near(from, to int) (b []byte, at int) {
	lo, hi := max(0, from-reach), min(len(w.b), to+reach)
	return w.b[lo:hi], from - lo
}

// paragraph cuts the record of journalctl -o export that holds offset i: it
// lies between empty lines.
func paragraph(b []byte, i int) []byte {
	lo := bytes.LastIndex(b[:i], []byte("\n\n")) + 2
	if lo == 1 {
		lo = 0
	}
	if j := bytes.Index(b[i:], []byte("\n\n")); j >= 0 {
		return b[lo : i+j]
	}
	return b[lo:]
}

// indented cuts the record of journalctl -o verbose that holds offset i: an
// unindented line and the indented ones after it.
func indented(b []byte, i int) []byte {
	lo, hi := i, len(b)
	for lo > 0 {
		if lo = bytes.LastIndexByte(b[:lo-1], '\n') + 1; b[lo] != ' ' {
			break
		}
	}
	for j := i; ; {
		k := bytes.IndexByte(b[j:], '\n')
		if k < 0 {
			break
		}
		if j += k + 1; j >= len(b) || b[j] != ' ' {
			hi = j
			break
		}
	}
	return b[lo:hi]
}

// braced cuts the object of journalctl -o json-pretty that holds offset i:
// its braces stand alone at the beginning of a line.
func braced(b []byte, i int) []byte {
	lo := bytes.LastIndex(b[:i], []byte("\n{")) + 1
	if j := bytes.Index(b[i:], []byte("\n}")); j >= 0 {
		return b[lo : i+j+2]
	}
	return b[lo:]
}
