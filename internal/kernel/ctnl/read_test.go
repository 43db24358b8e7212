package ctnl_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestFilters reads the zoo through every filter and compares with a full
// reading that is filtered afterwards.
func TestFilters(t *testing.T) {
	h, c := newTable(t)
	fillZoo(t, h, c)
	all, _ := dump(t, c, ctnl.Query{})
	v4, v6 := netip.MustParseAddr("10.1.0.3"), netip.MustParseAddr("fd00::36")
	for name, q := range map[string]ctnl.Filter{
		"family":       {Family: unix.AF_INET6},
		"mark":         {Mark: 8, MarkMask: 0xf},
		"no mark":      {Mark: 0, MarkMask: ^uint32(0)},
		"assured":      {Status: ct.StatusAssured, StatusMask: ct.StatusAssured},
		"unreplied":    {StatusMask: ct.StatusSeenReply},
		"nat":          {Status: ct.StatusSrcNAT, StatusMask: ct.StatusNAT},
		"zone":         {Zone: 65535, HasZone: true},
		"zone of orig": {Zone: 3, HasZone: true},
		"default zone": {HasZone: true},
		"source":       {Orig: ctnl.TupleFilter{Src: v4}},
		"source 6":     {Orig: ctnl.TupleFilter{Src: v6}},
		"reply":        {Reply: ctnl.TupleFilter{Dst: v4}},
		"reply 6":      {Reply: ctnl.TupleFilter{Dst: v6, SrcPort: 80, HasSrcPort: true}},
		"protocol":     {Orig: ctnl.TupleFilter{Proto: ct.SCTP}},
		"protocol 4":   {Family: unix.AF_INET, Orig: ctnl.TupleFilter{Proto: ct.UDP, DstPort: 80, HasDstPort: true}},
		"port":         {Family: unix.AF_INET, Orig: ctnl.TupleFilter{Proto: ct.TCP, SrcPort: 30_003, HasSrcPort: true}},
		"port 6":       {Family: unix.AF_INET6, Reply: ctnl.TupleFilter{Proto: ct.TCP, SrcPort: 8080, HasSrcPort: true}},
		"port alone":   {Orig: ctnl.TupleFilter{SrcPort: 30_003, HasSrcPort: true}},
		"sctp port":    {Family: unix.AF_INET, Orig: ctnl.TupleFilter{Proto: ct.SCTP, SrcPort: 30_012, HasSrcPort: true}},
		"two families": {Family: unix.AF_INET6, Orig: ctnl.TupleFilter{Src: v4}},
		"together":     {Family: unix.AF_INET, MarkMask: 1, Status: ct.StatusAssured, StatusMask: ct.StatusAssured, HasZone: true, Orig: ctnl.TupleFilter{Dst: netip.MustParseAddr("192.0.2.1"), Proto: ct.TCP}},
	} {
		want := make(map[uint32]bool)
		for _, f := range all {
			if q.Match(&f) {
				want[f.ID] = true
			}
		}
		got, s := dump(t, c, ctnl.Query{Filter: q})
		ids := make(map[uint32]bool)
		for _, f := range got {
			ids[f.ID] = true
		}
		if !maps.Equal(ids, want) || len(got) != len(ids) {
			t.Errorf("%s: %d entries, want %d, %+v", name, len(got), len(want), s)
		}
		if len(want) == 0 && name != "two families" {
			t.Errorf("%s matches nothing in the zoo", name)
		}
		if len(got) > 0 && s.KernelFiltered != kernelFilters(name) {
			t.Errorf("%s: filtered by the kernel: %t, want %t", name, s.KernelFiltered, kernelFilters(name))
		}
	}
}

// kernelFilters reports whether this kernel is expected to say that it applied
// a filter of TestFilters.
func kernelFilters(name string) bool {
	switch name {
	case "protocol", "port alone": // without a family nothing can be asked
		return false
	case "zone", "zone of orig", "default zone":
		return kernelHas(6, 8)
	case "assured", "unreplied", "nat":
		return kernelHas(5, 15)
	}
	return kernelHas(5, 8)
}

func kernelHas(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	v, err := ct.ParseKernelVersion(unix.ByteSliceToString(u.Release[:]))
	return err == nil && v.AtLeast(major, minor)
}

// TestKernelFiltersOutIPv6Match shows why IPv6 addresses are never left to the
// kernel: asked for one, it answers with all the others. Should a kernel do
// better one day, this says so.
func TestKernelFiltersOutIPv6Match(t *testing.T) {
	h, c := newTable(t)
	if !kernelHas(5, 8) {
		t.Skip("CTA_FILTER came with 5.8")
	}
	var want ct.Flow
	for i := range 3 {
		want = flow(zooTuple(i, ct.UDP, false), 0)
		create(t, c, want)
	}
	src := want.Orig.Src.As16()
	attrs := must(netlink.MarshalAttributes([]netlink.Attribute{
		{Type: netlink.Nested | 1, Data: must(netlink.MarshalAttributes([]netlink.Attribute{
			{Type: netlink.Nested | 1, Data: must(netlink.MarshalAttributes([]netlink.Attribute{{Type: 3, Data: src[:]}}))}}))},
		{Type: netlink.Nested | 25, Data: must(netlink.MarshalAttributes([]netlink.Attribute{{Type: 1, Data: []byte{1, 0, 0, 0}}, {Type: 2, Data: make([]byte, 4)}}))},
	}))
	var answers []netlink.Message
	err := h.Do(func() error {
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		answers, err = conn.Execute(netlink.Message{
			Header: netlink.Header{Type: 0x101, Flags: netlink.Request | netlink.Dump},
			Data:   append([]byte{unix.AF_INET6, 0, 0, 0}, attrs...),
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(answers) == 1 {
		t.Log("this kernel filters IPv6 addresses correctly")
	} else if len(answers) != 2 {
		t.Errorf("%d entries", len(answers))
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestChurn reads while entries come and go as fast as two more connections
// can make and delete them. Every entry that stays is read exactly once.
func TestChurn(t *testing.T) {
	h, c := newTable(t)
	lab.SharedLimits(t)
	const stable, moving = 50_000, 50_000
	create(t, c, flows(stable)...)
	var changes atomic.Int64
	stop := make(chan struct{})
	done := make(chan error, 2)
	for n := range 2 {
		go func() { done <- churn(h, stable+n*moving/2, moving/2, &changes, stop) }()
	}
	// Every other reading walks, where the kernel lets us.
	queries := []ctnl.Query{{}, {Walk: true, WithoutID: true}}
	duplicates, rounds, walked := 0, 0, 0
	began := time.Now()
	for time.Since(began) < 5*time.Second {
		seen := make(map[ct.Tuple]int)
		s, err := c.Dump(t.Context(), queries[rounds%2], func(f *ct.Flow) error {
			seen[f.Orig]++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		rounds++
		duplicates += s.Duplicates
		if s.Walked {
			walked++
		}
		missing, twice := 0, 0
		for i := range stable {
			switch seen[flowN(i).Orig] {
			case 0:
				missing++
			case 1:
			default:
				twice++
			}
		}
		if missing+twice != 0 || s.Resized() {
			t.Errorf("round %d: %d stable entries missing, %d twice, %+v", rounds, missing, twice, s)
		}
	}
	rate := float64(changes.Load()) / time.Since(began).Seconds()
	close(stop)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := ctnl.WhyNoWalk(); walked == 0 {
		t.Errorf("no reading has walked: %v", err)
	}
	t.Logf("%d readings under %.0f changes a second, %d by walking; %d duplicates dropped", rounds, rate, walked, duplicates)
}

// churn makes and deletes entries from the first on, in turns.
func churn(h *lab.Host, first, n int, changes *atomic.Int64, stop <-chan struct{}) error {
	c, err := ctnl.Dial(ctnl.Options{Netns: h.Path()})
	if err != nil {
		return err
	}
	defer c.Close()
	b := c.NewBatch()
	var keys []ctnl.Key
	for {
		for i := range n {
			f := flowN(first + i)
			if err := b.Create(&f); err != nil {
				return err
			}
		}
		if err := b.Flush(); err != nil {
			return err
		}
		changes.Add(int64(n))
		keys = keys[:0]
		_, err := c.Dump(context.Background(), ctnl.Query{}, func(f *ct.Flow) error {
			if i := indexOf(f); i < first || i >= first+n {
				return nil
			}
			k, err := ctnl.KeyOf(f)
			keys = append(keys, k)
			return err
		})
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		if err := b.Flush(); err != nil {
			return err
		}
		changes.Add(int64(len(keys)))
		select {
		case <-stop:
			return nil
		default:
		}
	}
}

// indexOf is the inverse of flowN.
func indexOf(f *ct.Flow) int {
	a := f.Orig.Src.As4()
	return int(a[1])<<24 | int(a[2])<<16 | int(a[3])<<8 | int(f.Orig.SrcPort-1024)
}

// TestReplayedBucket deletes, while it reads, many of the entries that come
// next. Where one of them is the entry at which the kernel will resume, its
// bucket comes twice.
func TestReplayedBucket(t *testing.T) {
	lab.Require(t)
	lab.SharedLimits(t)
	for _, keep := range []bool{true, false} {
		h, c := newTable(t)
		create(t, c, flows(100_000)...)
		twice, s := readAndDelete(t, c, dial(t, h).NewBatch(), 400, ctnl.Query{KeepDuplicates: keep, Serial: true})
		t.Logf("%d came twice, %d duplicates dropped", twice, s.Duplicates)
		if keep && twice == 0 || !keep && (twice != 0 || s.Duplicates == 0) {
			t.Errorf("duplicates kept: %t, entries that came twice: %d, %+v", keep, twice, s)
		}
	}
	// Read by two threads, the deletions must reach further ahead.
	h, c := newTable(t)
	create(t, c, flows(100_000)...)
	twice, s := readAndDelete(t, c, dial(t, h).NewBatch(), 10_000, ctnl.Query{})
	t.Logf("by two threads: %d came twice, %d duplicates dropped", twice, s.Duplicates)
	if twice != 0 {
		t.Errorf("by two threads: %d came twice, %+v", twice, s)
	}
}

// readAndDelete deletes at every reach-th entry two thirds of the reach next
// ones.
func readAndDelete(t *testing.T, c *ctnl.Conn, b *ctnl.Batch, reach int, q ctnl.Query) (twice int, s ctnl.Summary) {
	t.Helper()
	order, _ := dump(t, c, ctnl.Query{})
	at := make(map[ct.Tuple]int, len(order))
	for i := range order {
		at[order[i].Orig] = i
	}
	seen := make(map[ct.Tuple]bool)
	until := 0
	s, err := c.Dump(t.Context(), q, func(f *ct.Flow) error {
		if seen[f.Orig] {
			twice++
		}
		seen[f.Orig] = true
		if i := at[f.Orig]; i >= until {
			until = i + reach // 400 are two block boundaries
			for j := i + 1; j < min(until, len(order)); j++ {
				if j%3 == 0 {
					continue
				}
				k, err := ctnl.KeyOf(&order[j])
				if err := errors.Join(err, b.Delete(k)); err != nil {
					return err
				}
			}
		}
		return b.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	return twice, s
}

// TestResizeIsSaid reads while the hash table is resized.
func TestResizeIsSaid(t *testing.T) {
	lab.Require(t)
	limits := lab.ExclusiveLimits(t)
	h := lab.NewHost(t, "resize")
	c := dial(t, h)
	const n = 100_000
	create(t, c, flows(n)...)
	was := limits.Buckets()
	for _, q := range []ctnl.Query{{}, {Walk: true, WithoutID: true}} {
		limits.SetBuckets(was)
		resized := false
		s, err := c.Dump(t.Context(), q, func(*ct.Flow) error {
			if !resized {
				resized = true
				limits.SetBuckets(was / 8)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !s.Resized() || s.Walked != q.Walk {
			t.Errorf("not said: %+v", s)
		}
		if s.Received < n && s.Short() != n-s.Received {
			t.Errorf("short by %d: %+v", s.Short(), s)
		}
		t.Logf("%d of %d read, %d duplicates", s.Received, n, s.Duplicates)
	}
}

// TestWalkTellsWhatADumpTells compares the two ways of reading a large table, with
// ids and without, and when only some entries are chosen.
func TestWalkTellsWhatADumpTells(t *testing.T) {
	h, c := newTable(t)
	_ = h
	lab.SharedLimits(t)
	const n = 150_000
	create(t, c, flows(n)...)
	odd := func(f *ct.Flow) bool { return f.Orig.SrcPort%2 == 1 }
	for _, sel := range []func(*ct.Flow) bool{nil, odd} {
		want := make(map[ct.Tuple]uint32)
		for _, q := range []ctnl.Query{{Select: sel}, {Select: sel, Walk: true}, {Select: sel, Walk: true, WithoutID: true}} {
			got := 0
			s, err := c.Dump(t.Context(), q, func(f *ct.Flow) error {
				got++
				if !q.Walk {
					want[f.Orig] = f.ID
					return nil
				}
				if id, ok := want[f.Orig]; !ok || !q.WithoutID && id != f.ID {
					t.Errorf("%s: id %#x, want %#x, %v", f.Orig, f.ID, id, ok)
				}
				return nil
			})
			if err != nil || got != len(want) || s.Entries != got || s.Walked != q.Walk || s.Received != n || s.Short() != 0 {
				t.Errorf("%+v: %d entries, want %d: %+v, %v", q, got, len(want), s, err)
			}
		}
	}
}

// TestDying keeps an entry on the dying list with a listener that insists on
// an event and does not read it.
func TestDying(t *testing.T) {
	h, c := newTable(t)
	h.SetSysctl("net.netfilter.nf_conntrack_events", "1")
	var stuck int
	err := h.Do(func() (err error) {
		stuck, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return errors.Join(err, unix.Bind(stuck, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
			unix.SetsockoptInt(stuck, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1),
			unix.SetsockoptInt(stuck, unix.SOL_NETLINK, unix.NETLINK_BROADCAST_ERROR, 1),
			unix.SetsockoptInt(stuck, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, 3))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stuck)
	const n = 500
	create(t, c, flows(n)...)
	b := c.NewBatch()
	all, _ := dump(t, c, ctnl.Query{})
	for _, f := range all {
		k, err := ctnl.KeyOf(&f)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(k); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	alive, s := dump(t, c, ctnl.Query{})
	var dying []ct.Flow
	_, err = c.Dying(t.Context(), ctnl.Query{}, func(f *ct.Flow) error {
		dying = append(dying, *f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(alive) != 0 || len(dying) == 0 || s.Short() == 0 {
		t.Errorf("%d alive, %d dying, short by %d", len(alive), len(dying), s.Short())
	}
	for _, f := range dying {
		if !f.Status.Has(ct.StatusDying) {
			t.Errorf("not dying: %+v", f)
		}
	}
	if _, err := c.Unconfirmed(t.Context(), ctnl.Query{}, func(*ct.Flow) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestExpectations(t *testing.T) {
	h, c := newTable(t, "conntrack")
	master := flow(ct.Tuple{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"),
		Proto: ct.TCP, SrcPort: 1000, DstPort: 21}, ct.TCPEstablished)
	master.Helper = "ftp"
	master.Fields |= ct.HasHelper
	create(t, c, master)
	h.Exec("conntrack", "-I", "expect", "-p", "tcp", "--orig-src", "10.0.0.1", "--orig-dst", "10.0.0.2",
		"--orig-port-src", "1000", "--orig-port-dst", "21", "-t", "200",
		"--tuple-src", "10.0.0.2", "--tuple-dst", "10.0.0.1", "--tuple-port-src", "20", "--tuple-port-dst", "5000",
		"--mask-src", "255.255.255.0", "--mask-dst", "255.255.255.255", "--mask-port-src", "0", "--mask-port-dst", "65535")
	all, err := c.Expectations()
	if err != nil || len(all) != 1 {
		t.Fatalf("%d expectations, %v", len(all), err)
	}
	x := all[0]
	out := h.Exec("sh", "-c", "conntrack -L expect 2>/dev/null")
	for _, part := range []string{
		fmt.Sprintf("proto=%d %s ", x.Tuple.Proto, x.Tuple),
		fmt.Sprintf("mask-src=%s mask-dst=%s ", x.Mask.Src, x.Mask.Dst),
		fmt.Sprintf("master-src=%s master-dst=%s sport=%d", x.Master.Src, x.Master.Dst, x.Master.SrcPort),
		fmt.Sprintf("class=%d helper=%s", x.Class, x.Helper),
	} {
		if !strings.Contains(out, part) {
			t.Errorf("ours %q, theirs %q", part, out)
		}
	}
	if x.TimeoutSeconds < 100 || x.Master != master.Orig {
		t.Errorf("%+v", x)
	}
}

func TestPolicies(t *testing.T) {
	h, c := newTable(t)
	all, err := c.Policies()
	if err != nil || len(all) != 0 {
		t.Fatalf("%v, %v", all, err)
	}
	// IPCTNL_MSG_TIMEOUT_NEW of a TCP policy with two timeouts.
	attrs := must(netlink.MarshalAttributes([]netlink.Attribute{
		{Type: 1, Data: []byte("patient\x00")}, {Type: 2, Data: []byte{0, 2}}, {Type: 3, Data: []byte{6}},
		{Type: netlink.Nested | 4, Data: must(netlink.MarshalAttributes([]netlink.Attribute{
			{Type: 3, Data: []byte{0, 0, 0x10, 0}}, {Type: 10, Data: []byte{0, 0, 0, 77}}}))},
	}))
	err = h.Do(func() error {
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Execute(netlink.Message{
			Header: netlink.Header{Type: 0x800, Flags: netlink.Request | netlink.Acknowledge | netlink.Create},
			Data:   append([]byte{unix.AF_INET, 0, 0, 0}, attrs...),
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err = c.Policies()
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	p := all[0]
	established, _ := p.Timeouts.Get(ct.TimeoutTCPEstablished)
	retrans, _ := p.Timeouts.Get(ct.TimeoutTCPMaxRetrans)
	fin, _ := p.Timeouts.Get(ct.TimeoutTCPFinWait)
	if p.Name != "patient" || p.Family != unix.AF_INET || p.Proto != ct.TCP || established != 4096 || retrans != 77 || fin != 120 {
		t.Errorf("%+v", p)
	}
}
