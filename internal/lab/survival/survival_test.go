package survival

import (
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

func TestMain(m *testing.M) { vm.Main(m) }

var (
	wantScenarios = flag.String("survival.scenarios", "", "names of scenarios, or beginnings of names, by commas")
	wantDefences  = flag.String("survival.defences", "", "defences, by commas; all if empty")
	wantRuns      = flag.Int("survival.runs", 0, "runs of each; 0 leaves the matrix out")
	wantSeconds   = flag.Int("survival.seconds", 60, "how long each attack lasts")
	wantPeace     = flag.Int("survival.peace", 6, "seconds of peace before each attack")
	wantMax       = flag.Int("survival.max", 262_144, "nf_conntrack_max, and the buckets")
	wantPackets   = flag.Int("survival.packets", 80_000, "packets a second of floods, at most")
	wantShakes    = flag.Int("survival.handshakes", 10_000, "completed handshakes a second, at most")
	wantAcct      = flag.Bool("survival.accounting", false, "with nf_conntrack_acct")
	wantBinary    = flag.String("survival.binary", "", "the ctwarden to measure; it is built if empty")
	wantPairs     = flag.String("survival.pairs", "", "runs by commas, each SCENARIO/DEFENCE, instead of the matrix")
	wantBudget    = flag.Duration("survival.budget", 48*time.Hour, "no run begins later than this")
	outFile       = flag.String("survival.out", "", "file that results are added to")
	showLog       = flag.Bool("survival.log", false, "print what the guard wrote")
)

// TestMatrix is "make survival".
func TestMatrix(t *testing.T) {
	if *wantRuns == 0 {
		t.Skip("long: make survival")
	}
	lab.Require(t, "conntrack", "nginx", "wrk", "dig", "ssh", "/usr/sbin/sshd")
	p := Full()
	p.Attack, p.Peace = time.Duration(*wantSeconds)*time.Second, time.Duration(*wantPeace)*time.Second
	p.Max, p.Packets, p.Handshakes, p.Accounting = *wantMax, *wantPackets, *wantShakes, *wantAcct
	limits := lab.ExclusiveLimits(t)
	began := time.Now()
	play := func(s *Scenario, d Defence, run int) {
		if time.Since(began) < *wantBudget {
			t.Run(s.Name+"/"+string(d), func(t *testing.T) { one(t, limits, s, d, p, run) })
		}
	}
	if *wantPairs != "" {
		for pair := range strings.SplitSeq(*wantPairs, ",") {
			name, d, _ := strings.Cut(pair, "/")
			s, err := Find(name)
			if err != nil {
				t.Fatal(err)
			}
			play(s, Defence(d), 1)
		}
		return
	}
	for _, s := range Scenarios {
		for _, d := range Defences {
			if !chosen(*wantScenarios, s.Name, begins) || !chosen(*wantDefences, string(d), equal) || !d.applies(s) {
				continue
			}
			for run := range *wantRuns {
				play(s, d, run+1)
			}
		}
	}
}

func one(t *testing.T, limits *lab.Limits, s *Scenario, d Defence, p Params, run int) Result {
	if d.ours() {
		if p.Binary = *wantBinary; p.Binary == "" {
			p.Binary = Build(t)
		}
	}
	r, log := Run(t, limits, s, d, p)
	r.Run = run
	t.Log(r.String())
	if *showLog {
		t.Log(strings.Join(log, "\n"))
	}
	if *outFile != "" {
		if err := r.Append(*outFile); err != nil {
			t.Error(err)
		}
	}
	return r
}

func equal(s, want string) bool { return s == want }

// begins matches the beginning of a scenario's name, or all of it where that is
// the name of another.
func begins(s, want string) bool {
	if _, err := Find(want); err == nil {
		return s == want
	}
	return strings.HasPrefix(s, want)
}

// chosen reports whether one of a list names something; an empty list names
// everything.
func chosen(list, name string, match func(name, want string) bool) bool {
	if list == "" {
		return true
	}
	for want := range strings.SplitSeq(list, ",") {
		if match(name, strings.TrimSpace(want)) {
			return true
		}
	}
	return false
}
