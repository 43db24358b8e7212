package guard

import (
	"fmt"
	"math"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// reap has expired entries removed where slots are needed and max cannot be
// raised: they count until something walks over them.
func (p *Policy) reap(r *Reading, o *outlook) *Action {
	if p.level < Emergency || !p.threatened(o) || !p.exhausted(r) || !p.free(KindReap, r.At) || !p.reaps.due(r.At) {
		return nil
	}
	p.reaps.next = r.At + time.Second
	return &Action{Kind: KindReap, Why: "expired entries hold slots until something walks over them"}
}

func (p *Policy) reapHelped(res *Result) bool {
	return res.Err == nil && p.trend.n > 0 && p.trend.since(300*time.Millisecond).count > p.trend.last().count
}

// timeoutState is how new flows' timeouts are scaled.
type timeoutState struct {
	set   bool
	scale float64
	since time.Duration // when the fill last called for so short ones
}

// Adaptive timeouts as pf has them: between two shares of max every timeout is
// scaled by what is left to the end.
const (
	scaleStart = 0.6
	scaleEnd   = 1.2
	scaleLeast = 0.25
	scaleStep  = 0.25
)

// scaled lists the timeouts that are shortened for new flows, with the least
// seconds that each keeps: a handshake takes 15 s at worst, an answer over UDP
// as long as a resolver waits.
var scaled = []struct {
	key   ct.TimeoutKey
	floor int32
}{
	{ct.TimeoutTCPSynSent, 15}, {ct.TimeoutTCPSynRecv, 15},
	{ct.TimeoutTCPFinWait, 20}, {ct.TimeoutTCPCloseWait, 20}, {ct.TimeoutTCPLastAck, 10},
	{ct.TimeoutTCPTimeWait, 15}, {ct.TimeoutTCPClose, 5},
	{ct.TimeoutUDP, 10},
}

// scale gives new flows shorter timeouts for half-open, closing and unanswered
// states. On a gateway the RFCs ask for at least 240 s of TCP, more than the
// kernel's defaults: nothing is shortened there.
func (p *Policy) scale(r *Reading, o *outlook) *Action {
	t := &p.paces
	want := p.wantedScale(o)
	if !t.set {
		t.scale = 1
	}
	if want <= t.scale {
		t.since = r.At
	}
	switch {
	case !p.free(KindTimeouts, r.At):
		return nil
	case want > t.scale && (p.level < Pressure || r.At-t.since >= p.cfg.Leave):
		if want = min(want, 1); want == 1 {
			return &Action{Kind: KindTimeouts, Undo: true, Timeouts: &Timeouts{Scale: 1}, Why: "there is room again"}
		}
		return p.timeouts(want, "there is more room again")
	case want >= t.scale || p.level < Pressure || !p.cfg.Timeouts || !p.around.Policies || p.around.Gateway:
		return nil
	}
	return p.timeouts(want, fmt.Sprintf("%s; half-open, closing and unanswered entries are to go sooner", p.trouble(o)))
}

func (p *Policy) wantedScale(o *outlook) float64 {
	if p.level < Pressure || o.copes || !p.cfg.Timeouts || o.trouble >= p.cfg.PressureFull && o.fill < p.cfg.EmergencyFill {
		return 1
	}
	s := (scaleEnd - o.fill) / (scaleEnd - scaleStart)
	s = math.Floor(s/scaleStep) * scaleStep
	return min(max(s, scaleLeast), 1)
}

func (p *Policy) timeouts(scale float64, why string) *Action {
	a := &Action{Kind: KindTimeouts, Why: why, Timeouts: &Timeouts{Scale: scale}}
	for _, k := range scaled {
		if have, ok := p.around.Timeouts.Get(k.key); ok && have > k.floor {
			a.Timeouts.Set.Set(k.key, max(int32(float64(have)*scale), k.floor))
		}
	}
	return a
}

func (t *timeoutState) done(res *Result) {
	if res.Err == nil {
		t.set, t.scale = !res.Action.Undo, res.Action.Timeouts.Scale
	}
}

// thinState spaces probations out and bounds them.
type thinState struct {
	pause
	aged   pause // the search for entries idle beyond KeepIdle
	overs  pause
	minute []spent
	total  int // in this incident
}

type spent struct {
	at time.Duration
	n  int
}

// budget is how many entries may still be put on probation now.
func (t *thinState) budget(p *Policy, now time.Duration) int {
	n := p.cfg.EntriesPerMinute
	for _, s := range t.minute {
		if now-s.at < time.Minute {
			n -= s.n
		}
	}
	return max(min(n, p.cfg.EntriesPerIncident-t.total), 0)
}

// leastProbation is the smallest budget worth a pass over the table.
const leastProbation = 64

// over frees at once what nobody needs any more, where the kernel refuses:
// everything else takes seconds, for silence has to be seen.
func (p *Policy) over(r *Reading, o *outlook) *Action {
	if !p.cfg.Probation || !p.desperate(r, o) || !o.refusing || !p.free(KindThin, r.At) || !p.thins.overs.due(r.At) {
		return nil
	}
	budget := p.thins.budget(p, r.At)
	if budget < leastProbation {
		return nil
	}
	p.thins.overs.next = r.At + time.Second
	return &Action{Kind: KindThin, Why: p.trouble(o) + "; they only wait for stray packets", Thin: &Thin{Over: true, Seconds: 1, Limit: budget}}
}

// thin puts silent entries on probation. What lived before the incident is
// spared until it has been idle for KeepIdle; what came with it is not, where
// a live flow's next packet would bring its entry back.
func (p *Policy) thin(r *Reading, o *outlook) *Action {
	if !p.cfg.Probation || !p.free(KindThin, r.At) {
		return nil
	}
	budget := p.thins.budget(p, r.At)
	if budget < leastProbation {
		p.once(r.At, "budget", "no more entries are put on probation: the budget of entries is spent")
		return nil
	}
	if a := p.thinNew(r, o, budget); a != nil {
		return a
	}
	return p.thinAged(r, o, budget)
}

// thinAged ends what has been silent for longer than anybody wants to keep.
func (p *Policy) thinAged(r *Reading, o *outlook, budget int) *Action {
	if o.fill < p.cfg.PressureFill && p.limit.ours == 0 || o.left || !p.thins.aged.due(r.At) || !idleBeyond(p.census, p.cfg.KeepIdle) {
		return nil
	}
	p.thins.aged.next = r.At + 10*time.Second
	return &Action{Kind: KindThin, Why: fmt.Sprintf("connections silent for more than %s hold slots", p.cfg.KeepIdle),
		Thin: &Thin{Classes: HalfOpen | Unreplied | Closing | Silent, MinIdle: p.cfg.KeepIdle, Fragile: true, Seconds: 60, Limit: budget}}
}

// idleBeyond reports whether the census knows of entries that were idle for at
// least d, or cannot tell.
func idleBeyond(c *ct.Census, d time.Duration) bool {
	if c == nil {
		return false
	}
	step := 0
	for i, s := range ct.IdleSteps {
		if s <= d {
			step = i
		}
	}
	for i := range c.Classes {
		if c.Classes[i].IdleOver[step] > 0 {
			return true
		}
	}
	return false
}

func (p *Policy) thinNew(r *Reading, o *outlook, budget int) *Action {
	since, ok := p.began(r)
	if !ok || p.around.Fragile || !p.thins.due(r.At) {
		return nil
	}
	// Half-open entries are left to early drop: a handshake may take 15 s.
	t := &Thin{Classes: Silent | Unreplied | Closing, Since: since, Limit: budget}
	var why string
	switch {
	case p.level == Emergency && p.threatened(o) && p.exhausted(r):
		// A heartbeat must not be taken for silence: in a full table the packet
		// that should bring an entry back is refused.
		t.MinIdle, t.Seconds = heartbeat, 5
		why = p.trouble(o) + "; connections that came with the attack and fell silent go, a packet brings them back"
	case p.limit.ours != 0 && !p.limit.slight && r.Count > p.limit.before*5/6 && !o.left:
		t.MinIdle, t.Seconds = heartbeat, 30
		why = fmt.Sprintf("%d entries are more than the usual limit of %d allows; silent ones that came with the attack go, a packet brings them back", r.Count, p.limit.before)
	default:
		return nil
	}
	if r.At-since < t.MinIdle+2*time.Second {
		return nil // nothing that came since can have been silent for so long
	}
	p.thins.next = r.At + time.Second
	return &Action{Kind: KindThin, Thin: t, Why: why}
}

// heartbeat is how long connections that are in use are silent at most, as a
// rule: probes of Go's servers come each 15 s, of proxies and mail each 30 s.
const heartbeat = 40 * time.Second

// began is when the present or the last attack began: the last quiet moment
// before it, a little earlier for what a reading sees late.
func (p *Policy) began(r *Reading) (time.Duration, bool) {
	if p.incident == nil && p.limit.ours == 0 {
		return 0, false
	}
	return max(p.quietAt-time.Second, 1), true
}

// quiet keeps the last moment at which nothing threatened. Once there is an
// emergency it stands until all is over: the room that we make is no quiet.
func (p *Policy) quiet(r *Reading, o *outlook) {
	if p.limit.ours != 0 || p.incident != nil && p.incident.rec.Worst == Emergency {
		return
	}
	if !o.refusing && o.full >= p.cfg.WatchFull {
		p.quietAt = r.At
	}
}

func (t *thinState) done(p *Policy, res *Result) {
	if res.Action.Undo {
		return
	}
	t.minute = append(t.minute, spent{res.At, res.Changed})
	for len(t.minute) > 0 && res.At-t.minute[0].at >= time.Minute {
		t.minute = t.minute[1:]
	}
	t.total += res.Changed
	if p.incident == nil && p.level < Pressure {
		t.total = 0
	}
	worth := res.Err == nil && res.Changed >= leastProbation
	least := time.Second
	if p.level < Emergency {
		least = 10 * time.Second
	}
	switch th := res.Action.Thin; {
	case th.Over:
		t.overs.again(res.At, time.Second, 30*time.Second, worth)
		return
	case th.MinIdle >= p.cfg.KeepIdle:
		t.aged.again(res.At, 5*time.Minute, time.Hour, worth)
		return
	case len(th.Sources) > 0 && th.MinIdle <= atOnce && res.Selected == 0 && res.Err == nil:
		// None has been silent for long enough yet: a second more may do.
		p.shares.next = min(p.shares.next, res.At+time.Second)
	}
	t.again(res.At, least, time.Minute, worth)
}
