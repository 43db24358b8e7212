package ctwalk_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/ctwalk"
	"github.com/ctwarden/ctwarden/internal/lab"
	"net/netip"
)

func TestProf(t *testing.T) {
	if os.Getenv("PROF") == "" {
		t.Skip()
	}
	lab.Require(t)
	l := lab.ExclusiveLimits(t)
	l.SetBuckets(1_000_000)
	l.SetMax(1_250_000)
	h := lab.NewHost(t, "prof")
	c, _ := ctnl.Dial(ctnl.Options{Netns: h.Path()})
	defer c.Close()
	b := c.NewBatch()
	for i := range 1_000_000 {
		o := ct.Tuple{Src: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Dst: netip.AddrFrom4([4]byte{192, 0, 2, 1}),
			Proto: ct.TCP, SrcPort: uint16(1024 + i>>16), DstPort: 443}
		r, _ := o.Invert()
		b.Create(&ct.Flow{Orig: o, Reply: r, Status: ct.StatusSeenReply | ct.StatusAssured, State: ct.TCPEstablished, Fields: ct.HasProtoInfo, TimeoutSeconds: 3600})
	}
	b.Flush()
	pre := netip.MustParsePrefix("10.0.0.0/14")
	for range 0 {
		at := time.Now()
		var keys ctnl.Keys
		sel := 0
		s, err := c.Dump(context.Background(), ctnl.Query{Select: func(f *ct.Flow) bool { return pre.Contains(f.Orig.Src) && f.Orig.Src.As4()[3]%5 == 1 }}, func(f *ct.Flow) error { sel++; return keys.Add(f) })
		fmt.Println("select", time.Since(at), s, err, sel)
		at = time.Now()
		p := c.NewProbe(func(*ct.Flow) error { return nil })
		for k := range keys.All() {
			p.Ask(context.Background(), k)
		}
		p.Flush()
		fmt.Println("probe", time.Since(at))
		at = time.Now()
		b := c.NewBatch()
		for k := range keys.All() {
			b.Update(k, ctnl.Change{TimeoutSeconds: 3000})
		}
		b.Flush()
		fmt.Println("retime", time.Since(at))
		at = time.Now()
		c.Reap(context.Background())
		fmt.Println("reap", time.Since(at))
	}
	w := open(t)
	for range 6 {
		for _, q := range []ctwalk.Query{{Netns: h.Path()}, {Netns: h.Path(), Status: ct.StatusDying, StatusMask: ct.StatusDying}} {
			at := time.Now()
			s, err := w.Walk(context.Background(), q, func(*ct.Flow) error { return nil })
			fmt.Println(time.Since(at), s, err)
		}
	}
}
