package survival

import (
	"fmt"
	"strings"
)

// goal is one line of what the guard should come to.
type goal struct {
	text string
	// about says whether a cell is judged by the goal, met whether it meets it.
	about func(c *cell) bool
	// beside, if set, is the defence that it is compared with: cells for which
	// that was not measured are not judged.
	beside Defence
	met    func(c *cell, all []cell) bool
	// say words what a cell that falls short came to.
	say func(c *cell, all []cell) string
}

// reported are scenarios whose success is only reported: an attacker who is
// like a user, or cannot be told from one, takes a user's share.
func (c *cell) reported() bool {
	return strings.HasPrefix(c.scenario.Name, "9-") || strings.HasPrefix(c.scenario.Name, "15-")
}

func (c *cell) named(prefix string) bool { return strings.HasPrefix(c.scenario.Name, prefix) }

// beside returns the cell of another defence with the same scenario and limits,
// of attacks as long, or else of others.
func (c *cell) beside(all []cell, d Defence) (other *cell) {
	for i := range all {
		o := &all[i]
		if o.scenario != c.scenario || o.max != c.max || o.acct != c.acct || o.defence != d {
			continue
		}
		if o.seconds == c.seconds {
			return o
		}
		other = o
	}
	return other
}

// tools is the smaller of the shares that wrk and dig got in the worst run.
func (c *cell) tools() float64 {
	return c.sorted(func(r Result) float64 { return min(r.Wrk.share(), r.Dig.share()) })[0]
}

func everywhere(*cell) bool { return true }

func newSuccess(c *cell, _ []cell) string { return percent(c.worst()) }

func (c *cell) afterOne() float64 {
	return c.sorted(func(r Result) float64 { return r.AfterOne.share() })[0]
}

func (c *cell) worstOf(f func(Result) float64) float64 {
	s := c.sorted(f)
	return s[len(s)-1]
}

func (c *cell) aliveShare(f func(Result) alive) float64 {
	a := c.total(f)
	if a.Held == 0 {
		return 1
	}
	return float64(a.Alive) / float64(a.Held)
}

func logins(r Result) alive    { return r.Logins }
func active(r Result) alive    { return r.Active }
func beats(r Result) alive     { return r.Beats }
func silents(r Result) alive   { return r.idle() }
func refused(r Result) float64 { return float64(r.Refused) }

// detected is when the guard said that something is up, in results from before
// that was told apart when it first acted.
func detected(r Result) float64 {
	if r.LevelMS > 0 {
		return r.LevelMS
	}
	return r.DetectMS
}

var allGoals = []goal{
	{"new connections ≥ 99.5 %, worst run (scenarios 1 to 8, 11 to 14)",
		func(c *cell) bool { return !c.reported() && !c.named("10-") }, "",
		func(c *cell, _ []cell) bool { return c.worst() >= 0.995 }, newSuccess},
	{"never below stock (medians; 0.5 % is noise)",
		everywhere, Stock,
		func(c *cell, all []cell) bool {
			stock := c.beside(all, Stock)
			return c.median() >= stock.median()-0.005
		},
		func(c *cell, all []cell) string {
			return percent(c.median()) + " against " + percent(c.beside(all, Stock).median())
		}},
	{"scenario 10: ≥ 99 % from 1 s after the start on",
		func(c *cell) bool { return c.named("10-") }, "",
		func(c *cell, _ []cell) bool { return c.afterOne() >= 0.99 },
		func(c *cell, _ []cell) string { return percent(c.afterOne()) }},
	{"ssh login succeeds", everywhere, "",
		func(c *cell, _ []cell) bool { return c.aliveShare(logins) == 1 },
		func(c *cell, _ []cell) string { return c.sum(logins) }},
	{"pages of wrk and names of dig ≥ 99.5 %, worst run (scenarios 1 to 8, 11 to 14)",
		func(c *cell) bool { return !c.reported() && !c.named("10-") && c.programs() != "–" }, "",
		func(c *cell, _ []cell) bool { return c.tools() >= 0.995 },
		func(c *cell, _ []cell) string { return c.programs() }},
	{"held active connections 100 %, heartbeats every 8 s included", everywhere, "",
		func(c *cell, _ []cell) bool { return c.aliveShare(active) == 1 && c.aliveShare(beats) == 1 },
		func(c *cell, _ []cell) string { return c.sum(active) + " and " + c.sum(beats) }},
	{"held idle connections ≥ 99.9 %", everywhere, "",
		func(c *cell, _ []cell) bool { return c.aliveShare(silents) >= 0.999 },
		func(c *cell, _ []cell) string { return c.sum(silents) }},
	{"refused by the kernel: 0 (the guard on before the attack)",
		func(c *cell) bool { return !c.named("10-") }, "",
		func(c *cell, _ []cell) bool { return c.worstOf(refused) == 0 },
		func(c *cell, _ []cell) string { return thousands(int(c.worstOf(refused))) }},
	{"detected ≤ 200 ms after the first packet, where stock loses connections",
		func(c *cell) bool { return !c.named("11-") }, Stock,
		func(c *cell, all []cell) bool {
			stock := c.beside(all, Stock)
			return stock.median() >= 0.995 || c.worstOf(detected) <= 200 && c.worstOf(detected) > 0
		},
		func(c *cell, _ []cell) string { return fmt.Sprintf("%.0f ms", c.worstOf(detected)) }},
	{"back at ≥ 99 % within 1 s", func(c *cell) bool { return !c.reported() }, "",
		func(c *cell, _ []cell) bool { return c.recovery() >= 0 && c.recovery() <= 1 },
		func(c *cell, _ []cell) string {
			if c.recovery() < 0 {
				return "never"
			}
			return fmt.Sprintf("%d s", c.recovery())
		}},
	{"p99 ≤ 1.5 × control (medians; of two controls the better)", everywhere, Control,
		func(c *cell, all []cell) bool {
			o := c.beside(all, Control)
			return c.p99() <= 1.5*o.bestP99()
		},
		func(c *cell, all []cell) string {
			return fmt.Sprintf("%.1f ×", c.p99()/c.beside(all, Control).bestP99())
		}},
	{"peace: no action, ≤ 0.1 % of a core, ≤ 25 MiB",
		func(c *cell) bool { return c.named("11-") }, "",
		func(c *cell, _ []cell) bool {
			return c.actions() == 0 && c.worstOf(cpuOf) <= 0.001 && c.worstOf(rssOf) <= 25
		},
		func(c *cell, _ []cell) string {
			return fmt.Sprintf("%d actions, %.2f %%, %.0f MiB", c.actions(), 100*c.worstOf(cpuOf), c.worstOf(rssOf))
		}},
	{"everything undone afterwards", everywhere, "",
		func(c *cell, _ []cell) bool { return c.undone() == len(c.runs) },
		func(c *cell, _ []cell) string { return fmt.Sprintf("%d of %d runs", c.undone(), len(c.runs)) }},
}

func cpuOf(r Result) float64 { return r.CPU }
func rssOf(r Result) float64 { return r.RSS }

func (c *cell) p99() float64 {
	s := c.sorted(func(r Result) float64 { return r.New.P99 })
	return s[len(s)/2]
}

// bestP99 is the median, of an even number of runs the better one.
func (c *cell) bestP99() float64 {
	s := c.sorted(func(r Result) float64 { return r.New.P99 })
	return s[(len(s)-1)/2]
}

func (c *cell) actions() (n int) {
	for _, r := range c.runs {
		n += r.Actions
	}
	return n
}

func (c *cell) undone() (n int) {
	for _, r := range c.runs {
		if r.Undone {
			n++
		}
	}
	return n
}

// goals writes for each goal, and for each defence of ours, how many cells meet
// it and what those that fall short came to.
func goals(b *strings.Builder, cells []cell) {
	b.WriteString("| goal | guard | guard where max is fixed |\n|---|---|---|\n")
	for _, g := range allGoals {
		fmt.Fprintf(b, "| %s | %s | %s |\n", g.text, g.outcome(cells, Guard), g.outcome(cells, GuardFixed))
	}
}

func (g *goal) outcome(cells []cell, d Defence) string {
	met, judged := 0, 0
	var short []string
	for i := range cells {
		c := &cells[i]
		if c.defence != d || !g.about(c) || g.beside != "" && c.beside(cells, g.beside) == nil {
			continue
		}
		judged++
		if g.met(c, cells) {
			met++
			continue
		}
		short = append(short, fmt.Sprintf("%s (%s, %d s): %s", c.scenario.Name, thousands(c.max), c.seconds, g.say(c, cells)))
	}
	if judged == 0 {
		return "not measured"
	}
	s := fmt.Sprintf("%d of %d", met, judged)
	if len(short) > 0 {
		s += "; short: " + strings.Join(short, ", ")
	}
	return s
}
