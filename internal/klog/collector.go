package klog

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"time"
)

// Collector reads sources one after another and reports on all of them. Its
// memory is bounded whatever they hold. It is not safe for concurrent use.
type Collector struct {
	opts     Options
	finder   *finder
	families []*family
	sources  []Source
	skipped  Skipped
}

// family is what sources that continue one another hold.
type family struct {
	name  string
	tally *tally
	boot  time.Time
	// realOffset is wall time less kernel time, of the latest line that has
	// both, offsetAt on the kernel's clock.
	realOffset int64
	offsetAt   int64
	hasOffset  bool
}

// NewCollector returns a collector without sources.
func NewCollector(o Options) *Collector {
	if o.Location == nil {
		o.Location = time.UTC
	}
	o.Gap = cmp.Or(o.Gap, DefaultGap)
	return &Collector{opts: o, finder: newFinder(needles)}
}

// Feed reads a source to its end. An error ends the source, is noted in the
// report and returned; what was read before it counts.
func (c *Collector) Feed(name string, r io.Reader, h Hints) error {
	f := &feed{
		c: c, fam: c.family(cmp.Or(h.Family, name)), tally: newTally(),
		source: int32(len(c.sources)), hosts: map[string]string{},
		clock: clock{loc: c.opts.Location, anchor: c.anchor(h)},
	}
	if !h.Boot.IsZero() {
		f.fam.boot = h.Boot
	}
	c.sources = append(c.sources, Source{Name: name})
	err := f.read(r)
	f.finish(err)
	if err != nil {
		return fmt.Errorf("read log %q: %w", name, err)
	}
	return nil
}

// anchor is the latest time a line of the source can have.
func (c *Collector) anchor(h Hints) time.Time {
	now := c.opts.Now
	if h.ModTime.IsZero() || !now.IsZero() && h.ModTime.After(now) {
		return now
	}
	return h.ModTime
}

func (c *Collector) family(name string) *family {
	for _, f := range c.families {
		if f.name == name {
			return f
		}
	}
	f := &family{name: name, tally: newTally()}
	c.families = append(c.families, f)
	return f
}

// feed is the reading of one source.
type feed struct {
	c      *Collector
	fam    *family
	source int32
	tally  *tally
	clock  clock
	hosts  map[string]string
	lines  lineFinder
	done   int64 // up to where matches have been taken
	bytes  int64
	hits   []int

	from, to axisTime
	matched  uint64
}

// axisTime is a position with its axis.
type axisTime struct {
	axis  axis
	pos   int64
	known bool
}

func (f *feed) read(r io.Reader) error {
	stop := make(chan struct{})
	defer close(stop)
	blocks, free := readAhead(r, stop)
	var before *block // holds the end of what was searched
	var w window
	for b := range blocks {
		keep := min(len(w.b), 2*reach)
		start := 2*reach - keep
		copy(b.buf[start:], w.b[len(w.b)-keep:])
		w.base += int64(len(w.b) - keep)
		w.b, w.final = b.buf[start:2*reach+b.n], b.last
		f.bytes += int64(b.n)
		if before != nil {
			free <- before
		} else {
			f.from = f.firstTime(w.b)
		}
		before = b
		f.search(&w)
		if b.last {
			f.to = f.lastTime(w.b)
			return b.err
		}
	}
	return nil
}

// search takes the messages in the window, except those so near its end that
// their lines may not be complete; these come again in the next one.
func (f *feed) search(w *window) {
	f.hits = f.c.finder.find(w.b, f.hits[:0])
	limit := len(w.b)
	if !w.final {
		limit -= reach
	}
	for _, i := range f.hits {
		if i >= limit {
			break
		}
		if w.base+int64(i) < f.done {
			continue
		}
		f.done = w.base + int64(i) + 1
		from, to, ok := f.lines.around(w, i)
		if !ok {
			f.c.skipped.TooLong++
			continue
		}
		f.done = w.base + int64(to)
		f.take(w, from, to)
	}
}

// take judges one line.
func (f *feed) take(w *window, from, to int) {
	p, message, ok := f.split(w, from, to)
	var e event
	if ok {
		e, ok = classify(p.program, message)
	}
	if !ok {
		f.c.skipped.NotKernel++
		return
	}
	f.count(&p, &e)
	if n := lastRepeated(w.next(to)); n > 0 {
		e.times = n
		f.count(&p, &e)
	}
}

// lastRepeated reads how often syslogd says the line before was repeated.
func lastRepeated(line []byte) uint64 {
	i := bytes.Index(line[:min(len(line), 256)], []byte("last message repeated "))
	if i < 0 {
		return 0
	}
	c := &cursor{line[i+len("last message repeated "):]}
	n, ok := c.number(1, 9)
	if !ok || !c.literal(" time") {
		return 0
	}
	return uint64(n)
}

// split finds prefix and message in whatever format the line has.
func (f *feed) split(w *window, from, to int) (prefix, []byte, bool) {
	line := trimLine(w.b[from:to])
	switch {
	case bytes.HasPrefix(line, []byte("MESSAGE=")):
		b, at := w.near(from, to)
		if from < to && (w.b[from] == ' ' || w.b[from] == '\t') {
			return fromRecord(parseFields(indented(b, at)))
		}
		return fromRecord(parseFields(paragraph(b, at)))
	case bytes.HasPrefix(line, []byte(`"MESSAGE" : `)):
		b, at := w.near(from, to)
		return fromRecord(parseJSON(braced(b, at)))
	}
	line = bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("\x1e")), []byte("data: "))
	if len(line) > 0 && line[0] == '{' {
		return fromRecord(parseJSON(line))
	}
	p, message, ok := parseLine(line)
	if ok && message[0] == '{' {
		inner, m, ok := fromRecord(parseJSON(message))
		inner.inherit(&p)
		return inner, m, ok
	}
	return p, message, ok
}

// fromRecord turns a record into what a line gives. A message without program
// may be a whole line of another format, as docker's are.
func fromRecord(r record, ok bool) (prefix, []byte, bool) {
	if !ok {
		return prefix{}, nil, false
	}
	if len(r.transport) > 0 && string(r.transport) != "kernel" && string(r.program) == "kernel" {
		return prefix{}, nil, false // anybody may call himself that
	}
	message := trimLine(r.message)
	if len(r.program) > 0 {
		c := &cursor{message}
		c.kernelStamps(&r.prefix)
		return r.prefix, c.s, true
	}
	inner, m, ok := parseLine(message)
	inner.inherit(&r.prefix)
	return inner, m, ok
}

func (f *feed) count(p *prefix, e *event) {
	a, pos := f.clock.place(&p.stamp)
	if a == axisUnix && p.stamp.hasMono {
		f.fam.noteOffset(pos, p.stamp.mono)
	}
	k := key{kind: e.kind, axis: a, host: f.intern(p.host), netns: e.netns, detail: e.detail}
	if !f.tally.add(k, pos, e, f.source) {
		f.c.skipped.Overflow++
		return
	}
	f.matched++
}

func (f *family) noteOffset(wall, mono int64) {
	if !f.hasOffset || wall > f.realOffset+f.offsetAt {
		f.realOffset, f.offsetAt, f.hasOffset = wall-mono, mono, true
	}
}

func (f *feed) intern(host []byte) string {
	if h, ok := f.hosts[string(host)]; ok {
		return h
	}
	h := string(host)
	if len(f.hosts) < maxKeys {
		f.hosts[h] = h
	}
	return h
}

// firstTime is the time of the first line that has one, of the first ten.
func (f *feed) firstTime(b []byte) axisTime {
	for range 10 {
		var line []byte
		var more bool
		line, b, more = bytes.Cut(b[:min(len(b), reach)], []byte("\n"))
		if t := f.timeOf(line); t.known || !more {
			return t
		}
	}
	return axisTime{}
}

// lastTime is the time of the last line that has one, of the last ten.
func (f *feed) lastTime(b []byte) axisTime {
	b = bytes.TrimRight(b[max(0, len(b)-reach):], "\x00\r\n \t")
	for range 10 {
		i := bytes.LastIndexByte(b, '\n')
		if t := f.timeOf(b[i+1:]); t.known || i < 0 {
			return t
		}
		b = b[:i]
	}
	return axisTime{}
}

func (f *feed) timeOf(line []byte) axisTime {
	line = trimLine(line)
	var s stamp
	if len(line) > 0 && line[0] == '{' {
		r, _ := parseJSON(line)
		s = r.stamp
	} else if p, _, ok := parseLine(line); ok {
		s = p.stamp
	}
	if s.form == formNone && !s.hasMono {
		return axisTime{}
	}
	a, pos := f.clock.place(&s)
	return axisTime{a, pos, true}
}

// finish gives the source's lines their years and hands them to the family.
func (f *feed) finish(err error) {
	years := f.clock.years()
	move := func(a axis, pos int64) (axis, int64) {
		if years == nil || a != axisYearless && a != axisFold {
			return a, pos
		}
		return axisUnix, f.clock.instant(a, pos, years[min(pos/lapLen, int64(len(years)-1))])
	}
	f.c.skipped.Overflow += f.fam.tally.absorb(f.tally, move)
	s := &f.c.sources[f.source]
	s.Bytes, s.Matched = f.bytes, f.matched
	s.From, s.To = f.wall(move, f.from), f.wall(move, f.to)
	if s.From.After(s.To) { // newest first
		s.From, s.To = s.To, s.From
	}
	if err != nil {
		s.Error = err.Error()
	}
}

func (f *feed) wall(move func(axis, int64) (axis, int64), t axisTime) time.Time {
	if !t.known {
		return time.Time{}
	}
	switch a, pos := move(t.axis, t.pos); {
	case a == axisUnix:
		return time.Unix(0, pos).In(f.c.opts.Location)
	case a == axisMono && !f.fam.boot.IsZero():
		return f.fam.boot.Add(time.Duration(pos)).In(f.c.opts.Location)
	}
	return time.Time{}
}
