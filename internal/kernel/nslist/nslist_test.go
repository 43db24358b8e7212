package nslist_test

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/nslist"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestFindsNamespaces has one namespace with a process and one with only a
// name, and compares the counts with what each says itself.
func TestFindsNamespaces(t *testing.T) {
	lab.Require(t, "ip", "nft")
	lab.SharedLimits(t)
	pair := lab.Server(t)
	if _, err := pair.Client.Ping(context.Background(), pair.Server.Addr4, pair.Client.Sources4, lab.Load{Packets: 300}); err != nil {
		t.Fatal(err)
	}
	pair.Client.Start(exec.Command("sleep", "60"))
	want := map[string]int64{pair.Server.Name: int64(pair.Server.Count()), pair.Client.Name: int64(pair.Client.Count())}
	r, err := nslist.List(context.Background(), nslist.Options{Limit: time.Minute})
	if err != nil || r.Cut {
		t.Fatalf("list: %v, cut %v", err, r.Cut)
	}
	for name, count := range want {
		ns := find(t, r, name)
		if ns.Count.Or(-1) != count {
			t.Errorf("%s counts %v entries, it says %d itself (%s)", name, ns.Count, count, ns.Problem)
		}
		if inode, err := netns.Inode(name); err != nil || inode != ns.Inode {
			t.Errorf("%s has inode %d, want %d (%v)", name, ns.Inode, inode, err)
		}
	}
	if ns := find(t, r, pair.Client.Name); ns.Processes == 0 || ns.Comm != "sleep" {
		t.Errorf("the process inside was not found: %+v", ns)
	}
}

// TestManyNamespaces reads a crowd, in bounded time, and keeps none alive.
func TestManyNamespaces(t *testing.T) {
	if testing.Short() {
		t.Skip("makes hundreds of namespaces: not in short mode")
	}
	lab.Require(t, "ip")
	const n = 200
	hosts := make([]*lab.Host, n)
	for i := range hosts {
		hosts[i] = lab.NewHost(t, "crowd")
	}
	r, err := nslist.List(context.Background(), nslist.Options{Limit: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if ns := find(t, r, h.Name); !ns.Count.Known {
			t.Errorf("%s could not be read: %s", h.Name, ns.Problem)
		}
	}
	cut, err := nslist.List(context.Background(), nslist.Options{Limit: time.Nanosecond})
	if err != nil || !cut.Cut {
		t.Errorf("a search without time was not cut: %v, %d found", err, len(cut.Namespaces))
	}
}

func find(t *testing.T, r nslist.Result, name string) ct.Namespace {
	t.Helper()
	i := slices.IndexFunc(r.Namespaces, func(ns ct.Namespace) bool { return slices.Contains(ns.Names, name) })
	if i < 0 {
		var all []string
		for _, ns := range r.Namespaces {
			all = append(all, ns.Label())
		}
		t.Fatalf("no namespace %s among %s", name, strings.Join(all, ", "))
	}
	return r.Namespaces[i]
}
