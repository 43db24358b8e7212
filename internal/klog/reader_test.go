package klog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const fullLine = "Nov 22 10:00:00 h kernel: nf_conntrack: table full, dropping packet\n"

// TestEveryOffset puts a message at offsets all around the ends of blocks.
func TestEveryOffset(t *testing.T) {
	filler := []byte(strings.Repeat("Nov 22 09:59:59 h systemd[1]: Started Session of user root.\n", 3*blockSize/50))
	for _, edge := range []int{blockSize, 2 * blockSize, blockSize - reach, 2*blockSize - reach} {
		for d := -90; d <= 90; d += 7 {
			head := bytes.Clone(filler[:edge+d])
			head[len(head)-1] = '\n'
			text := append(append(head, fullLine+"Nov 22 10:00:01 h last message repeated 4 times\n"...), filler[:blockSize]...)
			c := NewCollector(Options{Now: time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC)})
			if err := c.Feed("log", bytes.NewReader(text), Hints{}); err != nil {
				t.Fatal(err)
			}
			if r := c.Report(); len(r.Episodes) != 1 || r.Episodes[0].Lines != 5 || r.Sources[0].Bytes != int64(len(text)) {
				t.Fatalf("a message at %d: %s", edge+d, render(r))
			}
		}
	}
}

// TestCountsAreExact counts messages strewn over megabytes.
func TestCountsAreExact(t *testing.T) {
	text := corpus(8 << 20)
	r := rand.New(rand.NewPCG(7, 7))
	var b bytes.Buffer
	want := uint64(0)
	for line := range bytes.Lines(text) {
		b.Write(line)
		if r.IntN(1000) == 0 {
			b.WriteString(fullLine)
			want++
		}
	}
	c := NewCollector(Options{Now: time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC)})
	if err := c.Feed("log", iotest.HalfReader(&b), Hints{}); err != nil {
		t.Fatal(err)
	}
	if rep := c.Report(); len(rep.Episodes) != 1 || rep.Episodes[0].Lines != want {
		t.Fatalf("want %d lines: %s", want, render(rep))
	}
}

// endless repeats a text up to a number of bytes.
type endless struct {
	text []byte
	at   int
	left int64
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(int64(len(p)), e.left)], e.text[e.at:])
	e.at = (e.at + n) % len(e.text)
	e.left -= int64(n)
	return n, nil
}

// TestHostileTextNeedsNoMemory reads texts made to grow what is kept of them.
func TestHostileTextNeedsNoMemory(t *testing.T) {
	size := int64(48 << 20)
	if testing.Short() {
		size = 6 << 20
	}
	strew := func(line func(i int) string) []byte {
		var b bytes.Buffer
		for i := range 50_000 {
			b.WriteString(line(i))
		}
		return b.Bytes()
	}
	for name, text := range map[string][]byte{
		"one line":             bytes.Repeat([]byte("x"), 1<<20),
		"one line of messages": bytes.Repeat([]byte("nf_conntrack: table full, dropping packet "), 1<<14),
		"only messages":        []byte(fullLine),
		"no ends, only NULs":   make([]byte, 1<<20),
		"open braces":          []byte(`{"MESSAGE":"nf_conntrack: table full, dropping` + strings.Repeat("{", 9000) + "\n"),
		"a host a line":        strew(func(i int) string { return strings.Replace(fullLine, "h", fmt.Sprint("host", i), 1) }),
		"a time a line": strew(func(i int) string {
			at := time.Unix(int64(i)*7919*86400%1600000000, 0).UTC()
			return at.Format(time.RFC3339) + fullLine[15:]
		}),
		"back in time": strew(func(i int) string {
			return time.Date(2001, 12, 31-i%365, 0, 0, 0, 0, time.UTC).Format(time.Stamp) + fullLine[15:]
		}),
	} {
		t.Run(name, func(t *testing.T) {
			c := NewCollector(Options{Now: time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC)})
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			if err := c.Feed("log", &endless{text: text, left: size}, Hints{}); err != nil {
				t.Fatal(err)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 24<<20 {
				t.Errorf("%d bytes are kept of it", grown)
			}
			r := c.Report()
			if len(r.Episodes) > maxSlots || len(r.Episodes) > 0 && r.Episodes[0].Lines == 0 {
				t.Errorf("%d episodes", len(r.Episodes))
			}
		})
	}
}

func TestReadError(t *testing.T) {
	broken := errors.New("input/output error")
	c := NewCollector(Options{Now: time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC)})
	in := io.MultiReader(strings.NewReader(fullLine), iotest.ErrReader(broken))
	err := c.Feed("disk", in, Hints{})
	if !errors.Is(err, broken) || err.Error() != `read log "disk": input/output error` {
		t.Errorf("error %v", err)
	}
	if r := c.Report(); len(r.Episodes) != 1 || r.Sources[0].Error != "input/output error" {
		t.Errorf("what was read before is lost: %s", render(r))
	}
}
