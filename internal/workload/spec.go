// Package workload describes traffic as classes of connections, and generates
// it packet by packet, reproducibly, for the model of connection tracking.
package workload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/ctwarden/ctwarden/ct"
)

// Version of the file format; files of a later one are refused.
const Version = 1

// Spec is a workload file.
type Spec struct {
	Version  int      `yaml:"version"`
	Title    string   `yaml:"title,omitempty"`
	Seed     uint64   `yaml:"seed,omitempty"`
	Duration Duration `yaml:"duration"`
	Classes  []Class  `yaml:"classes"`
}

// Kind is how the connections of a class go.
type Kind string

// Kinds of classes.
const (
	KindTCP       Kind = "tcp"             // handshake, exchanges, an end
	KindUDP       Kind = "udp"             // requests, each answered
	KindPing      Kind = "ping"            // echo requests, each answered
	KindSYNFlood  Kind = "syn-flood"       // single SYNs, never answered or finished
	KindUDPFlood  Kind = "udp-flood"       // single datagrams without an answer
	KindPingFlood Kind = "ping-flood"      // single echo requests without an answer
	KindACKFlood  Kind = "ack-flood"       // single ACKs of no connection
	KindRSTFlood  Kind = "rst-flood"       // single resets of no connection
	KindSCTPFlood Kind = "sctp-flood"      // single INITs, never answered
	KindGREFlood  Kind = "gre-flood"       // single GRE packets without a call: one entry for two addresses
	KindHandshake Kind = "handshake-flood" // finished handshakes, then silence
	KindScan      Kind = "scan"            // SYNs to ever other destinations
)

// flood reports whether the kind is an attack by nature.
func (k Kind) flood() bool {
	return k.single() || k == KindHandshake || k == KindScan
}

// single reports whether each packet is a connection of its own, which nobody
// answers or sends again.
func (k Kind) single() bool {
	switch k {
	case KindSYNFlood, KindUDPFlood, KindPingFlood, KindACKFlood, KindRSTFlood, KindSCTPFlood, KindGREFlood:
		return true
	}
	return false
}

// kinds are all there are, in the order in which they are told.
var kinds = []Kind{
	KindTCP, KindUDP, KindPing, KindSYNFlood, KindUDPFlood, KindPingFlood, KindACKFlood,
	KindRSTFlood, KindSCTPFlood, KindGREFlood, KindHandshake, KindScan,
}

func kindNames() string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

// Class is one class of traffic.
type Class struct {
	Name string `yaml:"name"`
	Kind Kind   `yaml:"kind"`
	// Legitimate says whose loss matters; it defaults to true for all kinds
	// that are no flood.
	Legitimate *bool `yaml:"legitimate,omitempty"`
	// Start and Stop bound the time in which connections begin; Stop 0 is the
	// end of the workload.
	Start Duration `yaml:"start,omitempty"`
	Stop  Duration `yaml:"stop,omitempty"`

	Arrivals Arrivals `yaml:"arrivals"`
	// Sources is the prefix from which connections come; SourceCount of its
	// addresses are used, 0 for all.
	Sources     netip.Prefix `yaml:"sources"`
	SourceCount uint32       `yaml:"source_count,omitempty"`
	// Destinations is where they go: a prefix and a port or a range of ports.
	Destinations netip.Prefix `yaml:"destinations"`
	Ports        Ports        `yaml:"ports,omitempty"`

	// Lifetime of a connection, and the time between two exchanges within it
	// (each a packet and its answer); a pause of 0 is one exchange only.
	Lifetime Distribution `yaml:"lifetime,omitempty"`
	Pause    Distribution `yaml:"pause,omitempty"`
	// RoundTrip is the time from a packet to its answer.
	RoundTrip Duration `yaml:"round_trip,omitempty"`
	// End is how connections end; Unanswered the share, 0 to 1, of them that
	// nobody answers.
	End        End     `yaml:"end,omitempty"`
	Unanswered float64 `yaml:"unanswered,omitempty"`
	// Retries is how often a client sends a SYN or a request again that has
	// been refused, after 1, 2, 4 … seconds, as Linux does.
	Retries int `yaml:"retries,omitempty"`
}

// IsLegitimate tells whose loss matters.
func (c *Class) IsLegitimate() bool {
	if c.Legitimate != nil {
		return *c.Legitimate
	}
	return !c.Kind.flood()
}

// Process is how connections arrive.
type Process string

// Arrival processes.
const (
	Constant Process = "constant" // evenly spaced
	Poisson  Process = "poisson"  // independent of each other
	Diurnal  Process = "diurnal"  // Poisson; the rate follows a day, between Low and Rate
	Burst    Process = "burst"    // Poisson; on for On, off for Off, by turns
)

// Arrivals is an arrival process.
type Arrivals struct {
	Process Process  `yaml:"process,omitempty"` // poisson if empty
	Rate    Rate     `yaml:"rate"`              // connections a second, at the peak
	Low     Rate     `yaml:"low,omitempty"`     // diurnal: at the lowest, 12 hours from the peak
	Peak    Duration `yaml:"peak,omitempty"`    // diurnal: time of day of the peak; the workload begins at midnight
	On      Duration `yaml:"on,omitempty"`      // burst
	Off     Duration `yaml:"off,omitempty"`     // burst
	// Initial connections exist at the start, spread over their lifetime.
	Initial int `yaml:"initial,omitempty"`
}

// Shape is a family of distributions.
type Shape string

// Shapes of distributions.
const (
	Fixed       Shape = "fixed"
	Exponential Shape = "exponential"
	Lognormal   Shape = "lognormal" // Sigma is that of the logarithm
	Pareto      Shape = "pareto"    // Sigma is the exponent, above 1
	Uniform     Shape = "uniform"   // between Min and Max
)

// Distribution of a time.
type Distribution struct {
	Shape Shape    `yaml:"shape,omitempty"` // fixed if empty
	Mean  Duration `yaml:"mean,omitempty"`
	Sigma float64  `yaml:"sigma,omitempty"`
	Min   Duration `yaml:"min,omitempty"`
	Max   Duration `yaml:"max,omitempty"` // also cuts the other shapes; 0 is no cut
}

// End is how a TCP connection ends.
type End string

// Ends of connections.
const (
	EndFIN       End = "fin"    // both sides close; the default
	EndRST       End = "rst"    // a reset
	EndVanish    End = "vanish" // silence: the client is gone
	EndHalfClose End = "half-close"
)

// Duration is a time.Duration that is written "90s", "2h" or "5d".
type Duration time.Duration

// UnmarshalText reads a duration, with "d" for days.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || n < 0 || n > 36500 {
			return fmt.Errorf("%q is not a number of days", s)
		}
		*d = Duration(n * 24 * float64(time.Hour))
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 250ms, 90s, 2h or 5d", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Multiply makes the arrivals of every class so many times as many, and the
// connections that exist at the start. Call Validate afterwards.
func (s *Spec) Multiply(times float64) {
	for i := range s.Classes {
		a := &s.Classes[i].Arrivals
		a.Rate, a.Low = a.Rate*Rate(times), a.Low*Rate(times)
		a.Initial = int(min(math.Round(float64(a.Initial)*times), math.MaxInt32))
	}
}

// Rate is a number a second, written "200/s", "12/min" or "5/h".
type Rate float64

// UnmarshalText reads a rate.
func (r *Rate) UnmarshalText(b []byte) error {
	s := string(b)
	num, unit, _ := strings.Cut(s, "/")
	n, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	per := map[string]float64{"": 1, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}[unit]
	if err != nil || per == 0 || n < 0 || n > 1e9 {
		return fmt.Errorf("%q is not a rate such as 200/s, 12/min or 5/h", s)
	}
	*r = Rate(n / per)
	return nil
}

// MarshalText writes the rate a second.
func (r Rate) MarshalText() ([]byte, error) {
	return []byte(strconv.FormatFloat(float64(r), 'g', 6, 64) + "/s"), nil
}

// Ports is one port or a range of ports, "443" or "1024-65535".
type Ports struct{ First, Last uint16 }

// UnmarshalText reads a port or a range.
func (p *Ports) UnmarshalText(b []byte) error {
	lo, hi, ranged := strings.Cut(string(b), "-")
	if !ranged {
		hi = lo
	}
	a, err1 := strconv.ParseUint(strings.TrimSpace(lo), 10, 16)
	z, err2 := strconv.ParseUint(strings.TrimSpace(hi), 10, 16)
	if err1 != nil || err2 != nil || a > z {
		return fmt.Errorf("%q is neither a port nor a range of ports", b)
	}
	*p = Ports{uint16(a), uint16(z)}
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (p Ports) MarshalText() ([]byte, error) {
	if p.First == p.Last {
		return []byte(strconv.Itoa(int(p.First))), nil
	}
	return fmt.Appendf(nil, "%d-%d", p.First, p.Last), nil
}

func (p Ports) count() uint32 { return uint32(p.Last-p.First) + 1 }

// maxFile bounds a workload file.
const maxFile = 1 << 20

// Parse reads a workload file and checks it. Errors name the line or the
// field, and what is allowed.
func Parse(r io.Reader) (*Spec, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("workload is larger than %d bytes", maxFile)
	}
	var s Spec
	if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&s); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("workload is empty")
		}
		return nil, located(data, err)
	}
	if errs := s.check(); len(errs) > 0 {
		return nil, errors.Join(withLines(data, errs)...)
	}
	return &s, nil
}

// Write writes a workload file.
func (s *Spec) Write(w io.Writer) error {
	data, err := yaml.Marshal(s)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// maxDuration keeps times within what the model's clock holds.
const maxDuration = 10 * 365 * 24 * time.Hour

// Validate checks every field. The error lists all that is wrong.
func (s *Spec) Validate() error {
	var errs []error
	for _, e := range s.check() {
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

func (s *Spec) check() (errs []*FieldError) {
	bad := func(field, format string, args ...any) {
		errs = append(errs, &FieldError{Path: field, Text: fmt.Sprintf(format, args...)})
	}
	if s.Version != Version {
		bad("version", "%d is not understood; write version: %d", s.Version, Version)
	}
	if s.Duration <= 0 || time.Duration(s.Duration) > maxDuration {
		bad("duration", "must be above 0 and at most ten years")
	}
	if len(s.Classes) == 0 || len(s.Classes) > maxClasses {
		bad("classes", "there must be 1 to %d of them", maxClasses)
	}
	names := make(map[string]bool)
	for i := range s.Classes {
		c := &s.Classes[i]
		badIn := func(f, format string, args ...any) {
			bad(fmt.Sprintf("classes[%d].%s", i, f), format, args...)
			errs[len(errs)-1].Class = c.Name
		}
		if c.Name == "" || names[c.Name] {
			badIn("name", "each class needs a name of its own")
		}
		names[c.Name] = true
		c.validate(badIn)
	}
	return errs
}

// maxClasses fits the tag that the model keeps with an entry.
const maxClasses = 255

func (c *Class) validate(bad func(field, format string, args ...any)) {
	if !slices.Contains(kinds, c.Kind) {
		bad("kind", "%q is none of %s", c.Kind, kindNames())
	}
	switch c.End {
	case "", EndFIN, EndRST, EndVanish, EndHalfClose:
	default:
		bad("end", "%q is none of fin, rst, vanish, half-close", c.End)
	}
	switch {
	case !c.Sources.IsValid():
		bad("sources", "must be a prefix such as 10.0.0.0/16")
	case !c.Destinations.IsValid():
		bad("destinations", "must be a prefix such as 192.0.2.1/32")
	case c.Sources.Addr().Is4() != c.Destinations.Addr().Is4():
		bad("destinations", "sources and destinations must be of one family")
	}
	if c.Unanswered < 0 || c.Unanswered > 1 {
		bad("unanswered", "%g is not a share from 0 to 1", c.Unanswered)
	}
	if c.Retries < 0 || c.Retries > 10 {
		bad("retries", "%d is not between 0 and 10", c.Retries)
	}
	if c.Stop != 0 && c.Stop <= c.Start {
		bad("stop", "is not after start")
	}
	c.Arrivals.validate(bad)
	c.Lifetime.validate("lifetime", bad)
	c.Pause.validate("pause", bad)
}

func (a *Arrivals) validate(bad func(field, format string, args ...any)) {
	switch a.Process {
	case "", Constant, Poisson:
	case Diurnal:
		if a.Low > a.Rate {
			bad("arrivals.low", "is above rate")
		}
	case Burst:
		if a.On <= 0 || a.Off <= 0 {
			bad("arrivals", "a burst needs on and off")
		}
	default:
		bad("arrivals.process", "%q is none of constant, poisson, diurnal, burst", a.Process)
	}
	if a.Rate <= 0 && a.Initial <= 0 {
		bad("arrivals.rate", "must be above 0 unless there are initial connections")
	}
	if a.Initial < 0 || a.Initial > 1<<27 {
		bad("arrivals.initial", "%d is not between 0 and %d", a.Initial, 1<<27)
	}
}

func (d *Distribution) validate(name string, bad func(field, format string, args ...any)) {
	switch d.Shape {
	case "", Fixed, Exponential:
	case Lognormal:
		if d.Sigma <= 0 || d.Sigma > 10 {
			bad(name+".sigma", "a lognormal distribution needs a sigma above 0 and at most 10")
		}
	case Pareto:
		if d.Sigma <= 1 || d.Sigma > 100 {
			bad(name+".sigma", "a pareto distribution needs an exponent above 1")
		}
	case Uniform:
		if d.Max < d.Min {
			bad(name+".max", "is below min")
		}
	default:
		bad(name+".shape", "%q is none of fixed, exponential, lognormal, pareto, uniform", d.Shape)
	}
	if d.Max != 0 && d.Max < d.Min {
		bad(name+".max", "is below min")
	}
}

// proto is the protocol of a class's packets.
func (c *Class) proto() ct.Proto {
	switch c.Kind {
	case KindUDP, KindUDPFlood:
		return ct.UDP
	case KindPing, KindPingFlood:
		if c.Sources.Addr().Is6() {
			return ct.ICMPv6
		}
		return ct.ICMP
	case KindSCTPFlood:
		return ct.SCTP
	case KindGREFlood:
		return ct.GRE
	}
	return ct.TCP
}
