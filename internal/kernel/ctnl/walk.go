package ctnl

import (
	"context"
	"errors"
	"sync"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctwalk"
)

// walkFrom is the number of entries from which a walk pays for having its
// programs loaded, some 25 ms.
const walkFrom = 32_768

// idsFrom is the same for a walk that is to tell ids, which takes another 70 ms
// to begin with.
const idsFrom = 131_072

// walker is loaded once a process, when it is first of use.
var walker = sync.OnceValues(ctwalk.Open)

// WhyNoWalk says why large tables are read through ctnetlink, nil where they
// need not be.
func WhyNoWalk() error {
	_, err := walker()
	return err
}

// walkable returns the walker that can answer the query, or nil.
func (c *Conn) walkable(q *Query, count uint32) *ctwalk.Walker {
	if !q.Walk || q.Limit > 0 || q.Serial || q.KeepDuplicates || q.Unknown != nil ||
		count < walkFrom || !q.WithoutID && count < idsFrom {
		return nil
	}
	if !q.WithoutID {
		go ctwalk.FindIDs() // while the programs are loaded
	}
	w, err := walker()
	if err != nil {
		return nil
	}
	return w
}

// walkTable has the kernel's memory read in place of its answers. It returns
// false, and has called nobody, where that did not work.
func (c *Conn) walkTable(ctx context.Context, w *ctwalk.Walker, r *reading) (bool, error) {
	f := &r.q.Filter
	q := ctwalk.Query{Netns: c.opts.Netns, NetnsInode: c.inode, SecCtx: c.secCtx,
		Status: f.Status, StatusMask: f.StatusMask, Mark: f.Mark, MarkMask: f.MarkMask, Family: f.kernelFamily(),
		Orig: ctwalk.TupleQuery{Src: f.Orig.srcNet(), Dst: f.Orig.dstNet(), Proto: f.Orig.Proto,
			SrcPort: f.Orig.SrcPort, HasSrcPort: f.Orig.HasSrcPort, DstPort: f.Orig.DstPort, HasDstPort: f.Orig.HasDstPort}}
	if !c.trusts(ctx, w) {
		return false, nil
	}
	if !r.q.WithoutID {
		// Of entries that the filter does not match too: there may be few that it does.
		anyEntry := ctwalk.Query{Netns: q.Netns, NetnsInode: q.NetnsInode}
		q.IDs = w.LearnIDs(ctx, anyEntry, c.idOf) == nil
		if !q.IDs && r.q.Select == nil {
			return false, nil
		}
	}
	called := false
	take, finish := r.taker(ctx, q.IDs)
	sum, err := w.Walk(ctx, q, func(f *ct.Flow) error {
		called = true
		r.sum.Received++
		if !r.matches(f) {
			return nil
		}
		return take(f)
	})
	if err != nil && !called && ctx.Err() == nil {
		return false, nil
	}
	if err == nil && !sum.Stopped {
		err = finish()
	}
	r.sum.Walked, r.sum.Filtered = true, !r.all
	r.sum.Stopped = sum.Stopped || errors.Is(err, ErrStop)
	r.sum.Expired, r.sum.resized = sum.Expired, sum.Resized
	if errors.Is(err, ErrStop) {
		err = nil
	}
	return true, err
}

// trust says, once a process, whether what a walk tells has stood a test.
var trust struct {
	sync.Mutex
	known, ok bool
}

// trustSamples is how many entries are compared.
const trustSamples = 8

// trusts compares some entries of a walk with what ctnetlink says of them. A
// kernel whose memory we read wrong is read through ctnetlink.
func (c *Conn) trusts(ctx context.Context, w *ctwalk.Walker) bool {
	trust.Lock()
	defer trust.Unlock()
	if trust.known {
		return trust.ok
	}
	var some []ct.Flow
	_, err := w.Walk(ctx, ctwalk.Query{Netns: c.opts.Netns, NetnsInode: c.inode}, func(f *ct.Flow) error {
		if some = append(some, *f); len(some) == 2*trustSamples {
			return ErrStop
		}
		return nil
	})
	alike := 0
	for i := range some {
		f, g := &some[i], ct.Flow{}
		switch err := c.get(f.Orig, f.Zone, f.ZoneOrig, &g); {
		case errors.Is(err, ErrNotFound): // gone, or never there
		case err != nil || !sameEntry(f, &g):
			trust.known = err == nil
			return false
		default:
			alike++
		}
	}
	if err != nil || ctx.Err() != nil {
		return false
	}
	trust.known, trust.ok = true, alike >= trustSamples
	return trust.ok
}

// sameEntry compares what a packet that comes between does not change.
func sameEntry(f, g *ct.Flow) bool {
	const fields = ct.HasMark | ct.HasZone | ct.HasCounters | ct.HasMaster | ct.HasHelper
	const status = ct.StatusExpected | ct.StatusNAT | ct.StatusSrcNATDone | ct.StatusDstNATDone | ct.StatusConfirmed | ct.StatusTemplate
	return f.Orig == g.Orig && f.Reply == g.Reply && f.Master == g.Master && f.Helper == g.Helper &&
		f.Fields&fields == g.Fields&fields && f.Status&status == g.Status&status &&
		f.Zone == g.Zone && f.ZoneOrig == g.ZoneOrig && f.ZoneReply == g.ZoneReply &&
		f.OrigCounters.Packets <= g.OrigCounters.Packets
}

// taker returns what is to be done with an entry that was found, and at the end.
func (r *reading) taker(ctx context.Context, ids bool) (take func(*ct.Flow) error, finish func() error) {
	if r.q.WithoutID || ids {
		return r.give, func() error { return nil }
	}
	p := r.c.NewProbe(func(f *ct.Flow) error {
		if !r.matches(f) {
			return nil
		}
		return r.give(f)
	})
	p.anyID = true
	return func(f *ct.Flow) error { return p.Ask(ctx, keyOf(f)) }, p.Flush
}

// secCtx asks ctnetlink for what only the kernel's security module can tell.
func (c *Conn) secCtx(f *ct.Flow) error {
	var whole ct.Flow
	err := c.get(f.Orig, f.Zone, f.ZoneOrig, &whole)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err == nil && whole.Has(ct.HasSecCtx) {
		f.SecCtx = whole.SecCtx
		f.Fields |= ct.HasSecCtx
	}
	return err
}

// idOf asks ctnetlink for the id of an entry.
func (c *Conn) idOf(f *ct.Flow) (id uint32, ok bool, err error) {
	var whole ct.Flow
	err = c.get(f.Orig, f.Zone, f.ZoneOrig, &whole)
	if errors.Is(err, ErrNotFound) {
		return 0, false, nil
	}
	return whole.ID, err == nil && whole.Reply == f.Reply, err
}
