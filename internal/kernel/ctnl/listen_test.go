package ctnl_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
)

func listen(t testing.TB, h *lab.Host, o ctnl.ListenOptions) *ctnl.Listener {
	t.Helper()
	o.Netns = h.Path()
	l, err := ctnl.Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

var errEnough = errors.New("enough")

// TestEvents makes, changes and deletes an entry, and an expectation.
func TestEvents(t *testing.T) {
	h, c := newTable(t, "conntrack")
	l := listen(t, h, ctnl.ListenOptions{Groups: ctnl.GroupsFlows | ctnl.GroupExpectNew,
		Unknown: func(_ *ct.Flow, u ctnl.Unknown) { t.Errorf("unknown attribute %+v", u) }})
	h.SetSysctl("net.netfilter.nf_conntrack_acct", "1")
	made := flowN(0)
	made.Helper, made.Fields = "ftp", made.Fields|ct.HasHelper
	create(t, c, made)
	all, _ := dump(t, c, ctnl.Query{})
	k, err := ctnl.KeyOf(&all[0])
	if err != nil {
		t.Fatal(err)
	}
	h.Exec("conntrack", "-I", "expect", "--orig-src", "10.0.0.0", "--orig-dst", "192.0.2.1", "-p", "tcp",
		"--orig-port-src", "1024", "--orig-port-dst", "443", "-t", "200",
		"--tuple-src", "192.0.2.1", "--tuple-dst", "10.0.0.0", "--tuple-port-src", "20", "--tuple-port-dst", "5000",
		"--mask-src", "255.255.255.0", "--mask-dst", "255.255.255.255", "--mask-port-src", "0", "--mask-port-dst", "65535")
	b := c.NewBatch()
	if err := errors.Join(b.Update(k, ctnl.Change{Mark: 5, MarkMask: 7}), b.Delete(k), b.Flush()); err != nil {
		t.Fatal(err)
	}

	var got []string
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = l.Run(ctx, ctnl.Handler{
		Flow: func(kind ctnl.EventKind, f *ct.Flow) error {
			if f.Orig != made.Orig || f.Reply != made.Reply || f.ID != k.ID() {
				t.Errorf("%s %+v", kind, f)
			}
			got = append(got, fmt.Sprintf("%s %d %t", kind, f.Mark, f.Has(ct.HasCounters)))
			if kind == ctnl.EventDestroy {
				return errEnough
			}
			return nil
		},
		Expect: func(kind ctnl.EventKind, x *ct.Expectation) error {
			got = append(got, fmt.Sprintf("expect %s %s", kind, x.Tuple.Dst))
			return nil
		},
		Lost: func(uint64) error { t.Error("lost"); return nil },
	})
	want := "[NEW 0 false expect NEW 10.0.0.0 UPDATE 5 false DESTROY 5 true]"
	if s := fmt.Sprint(got); !errors.Is(err, errEnough) || s != want {
		t.Errorf("%s, %v\nwant %s", s, err, want)
	}
}

// TestLostEvents overruns a small buffer: what was heard and what was lost add
// up, and listening goes on.
func TestLostEvents(t *testing.T) {
	h, c := newTable(t)
	l := listen(t, h, ctnl.ListenOptions{Groups: ctnl.GroupNew, Options: ctnl.Options{ReceiveBufferBytes: 64 << 10}})
	const n = 20_000
	create(t, c, flows(n)...)
	heard, overruns, lost := 0, 0, uint64(0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	run := func() error {
		return l.Run(ctx, ctnl.Handler{
			Flow: func(_ ctnl.EventKind, f *ct.Flow) error {
				if heard++; indexOf(f) >= n {
					return errEnough
				}
				return nil
			},
			Lost: func(events uint64) error {
				overruns++
				lost += events
				return nil
			},
		})
	}
	last := make(chan error)
	go func() { last <- run() }()
	time.Sleep(500 * time.Millisecond) // the queue is read; nothing is to come
	create(t, c, flowN(n))
	if err := <-last; !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if overruns == 0 || lost == 0 || uint64(heard)+lost != n+1 || l.Lost() != lost {
		t.Errorf("heard %d, lost %d (%d) in %d overruns, of %d", heard, lost, l.Lost(), overruns, n+1)
	}
}

// TestAllEvents loses nothing with the default buffer while a batch of entries
// is made as fast as it can be.
func TestAllEvents(t *testing.T) {
	h, c := newTable(t)
	lab.SharedLimits(t)
	l := listen(t, h, ctnl.ListenOptions{Groups: ctnl.GroupNew})
	const n = 200_000
	heard := make(chan int)
	go func() {
		got := 0
		l.Run(t.Context(), ctnl.Handler{Flow: func(ctnl.EventKind, *ct.Flow) error {
			if got++; got == n {
				return errEnough
			}
			return nil
		}})
		heard <- got
	}()
	create(t, c, flows(n)...)
	if got := <-heard; got != n || l.Lost() != 0 {
		t.Errorf("heard %d of %d, lost %d", got, n, l.Lost())
	}
}

// TestListenerEnds by its context and by Close.
func TestListenerEnds(t *testing.T) {
	h, _ := newTable(t)
	l := listen(t, h, ctnl.ListenOptions{Groups: ctnl.GroupsFlows})
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if err := l.Run(ctx, ctnl.Handler{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		l.Close()
	}()
	if err := l.Run(t.Context(), ctnl.Handler{}); err == nil {
		t.Error("closed without error")
	}
}
