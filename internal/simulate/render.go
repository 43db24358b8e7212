package simulate

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// WriteText prints the comparison for a person: one line of verdict, a table,
// and a small chart of each run.
func WriteText(w io.Writer, rs []Result, note string) error {
	var b strings.Builder
	b.WriteString(verdict(rs) + "\n")
	if note != "" {
		b.WriteString(note + "\n")
	}
	b.WriteByte('\n')
	rows := [][]string{{"", "kernel", "peak", "p99", "full after", "refused", "evicted", "served", "memory"}}
	for i := range rs {
		r := &rs[i]
		rows = append(rows, []string{letter(i), r.Era, num(r.Peak), num(r.P99), fullAfter(r), num(int(r.Refused)), evicted(r), servedText(r), mib(r.Memory)})
	}
	table(&b, rows)
	b.WriteByte('\n')
	for i := range rs {
		fmt.Fprintf(&b, "%s  %s\n", letter(i), rs[i].Name)
	}
	for i := range rs {
		fmt.Fprintf(&b, "\n%s  entries over %s (max %s)\n   %s\n", letter(i), span(rs[i].Seconds), num(rs[i].Max), spark(&rs[i], 72))
		kinds(&b, &rs[i])
		classes(&b, &rs[i])
		refusees(&b, &rs[i])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdict is the answer in one sentence: which setting does best, and whether
// any survives.
func verdict(rs []Result) string {
	best := 0
	for i := range rs {
		if better(&rs[i], &rs[best]) {
			best = i
		}
	}
	r := &rs[best]
	switch {
	case len(rs) == 0:
		return "Nothing was run."
	case r.Refused == 0 && r.EarlyDrop > 0:
		whose := ""
		if len(r.Classes) > 0 {
			whose = fmt.Sprintf(", %s of them legitimate", num(int(r.LegitDrop)))
		}
		what := "The table"
		if len(rs) > 1 {
			what = "Setting " + letter(best)
		}
		return fmt.Sprintf("%s fills, and refuses nothing: %s entries are evicted to make room%s.", what, num(int(r.EarlyDrop)), whose)
	case len(rs) == 1 && r.Refused == 0:
		return fmt.Sprintf("It holds: the table peaks at %s of %s entries and refuses nothing.", num(r.Peak), num(r.Max))
	case len(rs) == 1:
		return fmt.Sprintf("It does not hold: full after %s, %s packets refused.", fullAfter(r), num(int(r.Refused)))
	case r.Refused == 0:
		return fmt.Sprintf("Setting %s holds: it peaks at %s of %s entries and refuses nothing.", letter(best), num(r.Peak), num(r.Max))
	}
	if _, ok := r.LegitimateServed(); !ok {
		return fmt.Sprintf("None holds; setting %s does best with %s packets refused.", letter(best), num(int(r.Refused)))
	}
	return fmt.Sprintf("None holds without refusals; setting %s does best and serves %s of legitimate connections.", letter(best), servedText(r))
}

// better prefers service to legitimate connections, then fewer refusals, then
// less memory.
func better(a, b *Result) bool {
	sa, oka := a.LegitimateServed()
	sb, okb := b.LegitimateServed()
	if oka && okb && sa != sb {
		return sa > sb
	}
	if a.Refused != b.Refused {
		return a.Refused < b.Refused
	}
	return a.Memory < b.Memory
}

func letter(i int) string {
	if i < 26 {
		return string(rune('A' + i))
	}
	return strconv.Itoa(i + 1)
}

func fullAfter(r *Result) string {
	if r.FullAt < 0 {
		return "never"
	}
	return span(r.FullAt)
}

func evicted(r *Result) string {
	if len(r.Classes) == 0 || r.EarlyDrop == 0 {
		return num(int(r.EarlyDrop))
	}
	return fmt.Sprintf("%s (%s legit)", num(int(r.EarlyDrop)), num(int(r.LegitDrop)))
}

func servedText(r *Result) string {
	s, ok := r.LegitimateServed()
	if !ok {
		return "-"
	}
	return fmt.Sprintf("%.2f %%", 100*s)
}

// kinds says what the table held when it was fullest.
func kinds(b *strings.Builder, r *Result) {
	p := r.fullest()
	if p == nil || p.Count == 0 {
		return
	}
	var parts []string
	for i, n := range p.States {
		if n > 0 {
			parts = append(parts, num(n)+" "+StateNames[i])
		}
	}
	fmt.Fprintf(b, "   after %s: %s\n", span(p.At), strings.Join(parts, ", "))
}

// fullest is the point with most entries of those that know the states.
func (r *Result) fullest() (most *Point) {
	for i := range r.Points {
		if p := &r.Points[i]; p.States != nil && (most == nil || p.Count > most.Count) {
			most = p
		}
	}
	return most
}

func classes(b *strings.Builder, r *Result) {
	for _, c := range r.Classes {
		kind := "attack"
		if c.Legitimate {
			kind = "legitimate"
		}
		fmt.Fprintf(b, "   %-16s %-10s %s started, %s answered, %s gave up, %s broken, %s packets refused, %s evicted\n", c.Name, kind,
			num(int(c.Started)), num(int(c.Answered)), num(int(c.GaveUp)), num(int(c.Broken)), num(int(c.RefusedPackets)), num(int(c.EarlyDropped)))
	}
}

// refusees names the sources of most refused packets.
func refusees(b *strings.Builder, r *Result) {
	if len(r.RefusedFrom) == 0 {
		return
	}
	var parts []string
	for _, f := range r.RefusedFrom {
		parts = append(parts, fmt.Sprintf("%s (%s)", f.Source, num(int(f.Packets))))
	}
	fmt.Fprintf(b, "   most packets refused: %s\n", strings.Join(parts, ", "))
}

var blocks = []rune(" ▁▂▃▄▅▆▇█")

// spark draws the count over time against max, or against the peak without a
// limit.
func spark(r *Result, width int) string {
	if len(r.Points) == 0 {
		return ""
	}
	top := float64(max(r.Max, r.Peak, 1))
	out := make([]rune, 0, width)
	for x := range min(width, len(r.Points)) {
		from, to := x*len(r.Points)/width, (x+1)*len(r.Points)/width
		if len(r.Points) < width {
			from, to = x, x+1
		}
		most := 0
		for _, p := range r.Points[from:max(to, from+1)] {
			most = max(most, p.Count)
		}
		out = append(out, blocks[min(int(float64(most)/top*8+0.999), 8)])
	}
	return string(out)
}

func table(b *strings.Builder, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, c := range r {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	for _, r := range rows {
		for i, c := range r {
			pad := strings.Repeat(" ", width[i]-len([]rune(c)))
			if i == len(r)-1 && len(r[i]) > 12 {
				b.WriteString(c)
			} else if i < 2 {
				b.WriteString(c + pad + "  ")
			} else {
				b.WriteString(pad + c + "  ")
			}
		}
		b.WriteByte('\n')
	}
}

func num(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func mib(n int64) string { return num(int((n+1<<20-1)/(1<<20))) + " MiB" }

func span(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.1f h", d.Hours())
}

// WriteCSV writes the points of all runs, one a line.
func WriteCSV(w io.Writer, rs []Result) error {
	c := csv.NewWriter(w)
	if err := c.Write([]string{"setting", "at_seconds", "count", "refused", "early_drop"}); err != nil {
		return err
	}
	for i := range rs {
		for _, p := range rs[i].Points {
			err := c.Write([]string{rs[i].Name, strconv.FormatFloat(p.At, 'f', 3, 64), strconv.Itoa(p.Count),
				strconv.FormatUint(p.Refused, 10), strconv.FormatUint(p.Early, 10)})
			if err != nil {
				return err
			}
		}
	}
	c.Flush()
	return c.Error()
}
