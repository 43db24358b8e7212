package guardd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/nslist"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
)

// limits reads and writes the two numbers that belong to the whole host.
type limits struct {
	ref string // of the initial namespace, the only one in which they can be written
	err error
}

var errNotInitial = errors.New("max and buckets belong to the host's initial network namespace, which is not ours to enter")

// hostLimits finds the initial namespace: ours, or that of process 1.
func hostLimits() limits {
	for _, ref := range []string{"", "1"} {
		if initial, err := netns.Initial(ref); err == nil && initial {
			return limits{ref: ref}
		}
	}
	return limits{err: errNotInitial}
}

// writable reports whether max can be written. To be sure it must be opened for
// writing; a guard that observes does not even do that, and goes by its mode.
func (l limits) writable(sure bool) bool {
	if l.err != nil {
		return false
	}
	ok := false
	err := netns.Do(l.ref, func() (err error) {
		if sure {
			ok, err = sysctl.Live{}.Writable(sysctl.Max)
		} else {
			ok, err = sysctl.Tree{}.Writable(sysctl.Max)
		}
		return err
	})
	return err == nil && ok
}

func (l limits) read(key string) (n int64, err error) {
	if l.err != nil {
		return 0, l.err
	}
	err = netns.Do(l.ref, func() error {
		n, err = sysctl.Tree{}.Int(key)
		return err
	})
	return n, err
}

// write sets a number and returns what stands there then.
func (l limits) write(key string, to int64) (got int64, err error) {
	if l.err != nil {
		return 0, l.err
	}
	err = netns.Do(l.ref, func() error {
		live, err := sysctl.Live{}.Write(key, strconv.FormatInt(to, 10))
		if n, perr := strconv.ParseInt(live, 10, 64); perr == nil {
			got = n
		}
		return err
	})
	return got, err
}

// least is the smallest max that may stand now: 1.2 times the count of the
// fullest namespace, since max bounds each.
func (l limits) least(ctx context.Context) (int64, error) {
	highest, _, err := fullest(ctx)
	return (highest*6 + 4) / 5, err
}

var errManyNamespaces = errors.New("not all network namespaces could be looked at in time")

// fullest is the count of the fullest namespace of the host that can be seen,
// and how many hold entries. The error tells of one that cannot be seen:
// whatever lowers max must not go by the count then.
func fullest(ctx context.Context) (most int64, busy int, err error) {
	all, err := nslist.List(ctx, nslist.Options{Limit: 5 * time.Second})
	switch {
	case err != nil:
		return 0, 0, err
	case all.Cut:
		return 0, 0, errManyNamespaces
	}
	for i := range all.Namespaces {
		n := &all.Namespaces[i]
		if !n.Count.Known && n.Problem != "" && (n.Path != "" || n.Pid != 0) {
			err = fmt.Errorf("network namespace %s cannot be read: %s", n.Label(), n.Problem)
		}
		most = max(most, n.Count.Or(0))
		if n.Count.Or(0) > 0 {
			busy++
		}
	}
	return most, busy, err
}
