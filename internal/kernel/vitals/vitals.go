// Package vitals reads the numbers by which a namespace's table is watched,
// ten times a second and for years, on descriptors that are opened once.
package vitals

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/quick"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
)

// Vitals are the descriptors. They keep their namespace alive: whoever holds
// them must notice when nobody else does, and close them. No two goroutines may
// use them at once.
type Vitals struct {
	max, buckets *sysctl.Gauge
	stat, snmp   *source
	inode        uint64
	buf          []byte
	columns      []string // of stat
	sums         []uint32
	resets       [2]int // columns of snmp's Tcp line, from 1; 0 if not known yet
}

// source is a file and how long it was when it was last read to its end: one
// that is as long again needs no second look for more.
type source struct {
	*quick.File
	length int
	full   int // readings since one looked at the end
}

// lookAtEnd is how many readings may go by the length: with another processor
// the counters get another line.
const lookAtEnd = 10

func openSource(path string) (*source, error) {
	f, err := quick.Open(path)
	if err != nil {
		return nil, err
	}
	return &source{File: f}, nil
}

// Open opens the descriptors of a namespace, as [netns.Path] understands it.
func Open(ref string) (*Vitals, error) {
	v := &Vitals{buf: make([]byte, 8<<10)}
	err := netns.Do(ref, func() (err error) {
		if v.inode, err = netns.Inode(""); err != nil {
			return err
		}
		var t sysctl.Tree
		if v.max, err = t.Open(sysctl.Max); err != nil {
			return err
		}
		if v.buckets, err = t.Open(sysctl.Buckets); err != nil {
			return err
		}
		// seq_open_net binds the file to the namespace, not to the thread.
		if v.stat, err = openSource("/proc/thread-self/net/stat/nf_conntrack"); err != nil {
			return err
		}
		v.snmp, err = openSource("/proc/thread-self/net/snmp")
		return err
	})
	if err == nil {
		err = v.readColumns()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open what is to be watched: %w", err), v.Close())
	}
	return v, nil
}

// Inode is the number of the namespace.
func (v *Vitals) Inode() uint64 { return v.inode }

// Close lets go of the namespace.
func (v *Vitals) Close() error {
	var errs []error
	for _, c := range []*sysctl.Gauge{v.max, v.buckets} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	for _, f := range []*source{v.stat, v.snmp} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Max reads the limit.
func (v *Vitals) Max() (int64, error) { return v.max.Int() }

// Buckets reads the size of the hash table.
func (v *Vitals) Buckets() (int64, error) { return v.buckets.Int() }

// maxFile bounds what is read of one file: 8,192 CPUs have two thirds of it.
const maxFile = 2 << 20

// read reads a file from its beginning into the buffer, which grows once to
// what the machine needs.
func (v *Vitals) read(f *source) ([]byte, error) {
	n := 0
	for {
		if n == len(v.buf) {
			v.buf = append(v.buf, make([]byte, len(v.buf))...)
		}
		m, err := quick.ReadAt(f.File, v.buf[n:], int64(n))
		if err != nil {
			return nil, err
		}
		n += m
		switch {
		case m == 0:
			f.length, f.full = n, 0
			return v.buf[:n], nil
		case n == f.length && f.full < lookAtEnd:
			f.full++
			return v.buf[:n], nil
		case n >= maxFile:
			return nil, fmt.Errorf("%s is longer than %d bytes", f.Name(), maxFile)
		}
	}
}

func (v *Vitals) readColumns() error {
	b, err := v.read(v.stat)
	if err != nil {
		return err
	}
	head, _, _ := bytes.Cut(b, []byte("\n"))
	for _, name := range bytes.Fields(head) {
		v.columns = append(v.columns, string(name))
	}
	if len(v.columns) == 0 || v.columns[0] != "entries" {
		return errors.New("the tracking counters have no line of names")
	}
	v.sums = make([]uint32, len(v.columns))
	return nil
}

var errCounters = errors.New("the tracking counters are not hexadecimal numbers")

// Counters reads the entries of the namespace and its counters, summed over the
// CPUs, at one go; the sums wrap at 32 bits as each of them does.
func (v *Vitals) Counters() (count int64, c ct.Counters, err error) {
	b, err := v.read(v.stat)
	if err != nil {
		return 0, c, fmt.Errorf("read the tracking counters: %w", err)
	}
	clear(v.sums)
	_, b, _ = bytes.Cut(b, []byte("\n"))
	if !sumHex(b, v.sums) {
		return 0, c, errCounters
	}
	for i, name := range v.columns[1:] {
		c.SetByName(name, v.sums[i+1])
	}
	return first(b), c, nil
}

// first is the number at the beginning of a line: of entries each line tells the
// same.
func first(b []byte) (n int64) {
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | int64(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | int64(c-'a'+10)
		default:
			return n
		}
	}
	return n
}

// sumHex adds lines of hexadecimal numbers, column by column; columns beyond
// the sums are passed over.
func sumHex(b []byte, sums []uint32) bool {
	col, n, in := 0, uint32(0), false
	end := func() {
		if in && col < len(sums) {
			sums[col] += n
		}
		if in {
			col++
		}
		n, in = 0, false
	}
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			n, in = n<<4|uint32(c-'0'), true
		case c >= 'a' && c <= 'f':
			n, in = n<<4|uint32(c-'a'+10), true
		case c == ' ':
			end()
		case c == '\n':
			end()
			col = 0
		default:
			return false
		}
	}
	end()
	return true
}

var tcpLine = []byte("\nTcp: ")

// Resets reads how many TCP resets were sent and how many connections were
// reset since boot.
func (v *Vitals) Resets() (uint64, error) {
	b, err := v.read(v.snmp)
	if err != nil {
		return 0, fmt.Errorf("read the TCP totals: %w", err)
	}
	_, b, _ = bytes.Cut(b, tcpLine)
	names, b, _ := bytes.Cut(b, tcpLine)
	values, _, _ := bytes.Cut(b, []byte("\n"))
	if v.resets == [2]int{} {
		for i, n := range bytes.Fields(names) {
			switch string(n) {
			case "EstabResets":
				v.resets[0] = i + 1
			case "OutRsts":
				v.resets[1] = i + 1
			}
		}
	}
	sum, col := uint64(0), 1
	for len(values) > 0 && col <= max(v.resets[0], v.resets[1]) {
		var field []byte
		field, values, _ = bytes.Cut(values, []byte(" "))
		if col == v.resets[0] || col == v.resets[1] {
			sum += decimal(field)
		}
		col++
	}
	return sum, nil
}

// decimal reads a number, as far as it is one.
func decimal(b []byte) (n uint64) {
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}
