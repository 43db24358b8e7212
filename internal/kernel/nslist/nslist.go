// Package nslist finds the network namespaces of a machine and reads the
// connection-tracking count and counters of each by the cheapest way there is.
package nslist

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/procs"
)

// Folders in which namespaces are kept by name, without a process of their own.
var nameDirs = []string{"/run/netns", "/run/docker/netns", "/var/run/netns"}

// Options bound the search.
type Options struct {
	Root  string        // a recorded machine; "" is the live one
	Limit time.Duration // after it what was found so far is returned; 2 s if zero
}

// Result is what was found.
type Result struct {
	Namespaces []ct.Namespace // largest count first
	// Cut is set when time ran out before all had been read.
	Cut bool
	// Hidden counts processes whose namespace may not be seen by this user.
	Hidden int
}

// seen is a namespace with some more of its processes, should the first end.
type seen struct {
	ct.Namespace
	more []procs.Process
}

const maxMore = 3

// List finds every namespace that has a process or a name. It holds none open:
// those with processes are read through /proc/PID, which needs no visit; those
// with a name only are visited and left again.
func List(ctx context.Context, o Options) (Result, error) {
	if o.Limit == 0 {
		o.Limit = 2 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	var r Result
	found := make(map[uint64]*seen)
	err := procs.FS{Root: o.Root}.Each(ctx, func(p procs.Process) bool {
		switch ns, ok := found[p.NetnsInode]; {
		case p.NetnsInode == 0:
			r.Hidden++
		case ok:
			ns.Processes++
			if len(ns.more) < maxMore {
				ns.more = append(ns.more, p)
			}
		default:
			found[p.NetnsInode] = &seen{Namespace: ct.Namespace{Inode: p.NetnsInode, Pid: p.Pid, Comm: p.Comm, Processes: 1}}
		}
		return true
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return r, err
	}
	r.Cut = err != nil
	if o.Root == "" {
		addNamed(found)
	}
	for _, inode := range sorted(found) {
		if ctx.Err() != nil {
			r.Cut = true
			break
		}
		ns := found[inode]
		fill(o.Root, ns)
		r.Namespaces = append(r.Namespaces, ns.Namespace)
	}
	slices.SortStableFunc(r.Namespaces, func(a, b ct.Namespace) int { return int(b.Count.Or(-1) - a.Count.Or(-1)) })
	return r, nil
}

func sorted(m map[uint64]*seen) []uint64 {
	inodes := make([]uint64, 0, len(m))
	for i := range m {
		inodes = append(inodes, i)
	}
	slices.Sort(inodes)
	return inodes
}

func addNamed(found map[uint64]*seen) {
	for _, dir := range nameDirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.Type()&fs.ModeSymlink != 0 || e.IsDir() {
				continue
			}
			path := filepath.Join(dir, e.Name())
			inode, err := netns.Inode(path)
			if err != nil {
				continue
			}
			ns, ok := found[inode]
			if !ok {
				ns = &seen{Namespace: ct.Namespace{Inode: inode}}
				found[inode] = ns
			}
			if !slices.Contains(ns.Names, e.Name()) {
				ns.Names = append(ns.Names, e.Name())
			}
			if ns.Path == "" {
				ns.Path = path
			}
		}
	}
}

// fill reads one namespace: through its first process that is still there, or
// by its name.
func fill(root string, ns *seen) {
	for ns.Pid != 0 {
		if throughProcess(root, &ns.Namespace) {
			return
		}
		ns.Pid, ns.Comm = 0, ""
		if len(ns.more) > 0 {
			ns.Pid, ns.Comm = ns.more[0].Pid, ns.more[0].Comm
			ns.more = ns.more[1:]
		}
	}
	if ns.Path == "" || root != "" {
		ns.Problem = "it went away while it was read"
		return
	}
	err := netns.Do(ns.Path, func() error {
		st, err := procfs.FS{}.ConntrackStat()
		if err == nil {
			store(&ns.Namespace, st)
		}
		return err
	})
	if inode, ierr := netns.Inode(ns.Path); err == nil && (ierr != nil || inode != ns.Inode) {
		ns.Count, ns.Counters = ct.Value{}, ct.Counters{}
		err = errors.New("its name went to another namespace while it was read")
	}
	if err != nil {
		ns.Problem = err.Error()
	}
}

// throughProcess reads a namespace through a process. Its id may have gone to
// another process meanwhile, so the namespace is looked at again after the
// reading; false says that it was another.
func throughProcess(root string, ns *ct.Namespace) bool {
	proc := procs.FS{Root: root}
	st, err := procfs.FS{Root: root, Pid: ns.Pid}.ConntrackStat()
	owner := proc.Owner(ns.Pid)
	if now, ierr := proc.NetnsInode(ns.Pid); ierr != nil || now != ns.Inode {
		return false
	}
	ns.Owner = owner
	if err != nil {
		ns.Problem = err.Error()
		return true
	}
	store(ns, st)
	return true
}

func store(ns *ct.Namespace, st procfs.Stat) {
	ns.Count = st.Entries
	ns.Counters = st.Sum()
}
