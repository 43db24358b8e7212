package simulate

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// Forecast says what will become of a table as it is now.
type Forecast struct {
	Count     int64   `json:"count"`
	Max       int64   `json:"max"`
	Net       float64 `json:"net_per_second"`      // growth of the count
	FullIn    float64 `json:"full_in_seconds"`     // -1: not at this rate
	Admission float64 `json:"admission_when_full"` // odds of a newcomer, with today's mix
	Floods    []Flood `json:"floods"`              // how long it holds
	Survived  []Flood `json:"floods_survived"`     // the largest of each kind that never fills it
	Parts     []Part  `json:"parts"`               // what each timeout keeps
	Watched   float64 `json:"watched_seconds"`     // the time between the readings
	Limited   bool    `json:"limited"`             // false where max is 0
	Unsure    string  `json:"unsure,omitempty"`    // why the growth may mislead
}

// Flood is one kind of flood at one rate.
type Flood struct {
	Kind      string  `json:"kind"`
	PerSecond float64 `json:"per_second"`
	FullAfter float64 `json:"full_after_seconds"` // -1: never, its entries expire as fast as they come
	Then      string  `json:"then"`               // what the kernel does when the table is full
}

// Part is what one timeout keeps in the table.
type Part struct {
	Timeout string `json:"timeout"`
	Seconds int32  `json:"seconds"`
	Entries int64  `json:"entries"`
	// Halved is what it would keep with half the timeout.
	Halved int64 `json:"entries_with_half"`
}

// Predict makes a forecast from two readings.
func Predict(s *ct.Snapshot) (Forecast, error) {
	l := s.Limits
	if !l.Count.Known || !l.Max.Known {
		return Forecast{}, fmt.Errorf("%w: count or limit could not be read", ErrNoTable)
	}
	f := Forecast{Count: l.Count.N, Max: l.Max.N, FullIn: -1, Limited: l.Max.N > 0}
	if r := s.Rates; r != nil && r.Interval > 0 && r.CountStart.Known && r.CountEnd.Known {
		f.Watched = r.Interval.Seconds()
		f.Net = float64(r.CountEnd.N-r.CountStart.N) / f.Watched
		if f.Watched < 30 {
			f.Unsure = fmt.Sprintf("the growth was watched for %.0f s only: watch longer with --observe", f.Watched)
		}
	}
	room := float64(f.Max - f.Count)
	if f.Limited && f.Net > 0 {
		f.FullIn = max(room, 0) / f.Net
	}
	if c := s.Census; c != nil && f.Limited {
		unassured := 1 - c.Share(c.Sum(func(k ct.ClassKey) bool { return k.Assured }))
		f.Admission = ct.EarlyDropOdds(s.Version, unassured, f.Max, l.Buckets.Or(0))
	}
	if f.Limited {
		f.floods(s, room)
	}
	f.parts(s)
	return f, nil
}

// lingers is for how many seconds an expired entry may still count: until
// garbage collection passes (gc_worker).
func lingers(v ct.KernelVersion) float64 {
	if v.AtLeast(5, 15) && !v.AtLeast(5, 18) {
		return 120
	}
	return 60
}

// floods answers "how big a flood can this table take": a flood of entries that
// count for T seconds fills the room only if its rate times T exceeds it.
func (f *Forecast) floods(s *ct.Snapshot, room float64) {
	room = max(room, 0)
	evicts := "the kernel evicts its own kind where it finds it"
	if c := s.Census; c != nil {
		// What fills the room can be evicted, and what could be before.
		assured := c.Share(c.Sum(func(k ct.ClassKey) bool { return k.Assured })) * float64(f.Count)
		odds := ct.EarlyDropOdds(s.Version, 1-min(assured/float64(f.Max), 1), f.Max, s.Limits.Buckets.Or(0))
		evicts = fmt.Sprintf("the kernel evicts its own kind: %.0f %% of newcomers get in", 100*odds)
	}
	for _, k := range []struct {
		kind    string
		timeout ct.TimeoutKey
		then    string
	}{
		{"spoofed SYN", ct.TimeoutTCPSynRecv, evicts},
		{"unanswered UDP", ct.TimeoutUDP, evicts},
		{"finished handshakes, then silence", ct.TimeoutTCPEstablished, "nothing can be evicted: new connections are refused"},
	} {
		seconds, ok := s.Timeouts.Get(k.timeout)
		if !ok {
			continue
		}
		const expires = "its entries expire as fast as they come"
		counts := float64(seconds) + lingers(s.Version)
		for _, rate := range []float64{1000, 10000, 100000} {
			fl := Flood{Kind: k.kind, PerSecond: rate, FullAfter: -1, Then: k.then}
			if rate*counts > room {
				fl.FullAfter = room / rate
			} else {
				fl.Then = expires
			}
			f.Floods = append(f.Floods, fl)
		}
		f.Survived = append(f.Survived, Flood{Kind: k.kind, PerSecond: room / counts, FullAfter: -1, Then: expires})
	}
}

// parts sums the entries by the timeout that keeps them.
func (f *Forecast) parts(s *ct.Snapshot) {
	if s.Census == nil || s.Census.Entries == 0 {
		return
	}
	by := make(map[ct.TimeoutKey]uint64)
	for _, c := range s.Census.Classes {
		st := ct.Status(0)
		if c.Assured {
			st = ct.StatusAssured
		}
		if k, ok := ct.StateTimeout(c.Proto, c.State, st); ok {
			by[k] += c.Entries
		}
	}
	scale := float64(f.Count) / float64(s.Census.Entries)
	for k := range ct.NumTimeouts {
		n := int64(float64(by[k])*scale + 0.5)
		seconds, ok := s.Timeouts.Get(k)
		if n == 0 || !ok {
			continue
		}
		// An entry in use is renewed, whatever its timeout; one in a closing
		// state only waits.
		half := n
		switch k {
		case ct.TimeoutTCPEstablished, ct.TimeoutUDPStream, ct.TimeoutGREStream, ct.TimeoutSCTPEstablished:
		default:
			half = (n + 1) / 2
		}
		f.Parts = append(f.Parts, Part{k.String(), seconds, n, half})
	}
}

// WriteText prints a forecast for a person.
func (f *Forecast) WriteText(w io.Writer) error {
	var b strings.Builder
	switch {
	case !f.Limited:
		fmt.Fprintf(&b, "The table has no limit; %s entries are in use.\n", num(int(f.Count)))
	case f.Count >= f.Max:
		fmt.Fprintf(&b, "The table is full: %s of %s entries.\n", num(int(f.Count)), num(int(f.Max)))
	case f.FullIn >= 0:
		fmt.Fprintf(&b, "At the present growth of %.1f entries a second the table is full in %s.\n", f.Net, span(f.FullIn))
	default:
		fmt.Fprintf(&b, "The table does not grow: %s of %s entries are in use.\n", num(int(f.Count)), num(int(f.Max)))
	}
	if f.Unsure != "" && f.FullIn >= 0 {
		fmt.Fprintf(&b, "Take that with care: %s.\n", f.Unsure)
	}
	if len(f.Floods) > 0 {
		b.WriteString("\nHow long it holds against a flood\n")
		rows := [][]string{{"", "", "a second", "full after", "then"}}
		for _, fl := range f.Floods {
			after := "never"
			if fl.FullAfter >= 0 {
				after = span(fl.FullAfter)
			}
			rows = append(rows, []string{" ", fl.Kind, num(int(fl.PerSecond)), after, fl.Then})
		}
		table(&b, rows)
		var most []string
		for _, fl := range f.Survived {
			most = append(most, fmt.Sprintf("%s up to %s a second", fl.Kind, atMost(fl.PerSecond)))
		}
		fmt.Fprintf(&b, "Never full by: %s.\n", strings.Join(most, "; "))
	}
	if len(f.Parts) > 0 {
		b.WriteString("\nWhat each timeout keeps in the table\n")
		rows := [][]string{{"", "timeout", "seconds", "entries", "with half of it"}}
		for _, p := range f.Parts {
			rows = append(rows, []string{" ", p.Timeout, num(int(p.Seconds)), num(int(p.Entries)), num(int(p.Halved))})
		}
		table(&b, rows)
		b.WriteString("Connections in use are renewed with each packet, so a shorter timeout frees only the silent ones among them.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// atMost rounds a rate down.
func atMost(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.1f", math.Floor(rate*10)/10)
	}
	return num(int(rate))
}

// Horizon is the default length of a recorded workload.
const Horizon = 10 * time.Minute
