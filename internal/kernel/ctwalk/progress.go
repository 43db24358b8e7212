package ctwalk

import "sync/atomic"

// progress is a walk under way. One goroutine has the kernel walk, another
// decodes what the run before has left.
type progress struct {
	w     *Walker
	q     *Query
	net   uint64
	table table
	next  uint64 // bucket
	mask  [tupleSize]byte
	tuple [tupleSize]byte
	free  chan int
	done  chan struct{}
	quit  atomic.Bool
}

// result is one run of the program.
type result struct {
	slot, used int
	jiffies    uint64
	again      int
	changed    int
	resized    bool
	err        error
}

func (p *progress) start() <-chan result {
	out := make(chan result, slots)
	p.free, p.done = make(chan int, slots), make(chan struct{})
	for i := range slots {
		p.free <- i
	}
	go func() {
		defer close(p.done)
		defer close(out)
		for slot := range p.free {
			if p.quit.Load() {
				return
			}
			r, more := p.run(slot)
			out <- r
			if !more {
				return
			}
		}
	}()
	return out
}

// stop waits until nothing runs any more.
func (p *progress) stop() {
	p.quit.Store(true)
	close(p.free)
	<-p.done
}

// patience is how often a bucket is begun anew by one program or the next
// before the walk gives up.
const patience = 1000

// run reads the next buckets into a slot. A run during which the table was
// replaced is thrown away and made again on the new one.
func (p *progress) run(slot int) (r result, more bool) {
	r.slot = slot
	s := p.w.slot(slot)
	for tries := 0; ; tries++ {
		p.fill(s)
		if r.err = run(p.w.progs.walk, slot); r.err != nil {
			return r, false
		}
		moved, err := p.w.moved(p.table)
		if err != nil {
			r.err = err
			return r, false
		}
		r.again += int(word(s, wAgain))
		if moved {
			r.resized = true
			if p.table, r.err = p.w.locate(p.q.Netns); r.err != nil {
				return r, false
			}
			if p.next >= p.table.buckets {
				return r, false
			}
			continue
		}
		r.changed += int(word(s, wChanged))
		r.used, r.jiffies = int(word(s, wUsed)), word(s, wJiffies)
		if at := word(s, wBucket); at != p.next {
			p.next = at
			return r, p.next < p.table.buckets
		}
		if tries == patience || word(s, wState) == stateFull {
			r.err = ErrUnsteady
			return r, false
		}
	}
}

func (p *progress) fill(s []byte) {
	setWord(s, wHash, p.table.hash)
	setWord(s, wBucket, p.next)
	setWord(s, wEnd, p.table.buckets)
	setWord(s, wNet, p.net)
	setWord(s, wAgain, 0)
	setWord(s, wChanged, 0)
	setWord(s, wStatusMask, uint64(p.q.StatusMask))
	setWord(s, wStatus, uint64(p.q.Status&p.q.StatusMask))
	setWord(s, wMarkMask, uint64(p.q.MarkMask))
	setWord(s, wMarkValue, uint64(p.q.Mark&p.q.MarkMask))
	setWord(s, wFamily, uint64(p.q.Family))
	copy(s[wTupleMask:wTupleMask+tupleSize], p.mask[:])
	copy(s[wTuple:wTuple+tupleSize], p.tuple[:])
}
