// Package tune turns what was seen of a machine into a plan, carries the plan
// out on trial, keeps it or takes it back, and judges settings that others
// wrote.
//
// New is pure: a snapshot and options in, a value out. Everything that touches
// the machine goes through the small interfaces beside its user.
package tune

import (
	"fmt"
	"time"

	"github.com/ctwarden/ctwarden/ct"
)

// PlanSchema names the JSON form of a [Plan].
const PlanSchema = "ctwarden.plan/1"

// Names of settings that are more than a timeout.
const (
	Prefix     = "net.netfilter.nf_conntrack_"
	KeyMax     = Prefix + "max"
	KeyCount   = Prefix + "count"
	KeyBuckets = Prefix + "buckets"
	// KeyHashsize is written instead of KeyBuckets before 4.7, where that is
	// read-only.
	KeyHashsize = "/sys/module/nf_conntrack/parameters/hashsize"

	keyLoose      = Prefix + "tcp_loose"
	keyLiberal    = Prefix + "tcp_be_liberal"
	keyMaxRetrans = Prefix + "tcp_max_retrans"
	keyAcct       = Prefix + "acct"
	keyLogInvalid = Prefix + "log_invalid"
	keyExpectMax  = Prefix + "expect_max"
)

// TimeoutSetting is the sysctl of a timeout.
func TimeoutSetting(k ct.TimeoutKey) string { return Prefix + k.String() }

// Options are what the user knows and the machine does not show.
type Options struct {
	// For is what the machine does; RoleAuto, the zero value, finds out.
	For Role
	// PeakNew is the peak of new flows a second to plan for; 0 takes what was
	// seen, times [PeakFactor].
	PeakNew float64
	// MemoryShare is the part of the machine's memory that a full table may
	// take, 0 to 1; 0 means [DefaultMemoryShare].
	MemoryShare float64
	// KeepIdle is how long an idle connection must live; 0 if nothing is known.
	KeepIdle time.Duration
	// FloodRate is the flood of the survival table, flows a second; 0 means
	// [DefaultFloodRate].
	FloodRate float64
	// BusyNetns are the namespaces that could fill their tables at one time;
	// the limit applies to each. 0 means 1.
	BusyNetns int
	// OtherEntries are those of all other namespaces: the garbage collector
	// paces itself by the mean of the whole host.
	OtherEntries int64
	// Unreached names other namespaces with entries, which no timeout of this
	// plan reaches.
	Unreached []string
	// Owners says who else sets a value; may be nil.
	Owners Owners
	// Actors are programs that run on the machine and act on connection
	// tracking, a sentence each.
	Actors []string
}

// What an option means when it is not given.
const (
	DefaultMemoryShare = 0.05
	DefaultFloodRate   = 10_000
	// PeakFactor is how much higher than a short reading the peak of a day is
	// taken to be.
	PeakFactor = 2
	// targetFill is how full the table is at the planned peak: below it a
	// burst of half the peak still fits.
	targetFill = 0.66
	// tightFill is the part of the table that the peak must need before any
	// timeout is shortened: elsewhere there is nothing to gain.
	tightFill = 0.4
)

// Claim is somebody else's word on a setting.
type Claim struct {
	Who   string `json:"who"`   // "ufw", "kube-proxy", "sysctl.d"
	Where string `json:"where"` // "/etc/ufw/sysctl.conf:12"
	Value string `json:"value,omitempty"`
	// Wins is set if it would prevail at the next boot, or at its next write,
	// over /etc/sysctl.d/90-ctwarden.conf.
	Wins bool `json:"wins"`
	// Advice is what to set there instead.
	Advice string `json:"advice,omitempty"`
}

// Owners knows who else sets connection-tracking settings on a machine.
type Owners interface {
	// Claims returns what others say of a setting, given by its full name.
	Claims(key string) []Claim
}

// Plan is what to change on one machine, priced, with reasons.
type Plan struct {
	Schema string    `json:"schema"`
	Time   time.Time `json:"time"`
	Host   string    `json:"host"`
	Kernel string    `json:"kernel"`
	Netns  ct.Netns  `json:"netns"`

	Role    Role   `json:"role"`
	RoleWhy string `json:"role_why"`
	Demand  Demand `json:"demand"`

	// Items are to be written, in this order: buckets, max, the rest.
	Items []Item `json:"items"`
	// Optional would help diagnosis and costs something; it is not applied.
	Optional []Item `json:"optional,omitempty"`
	// Kept is what stays as it is, and why.
	Kept []Kept `json:"kept"`
	// Survival compares floods before and after.
	Survival []Survival `json:"survival"`
	// Buckets weighs the sizes of the hash table that were considered.
	Buckets []BucketChoice `json:"bucket_choices,omitempty"`
	// Rules are firewall rules that cost more than they must. No plan changes
	// them.
	Rules []RuleNote `json:"rules,omitempty"`

	Unreached []string `json:"unreached_namespaces,omitempty"`
	// Actors are programs that run here and act on connection tracking.
	Actors []string `json:"actors,omitempty"`
	// Warnings are what the plan cannot cure or could not know.
	Warnings []string `json:"warnings,omitempty"`
}

// Item is one setting to write.
type Item struct {
	Key  string `json:"key"`
	From string `json:"from"` // "" if it could not be read
	To   string `json:"to"`
	// ActsOn says which entries the setting governs.
	ActsOn string `json:"acts_on,omitempty"`
	Why    string `json:"why"`
	Risk   string `json:"risk"` // what could break
	// MemoryBytes is what it costs more than before when the table is full.
	MemoryBytes int64 `json:"memory_bytes"`
	// Global is set if there is one value for the host, whatever the namespace.
	Global bool `json:"global"`
	// Live is set if it can be written on the running system.
	Live   bool    `json:"live"`
	Claims []Claim `json:"claims,omitempty"`
}

// Kept is a setting that the plan leaves alone.
type Kept struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
	Why   string `json:"why"`
}

// New computes the plan for a machine. It fails only where there is nothing to
// plan for: no connection tracking.
func New(s *ct.Snapshot, o Options) (*Plan, error) {
	if s.Tracking.ModuleLoaded == ct.No || !s.Limits.Max.Known {
		return nil, ErrNoTracking
	}
	o = o.withDefaults()
	p := &Plan{Schema: PlanSchema, Time: s.Time, Host: s.Host, Kernel: s.Release,
		Netns: s.Netns, Unreached: o.Unreached, Actors: o.Actors}
	p.Role, p.RoleWhy = roleOf(s, o.For)
	b := &builder{s: s, o: o, p: p, floors: floorsFor(p.Role, s), planned: s.Timeouts}
	b.demand()
	b.tight = s.Limits.Max.N > 0 && p.Demand.PeakBefore >= tightFill*float64(s.Limits.Max.N)
	b.timeouts()
	b.knobs()
	b.size()
	b.survival()
	b.order()
	p.Rules = ruleNotes(&s.Tracking)
	b.warnings()
	return p, nil
}

// ErrNoTracking is returned where the kernel does not track connections.
var ErrNoTracking = fmt.Errorf("connection tracking is not loaded on this machine, so there is nothing to tune")

func (o Options) withDefaults() Options {
	if o.MemoryShare == 0 {
		o.MemoryShare = DefaultMemoryShare
	}
	if o.FloodRate == 0 {
		o.FloodRate = DefaultFloodRate
	}
	if o.BusyNetns < 1 {
		o.BusyNetns = 1
	}
	return o
}

// builder carries a plan through its stages: timeouts decide the demand, the
// demand the size, both the survival.
type builder struct {
	s       *ct.Snapshot
	o       Options
	p       *Plan
	floors  floors
	blind   bool        // the load is what the user says, and nothing of it is to be seen yet
	tight   bool        // the load needs enough of the table for shorter timeouts to matter
	planned ct.Timeouts // after the plan
	max     int64       // after the plan
	buckets int64       // after the plan
}

func (b *builder) claims(key string) []Claim {
	if b.o.Owners == nil {
		return nil
	}
	return b.o.Owners.Claims(key)
}

func (b *builder) add(it Item) {
	it.Live = true
	it.Claims = b.claims(it.Key)
	b.p.Items = append(b.p.Items, it)
}

func (b *builder) keep(key, value, why string) {
	b.p.Kept = append(b.p.Kept, Kept{key, value, why})
}

// order puts the items in the order of writing: room for the entries before
// more of them are let in, and both before anything that shortens their lives.
func (b *builder) order() {
	rank := func(it Item) int {
		switch it.Key {
		case KeyBuckets, KeyHashsize:
			return 0
		case KeyMax:
			return 1
		}
		return 2
	}
	var sorted []Item
	for r := range 3 {
		for _, it := range b.p.Items {
			if rank(it) == r {
				sorted = append(sorted, it)
			}
		}
	}
	b.p.Items = sorted
}

func (b *builder) warnings() {
	s, p := b.s, b.p
	warn := func(format string, args ...any) { p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...)) }
	if s.Limits.MaxWritable == ct.No || s.Netns.Initial == ct.No {
		warn("max and buckets belong to the host: they can only be written in its initial network namespace")
	}
	if s.Census == nil {
		warn("the table was not read, so the plan knows its size but not its composition: run as root with the table readable")
	} else if !s.Census.Complete {
		warn("only a part of the table was read; shares of it are off by up to %.1f points", s.Census.SampleError*100)
	}
	if s.Rates == nil || !s.Rates.Panel {
		warn("arrival rates come from one reading by Little's law and hold for a steady load only; give --peak-new for the peak you expect")
	}
	if s.Tracking.TimeoutPolicies == ct.Yes {
		warn("firewall rules attach timeout policies: the flows they match do not follow these timeouts")
	}
	if len(p.Unreached) > 0 {
		warn("timeouts are per network namespace, and new ones start from the kernel's defaults: not reached are %s", joinWords(p.Unreached))
	}
	if s.Tracking.Active == ct.No {
		warn("no rule switches tracking on in this namespace: nothing of this plan acts until one does")
	}
}

// joinWords lists names as a sentence does, at most eight of them.
func joinWords(w []string) string {
	more := ""
	if len(w) > 8 {
		more = fmt.Sprintf(" and %d more", len(w)-8)
		w = w[:8]
	}
	s := ""
	for i, x := range w {
		if i > 0 {
			s += ", "
		}
		s += x
	}
	return s + more
}
