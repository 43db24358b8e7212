package guard

import (
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// maxDeeds bounds the record of an incident; what is left out is counted by
// the figures all the same.
const maxDeeds = 200

// incident is one under way.
type incident struct {
	rec   Incident
	at    time.Duration
	first ct.Counters
	ids   map[int]int // action to deed
	best  uint64      // entries of the census that named the class
	over  bool        // the level has fallen; what was done is still being taken back
	end   time.Duration
}

func newIncident(r *Reading, observed bool) *incident {
	return &incident{rec: Incident{Start: r.Wall, Observed: observed}, at: r.At, first: r.Counters, ids: map[int]int{}}
}

func (i *incident) watch(r *Reading, o *outlook, l Level) {
	if l < Pressure {
		if !i.over {
			i.close(r)
		}
		return
	}
	i.over = false
	f := &i.rec.Figures
	i.rec.Worst = max(i.rec.Worst, l)
	f.PeakCount = max(f.PeakCount, r.Count)
	f.PeakFill = max(f.PeakFill, o.fill)
	f.PeakNewPerSec = max(f.PeakNewPerSec, o.arrivals)
	if r.Table != nil && r.Table.Census != nil && (i.rec.Class == "" || l >= i.rec.Worst && r.Table.Census.Entries >= i.best) {
		i.rec.Class, i.best = classify(r.Table.Census), r.Table.Census.Entries
	}
}

func (i *incident) deed(r *Reading, a *Action) {
	if len(i.rec.Deeds) >= maxDeeds {
		return
	}
	i.ids[a.ID] = len(i.rec.Deeds)
	i.rec.Deeds = append(i.rec.Deeds, Deed{AfterSeconds: (r.At - i.at).Seconds(), What: a.String(), Why: a.Why, Undo: a.Undo})
}

func (i *incident) result(res *Result) {
	f := &i.rec.Figures
	f.OnProbation += res.Changed
	f.Acquitted += res.Survived
	f.Evicted += max(res.Changed-res.Survived, 0)
	switch a := &res.Action; {
	case a.Kind == KindMax && !a.Undo && res.Err == nil && !res.Foreign:
		f.MaxRaisedTo = max(f.MaxRaisedTo, res.Got)
	case a.Kind == KindLimit && res.Err == nil:
		f.SourcesLimited = max(f.SourcesLimited, len(a.Limit.Sources))
	}
	if n, ok := i.ids[res.Action.ID]; ok {
		i.rec.Deeds[n].Outcome = outcome(res)
	}
}

func (i *incident) close(r *Reading) {
	i.over, i.end = true, r.At
	rec := &i.rec
	rec.End, rec.Took = r.Wall, r.At-i.at
	rec.Seconds = rec.Took.Seconds()
	d := r.Counters.Sub(i.first)
	rec.Figures.Refused, rec.Figures.EarlyDropped = uint64(d.Drop), uint64(d.EarlyDrop)
}

const halfOpenClass = "half-open TCP connections"

// classify names what fills the table, in words.
func classify(c *ct.Census) string {
	if c == nil || c.Entries == 0 {
		return "unknown traffic"
	}
	share := func(keep func(ct.ClassKey) bool) float64 { return c.Share(c.Sum(keep)) }
	tcp := func(k ct.ClassKey) bool { return k.Proto == ct.TCP }
	kinds := []struct {
		name  string
		share float64
	}{
		{halfOpenClass, share(halfOpen)},
		{"connections that were opened and fell silent", share(func(k ct.ClassKey) bool { return tcp(k) && k.State == ct.TCPEstablished })},
		{"short connections that are closing", share(func(k ct.ClassKey) bool {
			return tcp(k) && k.State >= ct.TCPFinWait && k.State <= ct.TCPClose
		})},
		{"unanswered UDP", share(func(k ct.ClassKey) bool { return k.Proto == ct.UDP && !k.Replied })},
		{"answered UDP", share(func(k ct.ClassKey) bool { return k.Proto == ct.UDP && k.Replied })},
		{"ICMP", share(func(k ct.ClassKey) bool { return k.Proto == ct.ICMP || k.Proto == ct.ICMPv6 })},
	}
	best := kinds[0]
	for _, k := range kinds[1:] {
		if k.share > best.share {
			best = k
		}
	}
	if best.share < 0.4 {
		return "a mixture of traffic"
	}
	return best.name
}
