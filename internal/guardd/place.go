package guardd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/nslist"
)

// place is the guarded namespace.
type place struct {
	ref   string // as netns.Path understands it; "" is our own
	inode uint64
	asked string // as it was named
}

// findPlace finds a namespace by what netns.Path understands, and else by the
// label of a container, pod or unit.
func findPlace(ctx context.Context, asked string) (place, error) {
	inode, err := netns.Inode(asked)
	if err == nil {
		return place{asked, inode, asked}, nil
	}
	if !errors.Is(err, netns.ErrNotFound) || strings.Contains(asked, "/") {
		return place{}, err
	}
	all, lerr := nslist.List(ctx, nslist.Options{})
	if lerr != nil {
		return place{}, errors.Join(err, lerr)
	}
	var found []ct.Namespace
	for _, n := range all.Namespaces {
		if n.Pid != 0 && labelled(&n, asked) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return place{}, err
	case 1:
		return place{strconv.Itoa(found[0].Pid), found[0].Inode, asked}, nil
	}
	return place{}, fmt.Errorf("%q names %d network namespaces, as those of process %d (%s) and %d (%s)", asked, len(found),
		found[0].Pid, found[0].Label(), found[1].Pid, found[1].Label())
}

// labelled compares with the whole label of a namespace, or one word of it.
func labelled(n *ct.Namespace, asked string) bool {
	label := n.Label()
	if label == asked {
		return true
	}
	for w := range strings.FieldsSeq(label) {
		if w == asked || len(asked) >= 6 && strings.HasPrefix(w, asked) {
			return true
		}
	}
	return false
}

// gone reports whether the namespace is no longer what its name stands for, so
// that our descriptors may be the last thing that keeps it. Where its process
// has ended it looks for another one.
func (p *place) gone(ctx context.Context) bool {
	if p.ref == "" {
		return false
	}
	if inode, err := netns.Inode(p.ref); err == nil && inode == p.inode {
		return false
	}
	all, err := nslist.List(ctx, nslist.Options{})
	if err != nil || all.Cut {
		return false // not known; asked again in a second
	}
	for _, n := range all.Namespaces {
		if n.Inode != p.inode {
			continue
		}
		switch {
		case n.Pid != 0:
			p.ref = strconv.Itoa(n.Pid)
			return false
		case n.Path != "":
			p.ref = n.Path
			return false
		}
	}
	return true
}

// String names the place for a person.
func (p *place) String() string {
	if p.asked == "" {
		return fmt.Sprintf("this network namespace (%d)", p.inode)
	}
	return fmt.Sprintf("network namespace %s (%d)", p.asked, p.inode)
}
