package guard

import "time"

// effect is an action whose outcome is still to be judged.
type effect struct {
	action  Action
	at      time.Duration
	harm    float64 // resets and invalid packets a second before it
	growth  float64
	refused float64
}

// judgeAfter is how long an action has to show an effect.
const judgeAfter = 2 * time.Second

// A defence that hurts shows as resets and invalid packets: so many times as
// many as before, and so many a second more. What comes with the attack itself
// is not counted against it: a server answers for entries that early drop has
// evicted, and every one of these answers is invalid.
const (
	harmFactor = 3
	harmLeast  = 50
)

// follow keeps an action in mind until its effect can be told.
func (p *Policy) follow(res *Result) {
	switch res.Action.Kind {
	case KindThin:
		if res.Changed == 0 {
			return
		}
	case KindLimit, KindTimeouts:
	default:
		return
	}
	if p.trend.n == 0 {
		return
	}
	p.effects = append(p.effects, effect{action: res.Action, at: res.At,
		harm: p.trend.harm(5 * time.Second), growth: p.trend.growth(trendSpan), refused: p.trend.refused(trendSpan)})
}

// judge looks at what actions have brought: one that hurts, or that gained
// nothing, is taken back, and its means rests.
func (p *Policy) judge(r *Reading) (undo []*Action) {
	kept := p.effects[:0]
	for _, e := range p.effects {
		if r.At-e.at < judgeAfter {
			kept = append(kept, e)
			continue
		}
		if a := p.verdict(r, &e); a != nil {
			undo = append(undo, a)
		}
	}
	p.effects = kept
	return undo
}

func (p *Policy) verdict(r *Reading, e *effect) *Action {
	why := ""
	switch harm := p.trend.harm(judgeAfter); {
	case harm > harmFactor*e.harm+harmLeast+p.trend.arrivals(judgeAfter)/2:
		why = "resets and invalid packets have risen since"
	case e.action.Kind == KindLimit && e.refused > 1 && p.trend.refused(judgeAfter) >= e.refused && p.trend.growth(judgeAfter) >= e.growth:
		why = "it has gained nothing"
	default:
		return nil
	}
	if !p.inPlace(&e.action) {
		return nil
	}
	p.off[e.action.Kind] = r.At // the undo itself must pass
	a := &Action{Kind: e.action.Kind, Undo: true, Of: e.action.ID, Why: why}
	switch e.action.Kind {
	case KindLimit:
		a.Limit = &Limit{}
	case KindTimeouts:
		a.Timeouts = &Timeouts{Scale: 1}
	case KindThin:
		a.Thin = e.action.Thin
	}
	if p.busy[a.Kind] != 0 {
		return nil
	}
	p.rest(a.Kind, r.At)
	return a
}

// inPlace reports whether an action still has something to take back.
func (p *Policy) inPlace(a *Action) bool {
	switch a.Kind {
	case KindLimit:
		return len(p.shares.active) > 0
	case KindTimeouts:
		return p.paces.set
	}
	return true
}

// restFor is how long a means rests that did not help.
const restFor = time.Minute

func (p *Policy) rest(k Kind, now time.Duration) {
	p.off[k] = now + restFor
}
