package simulate

import (
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
)

// Caption says what a picture shows, besides the verdict.
type Caption struct {
	Title string // of the traffic
	Note  string
}

// WriteHTML writes a page that needs nothing else.
func WriteHTML(w io.Writer, rs []Result, c Caption) error {
	return pictures.ExecuteTemplate(w, "html", newChart(rs, c))
}

// WriteSVG writes the chart alone.
func WriteSVG(w io.Writer, rs []Result, c Caption) error {
	return pictures.ExecuteTemplate(w, "svg", newChart(rs, c))
}

// Places of the chart, in pixels.
const (
	chartWidth   = 880
	plotLeft     = 78
	plotRight    = 812
	countTop     = 104
	countBottom  = 324
	refuseTop    = 376
	refuseBottom = 446
	legendTop    = 506
	legendRow    = 26
	legendLine   = 15
)

// chart is what the picture's template draws.
type chart struct {
	Caption
	Verdict       string
	Width, Height int
	Runs          []chartRun
	Refusals      bool
	XTicks        []mark
	YTicks        []mark
	RefusedTicks  []mark
	Kinds         []kindKey
}

type chartRun struct {
	*Result
	Letter, Colour, Dash          string
	Path, MaxPath, RefusedPath    string
	LabelY, MaxY, MaxX, Row       float64
	MaxLabel                      string
	Details                       []mark
	PeakText, MaxText, KernelText string
	Served, Full, Memory          string
	Evicted, RefusedText          string
	Stack                         []band
	Top                           string
}

type mark struct {
	At    float64
	Label string
}

type band struct{ Path, Colour string }

type kindKey struct{ Name, Colour string }

// Colours that differ in lightness too; dashes tell them apart without colour.
var (
	colours     = []string{"#c8553d", "#b8860b", "#1b6ca8", "#3f7d20", "#7b4b94", "#444444"}
	dashes      = []string{"", "9 4", "", "2 3", "9 3 2 3", "14 4"}
	kindColours = []string{"#c8553d", "#1b6ca8", "#8fb8d8", "#b8860b", "#e3c878", "#999999"}
)

func newChart(rs []Result, caption Caption) chart {
	c := chart{Caption: caption, Verdict: verdict(rs), Width: chartWidth, Height: legendTop}
	top, end, worst := 1.0, 1.0, 0.0
	for i := range rs {
		top = max(top, float64(rs[i].Peak))
		end = max(end, rs[i].Seconds)
		c.Refusals = c.Refusals || rs[i].Refused > 0
		for _, v := range refusedRates(&rs[i], end) {
			worst = max(worst, v)
		}
	}
	yStep, worstStep := niceStep(top/4), niceStep(max(worst, 1)/4)
	top, worst = ceilTo(top*1.02, yStep), ceilTo(max(worst, 1), worstStep)
	x := func(at float64) float64 { return plotLeft + at/end*(plotRight-plotLeft) }
	y := func(n float64) float64 { return countBottom - n/top*(countBottom-countTop) }
	z := func(n float64) float64 { return refuseBottom - n/worst*(refuseBottom-refuseTop) }
	for i := range rs {
		run := newChartRun(rs, i)
		run.Path = path(len(rs[i].Points), func(j int) (float64, float64) {
			return x(rs[i].Points[j].At), y(float64(rs[i].Points[j].Count))
		})
		rates := refusedRates(&rs[i], end)
		run.RefusedPath = path(len(rates), func(j int) (float64, float64) {
			return x((float64(j) + 0.5) / float64(len(rates)) * end), z(rates[j])
		})
		if n := len(rs[i].Points); n > 0 {
			run.LabelY = y(float64(rs[i].Points[n-1].Count))
		}
		if m := float64(rs[i].Max); m > 0 && m <= top {
			run.MaxY = y(m)
			run.MaxPath = fmt.Sprintf("M%d %.1fH%d", plotLeft, run.MaxY, plotRight)
			run.MaxX = float64(plotRight - 110*i) // limits may lie close together
			run.MaxLabel = "max " + num(rs[i].Max)
		}
		run.place(&c.Height)
		c.Runs = append(c.Runs, run)
	}
	spread(c.Runs)
	for n := 0.0; n <= top+yStep/2; n += yStep {
		c.YTicks = append(c.YTicks, mark{y(n), num(int(n))})
	}
	for n := 0.0; n <= worst+worstStep/2; n += worstStep {
		c.RefusedTicks = append(c.RefusedTicks, mark{z(n), num(int(n))})
	}
	for n, step := 0.0, niceTime(end/6); n <= end*1.001; n += step {
		label := span(n)
		if n == 0 {
			label = "0"
		}
		c.XTicks = append(c.XTicks, mark{x(n), label})
	}
	for i, name := range StateNames {
		c.Kinds = append(c.Kinds, kindKey{name, kindColours[i]})
	}
	return c
}

func newChartRun(rs []Result, i int) chartRun {
	r := &rs[i]
	run := chartRun{Result: r, Letter: letter(i), Colour: colours[i%len(colours)], Dash: dashes[i%len(dashes)],
		Served: servedText(r), Full: fullAfter(r), Memory: mib(r.Memory),
		Evicted: evicted(r), RefusedText: num(int(r.Refused)), PeakText: num(r.Peak), MaxText: num(r.Max)}
	run.Stack, run.Top = stack(r)
	return run
}

// place gives the run its lines of the legend: the name, then what it sets.
func (c *chartRun) place(height *int) {
	c.Row = float64(*height)
	what := c.Values
	if c.Name == c.Values {
		what = ""
	}
	if what == "" && c.Values == "" {
		what = fmt.Sprintf("max=%d,buckets=%d", c.Max, c.Buckets)
	}
	if what != "" {
		for _, l := range wrap(strings.ReplaceAll(what, ",", ", "), 78) {
			*height += legendLine
			c.Details = append(c.Details, mark{float64(*height), l})
		}
	}
	*height += legendRow
}

// spread moves the letters at the lines' ends apart.
func spread(runs []chartRun) {
	const apart = 15
	for i := range runs {
		for j := range i {
			if math.Abs(runs[i].LabelY-runs[j].LabelY) < apart {
				runs[i].LabelY = runs[j].LabelY + apart
			}
		}
	}
}

// path draws a line through points.
func path(n int, at func(int) (x, y float64)) string {
	var b strings.Builder
	for i := range n {
		x, y := at(i)
		fmt.Fprintf(&b, "%c%.1f %.1f", "LM"[b2i(i == 0)], x, y)
	}
	return b.String()
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// refusedRates are the packets refused a second, over time.
func refusedRates(r *Result, end float64) []float64 {
	const bins = 60
	if r.Refused == 0 || len(r.Points) == 0 {
		return nil
	}
	out := make([]float64, bins)
	before := uint64(0)
	for _, p := range r.Points {
		out[min(int(p.At/end*bins), bins-1)] += float64(p.Refused - before)
		before = p.Refused
	}
	for i := range out {
		out[i] *= bins / end
	}
	return out
}

// stack draws the kinds of entries over each other.
func stack(r *Result) (bands []band, top string) {
	const width, height = 400, 120
	var points []Point
	peak, end := 1, max(r.Seconds, 1)
	for _, p := range r.Points {
		if p.States != nil {
			points = append(points, p)
			peak = max(peak, p.Count)
		}
	}
	if len(points) < 2 {
		return nil, ""
	}
	below := make([]float64, len(points))
	for k := range StateNames {
		above := make([]float64, len(points))
		for i, p := range points {
			above[i] = below[i] + float64(p.States[k])
		}
		at := func(v []float64, i int) (float64, float64) {
			return points[i].At / end * width, height - v[i]/float64(peak)*height
		}
		up := path(len(points), func(i int) (float64, float64) { return at(above, i) })
		down := path(len(points), func(i int) (float64, float64) { return at(below, len(points)-1-i) })
		bands = append(bands, band{up + "L" + down[1:] + "Z", kindColours[k]})
		below = above
	}
	return bands, num(peak)
}

// wrap breaks a text at its blanks.
func wrap(s string, width int) (lines []string) {
	for len(s) > width {
		cut := strings.LastIndexByte(s[:width], ' ')
		if cut < 0 {
			break
		}
		lines = append(lines, s[:cut])
		s = s[cut+1:]
	}
	return append(lines, s)
}

// niceStep rounds up to 1, 2 or 5 times a power of ten.
func niceStep(x float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(max(x, 1))))
	for _, m := range []float64{1, 2, 5} {
		if x <= m*p {
			return m * p
		}
	}
	return 10 * p
}

func ceilTo(x, step float64) float64 { return math.Ceil(x/step) * step }

// niceTime rounds up to a time that people count in.
func niceTime(x float64) float64 {
	for _, s := range []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400} {
		if x <= s {
			return s
		}
	}
	return ceilTo(x, 86400)
}

var pictures = template.Must(template.Must(template.New("html").Parse(htmlText)).New("svg").Parse(svgText))
