package ctwalk

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/ctwarden/ctwarden/internal/kernel/netns"
)

const (
	symbolHash    = "nf_conntrack_hash"
	symbolBuckets = "nf_conntrack_htable_size"
	procTable     = "/proc/thread-self/net/nf_conntrack"
	procBuckets   = "/proc/sys/net/netfilter/nf_conntrack_buckets"
)

// where finds the hash table, which is replaced when it is resized.
type where struct {
	hash, buckets uint64 // addresses of the kernel's variables, 0 where not in kallsyms
}

// table is where the hash table lay when it was looked up.
type table struct{ hash, buckets uint64 }

// symbols looks for the kernel's variables. Data is in kallsyms only with
// CONFIG_KALLSYMS_ALL, and its addresses only for who may see them.
func symbols() (where, error) {
	all, err := findSymbols(symbolHash, symbolBuckets)
	w := where{hash: all[symbolHash], buckets: all[symbolBuckets]}
	if w.hash == 0 || w.buckets == 0 {
		return where{}, err
	}
	return w, err
}

func symbol(name string) (uint64, error) {
	all, err := findSymbols(name)
	if err == nil && all[name] == 0 {
		err = fmt.Errorf("/proc/kallsyms does not show %s", name)
	}
	return all[name], err
}

func findSymbols(names ...string) (map[string]uint64, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return scanSymbols(f, names...)
}

func scanSymbols(r io.Reader, names ...string) (map[string]uint64, error) {
	found := make(map[string]uint64)
	lines := bufio.NewScanner(r)
	for lines.Scan() && len(found) < len(names) {
		address, rest, _ := bytes.Cut(lines.Bytes(), []byte(" "))
		if len(rest) < 2 || !bytes.HasPrefix(rest[2:], []byte("nf_c")) {
			continue
		}
		name, _, _ := bytes.Cut(rest[2:], []byte("\t")) // a module's name follows
		if !slices.Contains(names, string(name)) {
			continue
		}
		n, err := strconv.ParseUint(string(address), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("read /proc/kallsyms: %w", err)
		}
		found[string(name)] = n
	}
	return found, lines.Err()
}

// search finds out how to find the table. Reading through kallsyms takes the
// kernel 60 ms; /proc/net/nf_conntrack, which many kernels do not have, is faster.
func (w *Walker) search() (where, error) {
	if w.layout.find.iterHash >= 0 {
		if _, err := os.Stat(procTable); err == nil {
			return where{}, nil
		}
	}
	found, err := symbols()
	if err == nil && found.hash == 0 {
		err = errNowhere
	}
	return found, err
}

var errNowhere = errors.New("the kernel shows neither the symbol nf_conntrack_hash nor /proc/net/nf_conntrack")

// locate finds the table as it is now. path is a namespace of which
// /proc/net/nf_conntrack may be opened.
func (w *Walker) locate(path string) (table, error) {
	if w.where.hash == 0 {
		return w.locateByFile(path)
	}
	for {
		before, err := w.peek64(w.where.hash)
		if err != nil {
			return table{}, err
		}
		buckets, err := w.peek(w.where.buckets, 4)
		if err != nil {
			return table{}, err
		}
		t := table{hash: before, buckets: uint64(native.Uint32(buckets))}
		after, err := w.peek64(w.where.hash)
		if err != nil || before == after {
			return t, err
		}
	}
}

// moved reports whether the table is another than t by now.
func (w *Walker) moved(t table) (bool, error) {
	if w.where.hash != 0 {
		hash, err := w.peek64(w.where.hash)
		return hash != t.hash, err
	}
	n, err := w.bucketCount()
	return n != t.buckets, err
}

// locateByFile opens /proc/net/nf_conntrack, whose reader has the address of
// the table noted down (struct ct_iter_state), and finds it by way of this
// thread's files.
func (w *Walker) locateByFile(path string) (t table, err error) {
	l := &w.layout.find
	if l.iterHash < 0 {
		return t, errNowhere
	}
	err = netns.Do(path, func() error {
		f, err := os.Open(procTable)
		if err != nil {
			return err
		}
		defer f.Close()
		var one [1]byte
		if _, err := f.Read(one[:]); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		conn, err := f.SyscallConn()
		if err != nil {
			return err
		}
		var fd uintptr
		if err := conn.Control(func(n uintptr) { fd = n }); err != nil {
			return err
		}
		task, err := w.task()
		if err != nil {
			return err
		}
		state, err := w.follow(task, l.files, l.fdt, l.fd, int(fd)*8, l.private, l.seqPrivate)
		if err != nil {
			return err
		}
		if t.hash, err = w.peek64(state + uint64(l.iterHash)); err != nil {
			return err
		}
		b, err := w.peek(state+uint64(l.iterBuckets), 4)
		if err != nil {
			return err
		}
		t.buckets = uint64(native.Uint32(b))
		return nil
	})
	if err != nil {
		return t, err
	}
	if n, err := w.bucketCount(); err != nil || n != t.buckets {
		return t, fmt.Errorf("/proc/net/nf_conntrack speaks of %d buckets, nf_conntrack_buckets of %d: %w", t.buckets, n, err)
	}
	return t, nil
}

// bucketCount reads the size of the table, which every run wants to know.
func (w *Walker) bucketCount() (n uint64, err error) {
	k, err := w.buckets.ReadAt(w.number[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	for _, c := range w.number[:k] {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + uint64(c-'0')
	}
	return n, nil
}

// namespace returns the address of struct net and the inode number of the
// namespace at path.
func (w *Walker) namespace(path string) (address, inode uint64, err error) {
	err = netns.Do(path, func() error {
		if inode, err = netns.Inode(""); err != nil {
			return err
		}
		task, err := w.task()
		if err != nil {
			return err
		}
		address, err = w.follow(task, w.layout.find.nsproxy, w.layout.find.net)
		return err
	})
	return address, inode, err
}

// follow reads the pointer at address+offset, and from there the next.
func (w *Walker) follow(address uint64, offsets ...int) (uint64, error) {
	for _, off := range offsets {
		var err error
		if address, err = w.peek64(address + uint64(off)); err != nil {
			return 0, err
		}
		if address == 0 {
			return 0, errors.New("met a null pointer on the way to the table")
		}
	}
	return address, nil
}
