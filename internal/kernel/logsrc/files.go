package logsrc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/rootfs"
	"github.com/ctwarden/ctwarden/internal/klog"
)

// logNames are the files that syslog daemons write kernel messages to.
var logNames = []string{"kern.log", "messages", "syslog", "kernel", "kernel.log", "warn"}

// rotated matches what logrotate and others append: ".1", ".2.gz",
// "-20251122", "-20251122-1763805600.xz", ".0".
var rotated = regexp.MustCompile(`^([.-][0-9]{1,14}){0,3}(\.(gz|xz|zst|bz2))?$`)

// logFile is one file of a family.
type logFile struct {
	name    string // path in the tree
	modTime time.Time
	size    int64
}

// files feeds the families of log files, the newest file of each first.
func files(ctx context.Context, to Collector, o Options) []ct.Blind {
	tree := rootfs.Tree{Root: o.Root}
	names, err := tree.List("/var/log")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return []ct.Blind{{What: "log files", Why: "/var/log: " + cause(err).Error(), How: "run as root"}}
	}
	var blind []ct.Blind
	for _, base := range logNames {
		family, unreadable := find(tree, names, base)
		blind = append(blind, unreadable...)
		blind = append(blind, feedFamily(ctx, to, o, tree, base, family)...)
	}
	return blind
}

// find returns the family of a log file, newest first.
func find(tree rootfs.Tree, names []string, base string) (family []logFile, blind []ct.Blind) {
	for _, n := range names {
		suffix, ok := strings.CutPrefix(n, base)
		if !ok || !rotated.MatchString(suffix) {
			continue
		}
		name := path.Join("/var/log", n)
		f, st, err := openRegular(tree, name)
		if err != nil {
			blind = append(blind, unreadable(name, err))
			continue
		}
		f.Close()
		family = append(family, logFile{name, st.ModTime(), st.Size()})
	}
	slices.SortStableFunc(family, func(a, b logFile) int {
		return cmp.Or(b.modTime.Compare(a.modTime), cmp.Compare(a.name, b.name))
	})
	return family, blind
}

// feedFamily feeds files until they are older than asked for or the bound is
// reached.
func feedFamily(ctx context.Context, to Collector, o Options, tree rootfs.Tree, base string, family []logFile) (blind []ct.Blind) {
	left := o.MaxBytes
	for i, lf := range family {
		if lf.modTime.Before(o.Since) {
			break
		}
		if left <= 0 || ctx.Err() != nil {
			why := fmt.Sprintf("%d files from before %s are beyond the bound", len(family)-i, family[i].modTime.Format(time.DateOnly))
			return append(blind, ct.Blind{What: "older log files", Why: why, How: "ctwarden check --log " + lf.name})
		}
		f, st, err := openRegular(tree, lf.name)
		if err != nil {
			blind = append(blind, unreadable(lf.name, err))
			continue
		}
		c := &counting{Collector: to}
		err = feed(ctx, c, lf.name, f, klog.Hints{Family: "/var/log/" + base, ModTime: st.ModTime()}, left)
		f.Close()
		if err != nil {
			blind = append(blind, ct.Blind{What: "the rest of " + lf.name, Why: rootCause(err), How: "ctwarden check --log " + lf.name})
		}
		left -= c.n
	}
	return blind
}

func unreadable(name string, err error) ct.Blind {
	return ct.Blind{What: name, Why: cause(err).Error(), How: "run as root, or as a member of the group that may read it (adm, systemd-journal)"}
}

// rootCause is the last error of the chain, in words.
func rootCause(err error) string {
	for {
		u := errors.Unwrap(err)
		if u == nil {
			return err.Error()
		}
		err = u
	}
}

// counting counts the bytes that a collector reads.
type counting struct {
	Collector
	n int64
}

// Feed implements [Collector].
func (c *counting) Feed(name string, r io.Reader, h klog.Hints) error {
	return c.Collector.Feed(name, &countingReader{r, &c.n}, h)
}

type countingReader struct {
	r io.Reader
	n *int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	*c.n += int64(n)
	return n, err
}
