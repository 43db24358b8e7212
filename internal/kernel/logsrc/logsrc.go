// Package logsrc finds and reads the logs of a machine that can hold kernel
// messages: the journal, the kernel's ring buffer, and log files with their
// rotated and packed predecessors.
package logsrc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/rootfs"
	"github.com/ctwarden/ctwarden/internal/klog"
)

// Collector takes the sources one after another; [klog.Collector] is one.
type Collector interface {
	Feed(name string, r io.Reader, h klog.Hints) error
}

// Options bound what is read.
type Options struct {
	// Root is the tree to read instead of this machine's, as a recording
	// has it; the kernel's ring buffer is then left alone.
	Root string
	// Now is the present, and Since the time before which nothing matters;
	// zero is the beginning.
	Now, Since time.Time
	// MaxBytes bounds the unpacked bytes read of each kind of log file with
	// its predecessors, newest first; 0 is 4 GiB.
	MaxBytes int64
	// JournalTime bounds the time the journal may take; 0 is 20 s.
	JournalTime time.Duration
}

func (o Options) withDefaults() Options {
	if o.MaxBytes == 0 {
		o.MaxBytes = 4 << 30
	}
	if o.JournalTime == 0 {
		o.JournalTime = 20 * time.Second
	}
	return o
}

// Machine feeds every log of the machine, the newest of each kind first. What
// it could not read comes back; a source that does not exist is no loss.
func Machine(ctx context.Context, to Collector, o Options) []ct.Blind {
	o = o.withDefaults()
	var blind []ct.Blind
	note := func(b *ct.Blind) {
		if b != nil {
			blind = append(blind, *b)
		}
	}
	note(journal(ctx, to, o))
	if o.Root == "" {
		note(ringBuffer(to, o.Now))
		note(logread(ctx, to, o))
	} else {
		blind = append(blind, outputs(ctx, to, o)...)
	}
	return append(blind, files(ctx, to, o)...)
}

// Named feeds the log files, packed ones and journal files among them, that a
// user names; "-" is stdin. What it can read it feeds; the error joins those
// of all that it could not.
func Named(ctx context.Context, to Collector, paths []string, stdin io.Reader) error {
	var errs []error
	for _, p := range paths {
		errs = append(errs, named(ctx, to, p, stdin))
	}
	return errors.Join(errs...)
}

func named(ctx context.Context, to Collector, path string, stdin io.Reader) error {
	if path == "-" {
		return feed(ctx, to, "standard input", stdin, klog.Hints{}, maxUnpacked)
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return journalDir(ctx, to, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open log %q: %w", path, cause(err))
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open log %q: %w", path, cause(err))
	}
	if isJournal(f) {
		return journalFile(ctx, to, path)
	}
	h := klog.Hints{}
	if st.Mode().IsRegular() {
		h.ModTime = st.ModTime()
	}
	return feed(ctx, to, path, f, h, maxUnpacked)
}

// feed unpacks a source if need be and feeds it.
func feed(ctx context.Context, to Collector, name string, r io.Reader, h klog.Hints, most int64) error {
	u, err := unpack(r, most)
	if err != nil {
		return fmt.Errorf("unpack log %q: %w", name, err)
	}
	defer u.Close()
	return to.Feed(name, &untilDone{ctx, u}, h)
}

// untilDone is a reader that ends with the context.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// openRegular opens a regular file of the tree; a pipe or device in its place
// is refused without waiting for it.
func openRegular(t rootfs.Tree, name string) (*os.File, fs.FileInfo, error) {
	real, err := t.Resolve(name)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(filepath.Join("/", t.Root, real), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, st, nil
}

// cause strips the path and the system call off an error.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
