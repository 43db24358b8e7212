package guard

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/notrack"
)

// Proposal is a means that is a person's to choose, weighed against what
// happens.
type Proposal struct {
	Means string `json:"means"` // "synproxy" or "notrack"
	Right bool   `json:"right"`
	Why   string `json:"why"`
	// Unproven are the things on which it rests and that could not be proven.
	Unproven []string `json:"unproven,omitempty"`
	// Price is what it costs.
	Price []string `json:"price,omitempty"`
	// Do and Undo are commands.
	Do   []string `json:"do,omitempty"`
	Undo []string `json:"undo,omitempty"`
	// Used is set where the guard has put it in place.
	Used bool `json:"used,omitempty"`
}

// String is the proposal in a sentence, without price and commands.
func (p *Proposal) String() string {
	names := map[string]string{meansSynProxy: "SYNPROXY", meansNoTrack: "a path before tracking for manage:"}
	switch {
	case p.Used:
		return names[p.Means] + " is in place: " + p.Why
	case !p.Right:
		return names[p.Means] + " is not proposed: " + p.Why
	case len(p.Unproven) > 0:
		return fmt.Sprintf("%s is proposed: %s; not proven: %s", names[p.Means], p.Why, strings.Join(p.Unproven, "; "))
	}
	return names[p.Means] + " is proposed: " + p.Why
}

const (
	meansSynProxy = "synproxy"
	meansNoTrack  = "notrack"
)

// Proposals are those that stand now, whatever happens.
func (p *Policy) Proposals() []Proposal {
	if p.manage.proposal.Means == "" {
		return nil
	}
	return []Proposal{p.manage.proposal}
}

// weigh considers SYNPROXY once the softer means have had their time: only what
// they leave of a flood speaks for it.
func (p *Policy) weigh(r *Reading) {
	i, around := p.incident, p.around.SynProxy
	if p.cfg.SynProxy == Never || around == nil || i == nil || i.over || r.Table == nil || r.At-i.at < judgeAfter ||
		len(r.Table.HalfOpen) == 0 || classify(p.census) != halfOpenClass {
		return
	}
	f := *around
	f.Version, f.Fragile = p.around.Version, p.around.Fragile
	var seen uint64
	for port, n := range r.Table.HalfOpen {
		if n > seen || n == seen && port < f.Port {
			f.Port, seen = port, n
		}
	}
	f.HalfOpen, f.Assured = scaleUp(p.census, seen, r.Count), int64(p.trend.assured)
	f.Count, f.Max = r.Count, r.Max
	f.Refused, f.EarlyDropped = p.trend.refused(trendSpan), p.trend.evicted(trendSpan)
	s := ProposeSynProxy(f)
	next := Proposal{Means: meansSynProxy, Right: s.Right, Why: s.Why}
	if s.Right {
		next.Unproven, next.Price, next.Do = around.Unproven, s.Risks, s.Add
		next.Undo = slices.Concat(s.Undo, s.Remaining, s.Finish)
	}
	if i.propose(next) {
		p.note("%s", &next)
	}
}

// propose keeps what was weighed last, but for one that was right once, and
// reports whether it is news.
func (i *incident) propose(next Proposal) bool {
	for n := range i.rec.Proposals {
		had := &i.rec.Proposals[n]
		if had.Means != next.Means {
			continue
		}
		if had.Right && !next.Right {
			return false
		}
		news := had.Right != next.Right
		*had = next
		return news
	}
	i.rec.Proposals = append(i.rec.Proposals, next)
	return true
}

// manageState is the path before tracking for those who administer the machine.
type manageState struct {
	specs    string // in place, as [notrack.Value] writes them
	proposal Proposal
}

// Untrack is what is to pass before tracking, complete: as [notrack.Value]
// writes it, "" for nothing.
type Untrack struct {
	Specs string `json:"specs"`
}

// judged sums the judgements up: the flows that are proven, and the first reason
// that stands against the others.
func judged(list []notrack.Judgement) (proven []notrack.Spec, against string, price []string) {
	for i := range list {
		j := &list[i]
		if j.Verdict == notrack.Proven {
			for _, s := range j.Specs {
				if spec, err := notrack.ParseSpec(s); err == nil {
					proven = append(proven, spec)
				}
			}
			for _, r := range j.Risks {
				if !slices.Contains(price, r) {
					price = append(price, r)
				}
			}
			continue
		}
		for _, c := range j.Checks {
			if against == "" && c.Verdict == j.Verdict {
				against = fmt.Sprintf("%s: %s: %s", strings.Join(j.Specs, "; "), c.What, c.Why)
				if c.Missing != "" {
					against += "; missing: " + c.Missing
				}
			}
		}
	}
	return proven, against, price
}

// refuted reports whether something was seen that stands against a path.
func refuted(list []notrack.Judgement) bool {
	return slices.ContainsFunc(list, func(j notrack.Judgement) bool { return j.Verdict == notrack.Refuted })
}

// path proposes, or puts in place in calm alone, the path before tracking for
// manage:, and takes it away when its proof no longer holds.
func (p *Policy) path(r *Reading) *Action {
	m := &p.manage
	if p.cfg.NoTrack != Never && len(p.around.Manage) == 0 && (p.level != Calm || p.incident != nil) {
		return nil // nobody listens now, or it could not be seen: the path stays until that is sure
	}
	if p.cfg.NoTrack == Never || len(p.around.Manage) == 0 {
		m.proposal = Proposal{}
		return p.unpath(r, "it is not wanted any more")
	}
	proven, against, price := judged(p.around.Manage)
	want := notrack.Value(proven)
	next := Proposal{Means: meansNoTrack, Right: want != "", Why: against, Used: m.specs != ""}
	if next.Right {
		next.Why = "it is proven for " + want + ", which then gets in whatever becomes of the table"
		if against != "" {
			next.Unproven = []string{against}
		}
		next.Price = price
		next.Do = []string{"ctwarden guard with means.notrack: allow, or nft -f - with:\n" + notrack.NFT(proven)}
		next.Undo = []string{"nft delete table inet " + notrack.Table}
	}
	if m.proposal.Means == "" || m.proposal.Right != next.Right || m.proposal.Used != next.Used && !next.Used {
		p.note("%s", &next)
	}
	m.proposal = next
	switch {
	case want == "" && !refuted(p.around.Manage) && (p.level != Calm || p.incident != nil):
		return nil // what could not be seen in the midst of an attack is no proof against it
	case want == "":
		return p.unpath(r, "its proof no longer holds: "+against)
	case m.specs == want || p.cfg.NoTrack != Allow || !p.cfg.Enforce || !p.around.Untrack:
		if p.cfg.NoTrack != Allow {
			return p.unpath(r, "the configuration no longer allows it")
		}
		return nil
	case p.level != Calm || p.incident != nil || !p.free(KindUntrack, r.At):
		return nil
	}
	return &Action{Kind: KindUntrack, Untrack: &Untrack{want}, Why: "it is calm, and proven that they need no tracking"}
}

func (p *Policy) unpath(r *Reading, why string) *Action {
	if p.manage.specs == "" || !p.free(KindUntrack, r.At) {
		return nil
	}
	return &Action{Kind: KindUntrack, Undo: true, Untrack: &Untrack{}, Why: why}
}

// done keeps what is in place. It goes with our table.
func (m *manageState) done(p *Policy, res *Result) {
	switch {
	case res.TableLost:
		m.specs = ""
	case res.Action.Kind != KindUntrack:
	case res.Err != nil:
		p.off[KindUntrack] = res.At + time.Minute
	default:
		m.specs = res.Action.Untrack.Specs
	}
}

// halfOpen says whether an entry is a TCP handshake that is not finished.
func halfOpen(k ct.ClassKey) bool {
	return k.Proto == ct.TCP && (k.State == ct.TCPSynSent || k.State == ct.TCPSynRecv || k.State == ct.TCPSynSent2)
}
