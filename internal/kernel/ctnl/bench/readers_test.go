package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
)

// subjects are what a child process can be told to measure, by name. Each gets
// a path of a namespace and returns how many entries it dealt with.
var subjects = map[string]func(ns string) (int, error){
	"bare receive loop":            inside(bare),
	"ctwarden":                     ours(ctnl.Query{}),
	"ctwarden, walking":            ours(ctnl.Query{Walk: true, WithoutID: true}),
	"ctwarden, walking, no match":  ours(ctnl.Query{Walk: true, WithoutID: true, Filter: ctnl.Filter{Status: ct.StatusDying, StatusMask: ct.StatusDying}}),
	"ctwarden, one thread":         ours(ctnl.Query{Serial: true}),
	"ctwarden, status, no match":   ours(ctnl.Query{Filter: ctnl.Filter{Status: ct.StatusDying, StatusMask: ct.StatusDying}}),
	"ctwarden, panel of 20,000":    ours(ctnl.Query{Limit: 20_000}),
	"/proc/net/nf_conntrack":       inside(proc),
	"vishvananda/netlink 1.3.1":    inside(vishvananda),
	"ti-mo/conntrack 0.6.0":        inside(tiMo),
	"ctwarden, delete prefix":      change((*ctnl.Batch).Delete),
	"ctwarden, soft: read, retime": change(shorten),
	"ctwarden, soft: reaping dump": reap,
	"ctwarden, listen for NEW":     listen,
}

// prefix holds 200,000 of the 1,000,000 entries.
var prefix = netip.MustParsePrefix("10.99.0.0/16")

func inside(f func() (int, error)) func(string) (int, error) {
	return func(ns string) (n int, err error) {
		err = netns.Do(ns, func() error {
			n, err = f()
			return err
		})
		return n, err
	}
}

// bare receives a dump and does nothing with it but look for its end.
func bare() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	req := make([]byte, 20)
	binary.NativeEndian.PutUint32(req, 20)
	binary.NativeEndian.PutUint16(req[4:], 0x101)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil || n < 16 {
			return 0, fmt.Errorf("%d bytes: %w", n, err)
		}
		if binary.NativeEndian.Uint16(buf[4:]) == unix.NLMSG_DONE {
			return 0, nil
		}
	}
}

func ours(q ctnl.Query) func(string) (int, error) {
	return func(ns string) (int, error) {
		c, err := ctnl.Dial(ctnl.Options{Netns: ns})
		if err != nil {
			return 0, err
		}
		defer c.Close()
		s, err := c.Dump(context.Background(), q, func(*ct.Flow) error { return nil })
		return s.Entries, err
	}
}

func proc() (int, error) {
	f, err := os.Open("/proc/thread-self/net/nf_conntrack")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for {
		_, err := f.Read(buf)
		if errors.Is(err, io.EOF) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func vishvananda() (int, error) {
	all, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	return len(all), err
}

func tiMo() (int, error) {
	c, err := conntrack.Dial(nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	all, err := c.Dump(nil)
	return len(all), err
}

func shorten(b *ctnl.Batch, k ctnl.Key) error {
	return b.Update(k, ctnl.Change{TimeoutSeconds: 1})
}

// change reads the table, collects the entries of the prefix, and then does to
// each what it is told.
func change(do func(*ctnl.Batch, ctnl.Key) error) func(string) (int, error) {
	return func(ns string) (int, error) {
		c, err := ctnl.Dial(ctnl.Options{Netns: ns})
		if err != nil {
			return 0, err
		}
		defer c.Close()
		var keys ctnl.Keys
		_, err = c.Dump(context.Background(), ctnl.Query{}, func(f *ct.Flow) error {
			if !prefix.Contains(f.Orig.Src) {
				return nil
			}
			return keys.Add(f)
		})
		b := c.NewBatch()
		for k := range keys.All() {
			err = errors.Join(err, do(b, k))
		}
		err = errors.Join(err, b.Flush())
		if b.Failed() > 0 {
			err = errors.Join(err, fmt.Errorf("%d refused", b.Failed()))
		}
		return b.Sent(), err
	}
}

func reap(ns string) (int, error) {
	c, err := ctnl.Dial(ctnl.Options{Netns: ns})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return 0, c.Reap(context.Background())
}

var errAll = errors.New("all heard")

// listen hears events until its input ends, and says when it is ready.
func listen(ns string) (int, error) {
	l, err := ctnl.Listen(ctnl.ListenOptions{Options: ctnl.Options{Netns: ns}, Groups: ctnl.GroupNew})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	fmt.Println("ready")
	n := 0
	err = l.Run(context.Background(), ctnl.Handler{Flow: func(_ ctnl.EventKind, f *ct.Flow) error {
		if n++; f.Mark == lastMark {
			return errAll
		}
		return nil
	}})
	if !errors.Is(err, errAll) || l.Lost() > 0 {
		return n, fmt.Errorf("%w, %d lost", err, l.Lost())
	}
	return n, nil
}
