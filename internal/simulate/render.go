package simulate

import (
	"encoding/csv"
	"fmt"
	"html/template"
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
		classes(&b, &rs[i])
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
	case len(rs) == 1 && r.Refused == 0:
		return fmt.Sprintf("It holds: the table peaks at %s of %s entries and refuses nothing.", num(r.Peak), num(r.Max))
	case len(rs) == 1:
		return fmt.Sprintf("It does not hold: full after %s, %s packets refused.", fullAfter(r), num(int(r.Refused)))
	case r.Refused == 0:
		return fmt.Sprintf("Setting %s holds: it peaks at %s of %s entries and refuses nothing.", letter(best), num(r.Peak), num(r.Max))
	}
	s, ok := r.LegitimateServed()
	if !ok {
		return fmt.Sprintf("None holds; setting %s does best with %s packets refused.", letter(best), num(int(r.Refused)))
	}
	return fmt.Sprintf("None holds without refusals; setting %s does best and serves %.1f %% of legitimate connections.", letter(best), 100*s)
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

// chart is what the picture's template draws.
type chart struct {
	Verdict       string
	Runs          []chartRun
	Width, Height int
	XTicks        []mark
	YTicks        []mark
}

type chartRun struct {
	*Result
	Letter, Colour, Dash, Path, MaxPath string
	Served, Full, Memory, Evicted       string
}

type mark struct {
	At    float64
	Label string
}

// Colours that differ in lightness too; dashes tell them apart without colour.
var (
	colours = []string{"#1b6ca8", "#c8553d", "#3f7d20", "#7b4b94", "#8a6d00", "#444444"}
	dashes  = []string{"", "6 3", "2 2", "8 3 2 3", "1 3", "10 4"}
)

func newChart(rs []Result) chart {
	c := chart{Verdict: verdict(rs), Width: 860, Height: 300}
	top, end := 1.0, 1.0
	for i := range rs {
		top = max(top, float64(rs[i].Peak), float64(rs[i].Max))
		end = max(end, rs[i].Seconds)
	}
	x := func(at float64) float64 { return 60 + at/end*float64(c.Width-80) }
	y := func(n float64) float64 { return 10 + (1-n/top)*float64(c.Height-40) }
	for i := range rs {
		r := &rs[i]
		run := chartRun{Result: r, Letter: letter(i), Colour: colours[i%len(colours)], Dash: dashes[i%len(dashes)],
			Served: servedText(r), Full: fullAfter(r), Memory: mib(r.Memory), Evicted: evicted(r)}
		var p strings.Builder
		for j, pt := range r.Points {
			fmt.Fprintf(&p, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[j == 0], x(pt.At), y(float64(pt.Count)))
		}
		run.Path = p.String()
		run.MaxPath = fmt.Sprintf("M60 %.1fH%d", y(float64(r.Max)), c.Width-20)
		c.Runs = append(c.Runs, run)
	}
	for i := range 5 {
		f := float64(i) / 4
		c.XTicks = append(c.XTicks, mark{x(end * f), span(end * f)})
		c.YTicks = append(c.YTicks, mark{y(top * f), num(int(top * f))})
	}
	return c
}

const svgText = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.Width}} {{.Height}}" role="img" font-family="sans-serif" font-size="11">
<title>{{.Verdict}}</title><rect width="100%" height="100%" fill="#fff"/>
{{range .YTicks}}<path d="M60 {{.At}}H840" stroke="#ddd"/><text x="55" y="{{.At}}" dy="4" text-anchor="end" fill="#444">{{.Label}}</text>
{{end}}{{range .XTicks}}<text x="{{.At}}" y="{{$.Height}}" dy="-8" text-anchor="middle" fill="#444">{{.Label}}</text>
{{end}}{{range .Runs}}<path d="{{.MaxPath}}" stroke="{{.Colour}}" stroke-width="1" stroke-dasharray="1 4" fill="none"/>
<path d="{{.Path}}" stroke="{{.Colour}}" stroke-width="2" stroke-dasharray="{{.Dash}}" fill="none"/>
{{end}}</svg>`

const htmlText = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>ctwarden simulate</title>
<style>body{font:15px/1.5 sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}table{border-collapse:collapse;width:100%}th,td{padding:.3em .5em;border-bottom:1px solid #ddd;text-align:right}th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}</style>
<h1>{{.Verdict}}</h1>{{template "svg" .}}
<p>Entries over time. A solid or dashed line is a setting, the dotted line of the same colour its limit.</p>
<table><tr><th></th><th>setting</th><th>kernel</th><th>peak</th><th>full after</th><th>refused</th><th>evicted</th><th>served</th><th>memory</th></tr>
{{range .Runs}}<tr><td><svg width="40" height="10"><path d="M0 5H40" stroke="{{.Colour}}" stroke-width="2" stroke-dasharray="{{.Dash}}"/></svg> {{.Letter}}</td><td>{{.Name}}</td><td>{{.Era}}</td><td>{{.Peak}}</td><td>{{.Full}}</td><td>{{.Refused}}</td><td>{{.Evicted}}</td><td>{{.Served}}</td><td>{{.Memory}}</td></tr>
{{end}}</table></html>
`

var pictures = template.Must(template.Must(template.New("html").Parse(htmlText)).New("svg").Parse(svgText))

// WriteHTML writes a page that needs nothing else, WriteSVG the chart alone.
func WriteHTML(w io.Writer, rs []Result) error {
	return pictures.ExecuteTemplate(w, "html", newChart(rs))
}

// WriteSVG writes the chart.
func WriteSVG(w io.Writer, rs []Result) error {
	return pictures.ExecuteTemplate(w, "svg", newChart(rs))
}
