package tune

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/notrack"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (run with -update and read the diff):\n%s", path, got)
	}
}

// machine is a host of 16 GiB with stock settings.
func machine(release string) *ct.Snapshot {
	v, err := ct.ParseKernelVersion(release)
	if err != nil {
		panic(err)
	}
	return &ct.Snapshot{
		Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Host: "gw1", Release: release, Version: v,
		Netns:    ct.Netns{Inode: 4026531840, Initial: ct.Yes},
		Limits:   ct.Limits{Count: ct.Known(1000), Max: ct.Known(262144), Buckets: ct.Known(262144), ExpectMax: ct.Known(4096), MaxWritable: ct.Yes},
		Timeouts: ct.DefaultTimeouts(v),
		Knobs: ct.Knobs{Acct: ct.Known(0), Timestamp: ct.Known(0), Events: ct.Known(2), TCPLoose: ct.Known(1),
			TCPBeLiberal: ct.Known(0), TCPMaxRetrans: ct.Known(3), LogInvalid: ct.Known(0), TCPKeepaliveTime: ct.Known(7200)},
		Memory: ct.Memory{TotalBytes: ct.Known(16 << 30), AvailableBytes: ct.Known(12 << 30), SlabObjectBytes: ct.Known(256)},
		Tracking: ct.Tracking{ModuleLoaded: ct.Yes, Active: ct.Yes, NAT: ct.No,
			Users: []string{"nft inet filter input: ct state"}},
	}
}

func class(p ct.Proto, st ct.State, assured, replied bool, n uint64) ct.Class {
	return ct.Class{ClassKey: ct.ClassKey{Proto: p, State: st, Assured: assured, Replied: replied}, Entries: n, IdleKnown: n}
}

func withCensus(s *ct.Snapshot, classes ...ct.Class) *ct.Snapshot {
	c := &ct.Census{Complete: true, Classes: classes}
	for _, cl := range classes {
		c.Entries += cl.Entries
	}
	s.Census = c
	s.Limits.Count = ct.Known(int64(c.Entries))
	return s
}

// churning is a web server of many short connections.
func churning() *ct.Snapshot {
	s := withCensus(machine("6.18.44"),
		class(ct.TCP, ct.TCPTimeWait, true, true, 240_000),
		class(ct.TCP, ct.TCPEstablished, true, true, 12_000),
		class(ct.UDP, 0, false, true, 3_000))
	s.Rates = &ct.Rates{Interval: 10 * time.Second, Panel: true, BirthsPerSecond: 2100,
		BirthsByClass: []ct.ClassRate{
			{ClassKey: ct.ClassKey{Proto: ct.TCP, State: ct.TCPTimeWait, Assured: true, Replied: true}, PerSecond: 2000},
			{ClassKey: ct.ClassKey{Proto: ct.UDP, Replied: true}, PerSecond: 100}}}
	s.Rates.Counters.SetByName("drop", 500)
	return s
}

// leaking is a gateway full of connections that nobody closed.
func leaking() *ct.Snapshot {
	idle := class(ct.TCP, ct.TCPEstablished, true, true, 200_000)
	idle.NAT = true
	idle.IdleOver = [4]uint64{195_000, 190_000, 180_000, 120_000}
	s := withCensus(machine("6.1.0-50-amd64"), idle, class(ct.TCP, ct.TCPSynSent, false, false, 30_000),
		class(ct.UDP, 0, true, true, 20_000))
	s.Tracking.NAT = ct.Yes
	s.Tracking.NATRules = []string{"nft ip nat postrouting: masquerade"}
	return s
}

func inContainer() *ct.Snapshot {
	s := churning()
	s.Netns = ct.Netns{Inode: 4026532245, Initial: ct.No}
	s.Limits.MaxWritable = ct.No
	return s
}

type claims map[string][]Claim

func (c claims) Claims(key string) []Claim { return c[key] }

func TestGoldenPlans(t *testing.T) {
	broken := machine("5.15.0-91-generic")
	broken.Limits = ct.Limits{Count: ct.Known(900_000), Max: ct.Known(0), Buckets: ct.Known(65536), MaxWritable: ct.Yes}
	broken.Timeouts.Set(ct.TimeoutUDP, 0)
	broken.Timeouts.Set(ct.TimeoutTCPEstablished, 600)
	broken.Knobs.TCPMaxRetrans = ct.Known(0)
	old := machine("3.10.0-1160.el7.x86_64")
	old.Limits.Max, old.Limits.Buckets = ct.Known(65536), ct.Known(16384)
	for _, tt := range []struct {
		name string
		s    *ct.Snapshot
		o    Options
	}{
		{"churn", churning(), Options{Owners: claims{KeyMax: {{Who: "ufw", Where: "/etc/ufw/sysctl.conf:12", Value: "65536", Wins: true, Advice: "change it there"}}}}},
		{"rules", ruled(), Options{}},
		{"leak", leaking(), Options{Unreached: []string{"web (4026532245)"}, Actors: []string{"Docker needs connection tracking for published ports"}}},
		{"container", inContainer(), Options{}},
		{"broken", broken, Options{For: RoleServer}},
		{"old", old, Options{PeakNew: 5000}},
		{"calm", withCensus(machine("6.18.44"), class(ct.TCP, ct.TCPEstablished, true, true, 900)), Options{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := New(tt.s, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range Formats {
				if f != "text" && f != "json" && tt.name != "churn" && tt.name != "old" {
					continue
				}
				var b bytes.Buffer
				if err := p.Print(&b, f); err != nil {
					t.Fatal(err)
				}
				golden(t, "plan/"+tt.name+"."+f, b.Bytes())
			}
			var b bytes.Buffer
			if err := p.JSON(&b); err != nil {
				t.Fatal(err)
			}
			if back, err := ReadPlan(&b); err != nil || len(back.Items) != len(p.Items) {
				t.Errorf("read back: %v", err)
			}
		})
	}
}

func TestNoTrackingNoPlan(t *testing.T) {
	s := machine("6.18.44")
	s.Tracking.ModuleLoaded = ct.No
	if _, err := New(s, Options{}); !errors.Is(err, ErrNoTracking) {
		t.Errorf("error %v, want ErrNoTracking", err)
	}
}

func item(p *Plan, key string) *Item {
	for i := range p.Items {
		if p.Items[i].Key == key {
			return &p.Items[i]
		}
	}
	return nil
}

// TestEverySettingIsAnswered: each timeout that a kernel has is changed or kept
// with a reason, and so are the switches.
func TestEverySettingIsAnswered(t *testing.T) {
	for _, release := range []string{"3.10.0-1160.el7.x86_64", "5.10.0-30-amd64", "6.1.0-50-amd64", "6.18.44"} {
		s := machine(release)
		p, err := New(s, Options{})
		if err != nil {
			t.Fatal(err)
		}
		answered := map[string]string{}
		for _, it := range append(slices.Clone(p.Items), p.Optional...) {
			answered[it.Key] = it.Why
		}
		for _, k := range p.Kept {
			answered[k.Key] = k.Why
		}
		for k := range ct.NumTimeouts {
			if _, has := s.Timeouts.Get(k); has && answered[TimeoutSetting(k)] == "" {
				t.Errorf("%s: nothing is said of %s", release, k)
			}
		}
		for _, key := range []string{KeyMax, keyLoose, keyLiberal, keyMaxRetrans, keyAcct} {
			if answered[key] == "" {
				t.Errorf("%s: nothing is said of %s", release, key)
			}
		}
	}
}

func TestGatewayFloors(t *testing.T) {
	p, err := New(leaking(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []ct.TimeoutKey{ct.TimeoutTCPSynSent, ct.TimeoutTCPTimeWait, ct.TimeoutUDP, ct.TimeoutUDPStream} {
		if it := item(p, TimeoutSetting(k)); it != nil {
			t.Errorf("a gateway's %s was shortened to %s", it.Key, it.To)
		}
	}
	if it := item(p, TimeoutSetting(ct.TimeoutTCPEstablished)); it == nil || it.To != "86400" {
		t.Errorf("established: %+v, want 86400", it)
	}
}

// TestKeepIdleRaises: what must live longer than now is raised, and said so.
func TestKeepIdleRaises(t *testing.T) {
	p, err := New(leaking(), Options{KeepIdle: 10 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if it := item(p, TimeoutSetting(ct.TimeoutTCPEstablished)); it == nil || it.To != "864000" || !strings.Contains(it.Why, "5 days is less than the 10 days") {
		t.Errorf("%+v", it)
	}
}

func TestKeepIdle(t *testing.T) {
	for _, tt := range []struct {
		keep time.Duration
		want string
	}{{2 * time.Hour, "7560"}, {time.Minute, "7440"}, {48 * time.Hour, "181440"}} {
		p, err := New(leaking(), Options{KeepIdle: tt.keep})
		if err != nil {
			t.Fatal(err)
		}
		if it := item(p, TimeoutSetting(ct.TimeoutTCPEstablished)); it == nil || it.To != tt.want {
			t.Errorf("keep %s: %+v, want %s", tt.keep, it, tt.want)
		}
	}
}

// TestLittlesLaw checks predictions against sums that can be done by hand.
func TestLittlesLaw(t *testing.T) {
	s := churning()
	s.Rates.Counters = ct.Counters{}
	p, err := New(s, Options{PeakNew: 2100})
	if err != nil {
		t.Fatal(err)
	}
	d := p.Demand
	// 2000/s in TIME_WAIT for 120 s, 12,000 established, 100/s UDP for 30 s; what
	// has expired counts for 60 s more unless one of 2100 new flows a second
	// meets it in 2 of 262,144 buckets: 38.5 s.
	if want := 240_000 + 12_000 + 3_000 + 2100*38.5; d.PeakBefore < want*0.99 || d.PeakBefore > want*1.01 {
		t.Errorf("peak before %.0f, want %.0f", d.PeakBefore, want)
	}
	if it := item(p, TimeoutSetting(ct.TimeoutTCPTimeWait)); it == nil || it.To != "30" {
		t.Fatalf("time_wait %+v", it)
	}
	if steady := d.PeakAfter - 2100*d.LagAfterSeconds; steady < 74_900 || steady > 75_100 {
		t.Errorf("after, without lag: %.0f, want 60,000 + 12,000 + 3,000", steady)
	}
}

func TestOneReadingFindsTheRate(t *testing.T) {
	s := churning()
	s.Rates = nil
	p, err := New(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Demand.NewPerSecond; r < 2050 || r > 2150 {
		t.Errorf("rate %.0f, want 2000 + 100", r)
	}
}

func TestBuckets(t *testing.T) {
	for _, tt := range []struct {
		name         string
		release      string
		max, buckets int64
		flood        uint64 // unassured entries of 10,000
		want         string // "" keeps
	}{
		{"sparse table refuses what it could evict", "6.18.44", 5000, 262144, 10_000, "5120"},
		{"stock", "6.18.44", 262144, 262144, 5000, ""},
		{"stock, little to evict, far from full", "6.18.44", 262144, 262144, 1000, ""},
		{"kube-proxy's quarter on 5.15", "5.15.0", 1048576, 262144, 5000, "1048576"},
		{"kube-proxy's quarter on 6.18", "6.18.44", 1048576, 262144, 1000, ""},
		{"a huge max on old buckets", "6.18.44", 4194304, 65536, 5000, "4194304"},
		{"old default", "4.19.0", 262144, 65536, 5000, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := withCensus(machine(tt.release), class(ct.TCP, ct.TCPSynRecv, false, false, tt.flood),
				class(ct.TCP, ct.TCPEstablished, true, true, 10_000-tt.flood))
			s.Limits.Max, s.Limits.Buckets = ct.Known(tt.max), ct.Known(tt.buckets)
			s.Memory.TotalBytes = ct.Known(0) // so that max stays
			s.Memory.AvailableBytes = ct.Known(0)
			p, err := New(s, Options{PeakNew: 1})
			if err != nil {
				t.Fatal(err)
			}
			it := item(p, KeyBuckets)
			switch {
			case it == nil && tt.want != "":
				t.Errorf("kept, want %s: %+v", tt.want, p.Buckets)
			case it != nil && it.To != tt.want:
				t.Errorf("to %s, want %q: %+v", it.To, tt.want, p.Buckets)
			}
		})
	}
}

// TestNoPlanDoesHarm draws machines at random and checks what must hold for
// every plan.
func TestNoPlanDoesHarm(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	releases := []string{"2.6.32-754.el6", "3.10.0", "4.4.0", "4.14.9", "4.19.0", "5.4.0", "5.10.1", "5.15.0", "6.0.1", "6.1.55", "6.18.44"}
	for i := range 3000 {
		s, o := randomMachine(rng, releases[rng.IntN(len(releases))])
		p, err := New(s, o)
		if err != nil {
			t.Fatalf("machine %d: %v", i, err)
		}
		if bad := harm(s, o, p); bad != "" {
			t.Fatalf("machine %d: %s\n%+v\n%+v", i, bad, o, s)
		}
	}
}

func randomMachine(rng *rand.Rand, release string) (*ct.Snapshot, Options) {
	s := machine(release)
	pow := func(lo, hi int) int64 { return int64(1)<<(lo+rng.IntN(hi-lo+1)) + rng.Int64N(1000) }
	tri := func() ct.Tri { return ct.Tri(rng.IntN(3) - 1) }
	s.Limits.Max, s.Limits.Buckets = ct.Known(pow(9, 24)), ct.Known(pow(9, 22))
	s.Memory = ct.Memory{TotalBytes: ct.Known(pow(28, 38)), SlabObjectBytes: ct.Known(256)}
	s.Memory.AvailableBytes = ct.Known(rng.Int64N(s.Memory.TotalBytes.N))
	s.Tracking.NAT, s.Netns.Initial = tri(), ct.Yes
	for k := range ct.NumTimeouts {
		if _, ok := s.Timeouts.Get(k); ok && rng.IntN(4) == 0 {
			s.Timeouts.Set(k, int32(rng.IntN(500_000)-10))
		}
	}
	var classes []ct.Class
	for range rng.IntN(6) {
		c := class([]ct.Proto{ct.TCP, ct.UDP, ct.ICMP, ct.GRE, ct.SCTP, 50}[rng.IntN(6)], ct.State(rng.IntN(9)),
			rng.IntN(2) == 0, rng.IntN(2) == 0, uint64(rng.IntN(1_000_000)))
		c.IdleOver[0] = c.Entries / 2
		classes = append(classes, c)
	}
	if len(classes) > 0 {
		withCensus(s, classes...)
		s.Rates = &ct.Rates{Interval: time.Second, Panel: rng.IntN(2) == 0, BirthsPerSecond: float64(rng.IntN(50_000))}
	}
	o := Options{For: append(slices.Clone(Roles), RoleAuto)[rng.IntN(len(Roles)+1)]}
	if rng.IntN(2) == 0 {
		o.PeakNew = float64(rng.IntN(100_000))
	}
	if rng.IntN(2) == 0 {
		o.KeepIdle = time.Duration(rng.IntN(200_000)) * time.Second
	}
	return s, o
}

// harm says what is wrong with a plan, "" if nothing.
func harm(s *ct.Snapshot, o Options, p *Plan) string {
	rank := 0
	for _, it := range p.Items {
		to, err := strconv.ParseInt(it.To, 10, 64)
		if err != nil {
			return err.Error()
		}
		from, _ := strconv.ParseInt(it.From, 10, 64)
		if err := checkValue(it.Key, it.To); err != nil {
			return err.Error()
		}
		if it.From == it.To || it.Why == "" || it.Risk == "" {
			return fmt.Sprintf("empty change %+v", it)
		}
		r := 2
		switch it.Key {
		case KeyMax:
			r = 1
			if from > 0 && to < from {
				return "max is lowered"
			}
			if need := to * p.Demand.BytesPerEntry; float64(need) > 0.05*float64(s.Memory.TotalBytes.N) && to > max(p.Demand.Count*6/5, 65536) {
				return fmt.Sprintf("max %d takes %d bytes of %d", to, need, s.Memory.TotalBytes.N)
			}
		case KeyBuckets, KeyHashsize:
			r = 0
			if to%512 != 0 {
				return "buckets are not whole pages"
			}
		case TimeoutSetting(ct.TimeoutTCPEstablished):
			if to < from && (to < 7440 || to < int64(o.KeepIdle.Seconds())) {
				return fmt.Sprintf("established is lowered to %d", to)
			}
		case TimeoutSetting(ct.TimeoutTCPSynSent), TimeoutSetting(ct.TimeoutTCPSynRecv):
			if to < from && to < 15 {
				return it.Key + " under its floor"
			}
		}
		if p.Role == RoleGateway && strings.Contains(it.Key, "tcp_timeout") && to < from && from <= 240 {
			return "a gateway's transitory timeout is lowered: " + it.Key
		}
		if r < rank {
			return "wrong order of writing"
		}
		rank = r
	}
	return ""
}

func FuzzReadPlan(f *testing.F) {
	p, err := New(churning(), Options{})
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := p.JSON(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"schema":"ctwarden.plan/1","items":[{"key":"kernel.core_pattern","to":"|/bin/sh"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ReadPlan(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, it := range p.Items {
			if !strings.HasPrefix(it.Key, Prefix) && it.Key != KeyHashsize && it.Key != notrack.Key {
				t.Fatalf("a plan may write %q", it.Key)
			}
		}
		for _, format := range Formats {
			if err := p.Print(&bytes.Buffer{}, format); err != nil {
				t.Fatal(err)
			}
		}
	})
}
