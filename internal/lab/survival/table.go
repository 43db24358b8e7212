package survival

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// cell is all runs of one scenario and defence under the same settings.
type cell struct {
	scenario *Scenario
	defence  Defence
	max      int
	acct     bool
	seconds  int // length of the attacks
	runs     []Result
}

// length is how long an attack lasted; one that ended a second late is no other.
func length(r Result) int { return int(math.Round(r.AttackSeconds/6)) * 6 }

// Table is the published table: the goals with what came of them, then every
// scenario with every defence.
func Table(list []Result) string {
	cells := group(list)
	var b strings.Builder
	b.WriteString("## Goals\n\n")
	goals(&b, cells)
	b.WriteString("\n## Every scenario\n")
	var last string
	for i := range cells {
		c := &cells[i]
		if head := c.head(); head != last {
			last = head
			fmt.Fprintf(&b, "\n**%s**\n\n", head)
			b.WriteString("| defence | runs | new: worst, median | p50, p99 ms | wrk, dig | active | beats | idle | touched | logins | refused | back after | detected | first act | guard's core, MiB | attack/s | load |\n")
			b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
		}
		b.WriteString(c.row())
	}
	return b.String()
}

// group sorts results into cells, in the order of scenarios, limits and
// defences.
func group(list []Result) (cells []cell) {
	for _, s := range Scenarios {
		for _, acct := range []bool{false, true} {
			for _, size := range sizesOf(list, s, acct) {
				for _, d := range Defences {
					c := cell{scenario: s, defence: d, max: size.max, acct: acct, seconds: size.seconds}
					for _, r := range list {
						if r.Scenario == s.Name && r.Accounting == acct && r.Defence == d && sizeOf(r) == size {
							c.runs = append(c.runs, r)
						}
					}
					if len(c.runs) > 0 {
						cells = append(cells, c)
					}
				}
			}
		}
	}
	return cells
}

// size is what a scenario is played at.
type size struct{ max, seconds int }

func sizeOf(r Result) size { return size{r.Table, length(r)} }

func sizesOf(list []Result, s *Scenario, acct bool) (sizes []size) {
	for _, r := range list {
		if r.Scenario == s.Name && r.Accounting == acct && !slices.Contains(sizes, sizeOf(r)) {
			sizes = append(sizes, sizeOf(r))
		}
	}
	slices.SortFunc(sizes, func(a, b size) int {
		return cmp.Or(cmp.Compare(a.max, b.max), cmp.Compare(a.seconds, b.seconds))
	})
	return sizes
}

func (c *cell) head() string {
	head := fmt.Sprintf("%s: %s, max %s, %d s", c.scenario.Name, c.scenario.Title, thousands(c.max), c.seconds)
	if c.acct {
		head += ", with accounting"
	}
	return head
}

func (c *cell) row() string {
	level, first, own := "", "", ""
	if c.defence.ours() {
		first, level = "none", ""
		if ms := c.sorted(func(r Result) float64 { return r.LevelMS }); ms[0] > 0 {
			level = fmt.Sprintf("%.0f ms", ms[len(ms)/2])
		}
		if ms := c.sorted(func(r Result) float64 { return r.DetectMS }); ms[len(ms)-1] > 0 {
			first = fmt.Sprintf("%.0f ms", ms[len(ms)/2])
		}
		cpu, rss := c.sorted(func(r Result) float64 { return r.CPU }), c.sorted(func(r Result) float64 { return r.RSS })
		own = fmt.Sprintf("%.1f %%, %.0f", 100*cpu[len(cpu)/2], rss[len(rss)-1])
	}
	p50, p99 := c.sorted(func(r Result) float64 { return r.New.P50 }), c.sorted(func(r Result) float64 { return r.New.P99 })
	latency := "–"
	if p99[len(p99)/2] > 0 {
		latency = fmt.Sprintf("%.1f, %.0f", p50[len(p50)/2], p99[len(p99)/2])
	}
	touched, looked := 0, 0
	for _, r := range c.runs {
		touched, looked = touched+r.Touched, looked+r.Looked
	}
	refused := c.sorted(func(r Result) float64 { return float64(r.Refused) })
	back := "never"
	if s := c.recovery(); s >= 0 {
		back = fmt.Sprintf("%d s", s)
	}
	return fmt.Sprintf("| %s | %d | %s, %s | %s | %s | %s | %s | %s | %d/%d | %s | %s | %s | %s | %s | %s | %s | %.0f |\n",
		c.defence, len(c.runs), percent(c.worst()), percent(c.median()), latency, c.programs(),
		c.sum(func(r Result) alive { return r.Active }), c.sum(func(r Result) alive { return r.Beats }), c.sum(func(r Result) alive { return r.idle() }), touched, looked,
		c.sum(func(r Result) alive { return r.Logins }), thousands(int(refused[len(refused)/2])), back, level, first, own, c.rate(), c.worstOf(func(r Result) float64 { return r.Load }))
}

// sorted are the values of a figure, ascending.
func (c *cell) sorted(f func(Result) float64) (list []float64) {
	for _, r := range c.runs {
		list = append(list, f(r))
	}
	slices.Sort(list)
	return list
}

// programs is the share of pages that wrk got and of names that dig did, in the
// worst run.
func (c *cell) programs() string {
	if c.worstOf(func(r Result) float64 { return float64(r.Dig.Asked) }) == 0 {
		return "–"
	}
	return percent(c.sorted(func(r Result) float64 { return r.Wrk.share() })[0]) + ", " +
		percent(c.sorted(func(r Result) float64 { return r.Dig.share() })[0])
}

func success(r Result) float64 {
	y := r.New
	if r.Scenario == "8-churn" { // everybody there is a user
		y.Asked, y.OK = y.Asked+r.Reached.Asked, y.OK+r.Reached.Completed
	}
	return y.share()
}

func (c *cell) worst() float64  { return c.sorted(success)[0] }
func (c *cell) median() float64 { s := c.sorted(success); return s[(len(s)-1)/2] }

// recovery is the worst of the runs; negative if one never recovered.
func (c *cell) recovery() (worst int) {
	for _, r := range c.runs {
		if r.RecoverySeconds < 0 {
			return -1
		}
		worst = max(worst, r.RecoverySeconds)
	}
	return worst
}

func (c *cell) total(f func(Result) alive) (a alive) {
	for _, r := range c.runs {
		a = a.plus(f(r))
	}
	return a
}

func (c *cell) sum(f func(Result) alive) string {
	a := c.total(f)
	return fmt.Sprintf("%d/%d", a.Alive, a.Held)
}

// rate is what the attack reached, in its own unit.
func (c *cell) rate() string {
	n := c.sorted(func(r Result) float64 {
		if r.Reached.Seconds == 0 {
			return 0
		}
		return float64(max(r.Reached.Packets, r.Reached.Asked)) / r.Reached.Seconds
	})
	return thousands(int(n[len(n)/2]))
}

func percent(share float64) string {
	switch {
	case share == 1:
		return "100 %"
	case share > 0.99:
		return fmt.Sprintf("%.2f %%", float64(int(share*10000))/100)
	}
	return fmt.Sprintf("%.1f %%", float64(int(share*1000))/10)
}

// thousands writes a number with commas.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
