package diagnose

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// nearMisses are machines that come close to a finding and must not raise it.
var nearMisses = []struct {
	code, why string
	in        Input
}{
	{codeTableFull, "99 % full and nobody turned away is near, not full",
		fixture(limits(259000, 262144, 262144), grew(0, 0))},
	{codeTableFull, "drops without a full table are something else",
		fixture(grew(500, 0))},
	{codeTableFull, "no limit at all", fixture(limits(500000, 0, 262144))},
	{codeTableNearFull, "79 %, steady", fixture(limits(207000, 262144, 262144), counts(207000, 207000))},
	{codeTableNearFull, "growing fast, but from a tenth", fixture(limits(26000, 262144, 262144), counts(6000, 26000))},
	{codeTableNearFull, "two entries of noise are no trend", fixture(limits(140000, 262144, 262144), counts(139998, 140000))},
	{codeTableWasFull, "counters of lost clashes are not refusals",
		fixture(func(in *Input) {
			in.Snapshot.Counters.SetByName("drop", 900)
			in.Snapshot.Counters.SetByName("insert_failed", 900)
		})},
	{codeTableWasFull, "a log without episodes", fixture()},
	{codeEarlyDropActive, "evictions of another day", fixture(func(in *Input) { in.Snapshot.Counters.SetByName("early_drop", 40000) })},
	{codeEarlyDropDefeated, "full of disposable entries in as many buckets",
		fixture(classes(class(ct.TCP, ct.TCPSynRecv, false, true, 262144)), grew(0, 9000))},
	{codeEarlyDropDefeated, "too many buckets, but the table is not full",
		fixture(limits(4000, 5000, 262144))},
	{codeFloodSYN, "a third half-open is a bad day, not a flood",
		fixture(classes(class(ct.TCP, ct.TCPSynSent, false, false, 90000), class(ct.TCP, ct.TCPEstablished, true, true, 160000)))},
	{codeFloodSYN, "mostly half-open, but of a thousand entries in a large table",
		fixture(classes(class(ct.TCP, ct.TCPSynSent, false, false, 900), class(ct.TCP, ct.TCPEstablished, true, true, 100)))},
	{codeFloodSYN, "half-open from one host inside to everywhere is its scan",
		fixture(nat, classes(class(ct.TCP, ct.TCPSynSent, false, false, 240000)), limits(240000, 262144, 262144),
			sources(heavy("10.0.3.7", 239000, made(0, 0, 239000, 239000), peers(200000, 1))))},
	{codeFloodUDP, "answered UDP",
		fixture(classes(class(ct.UDP, 0, false, true, 250000)), limits(250000, 262144, 262144))},
	{codeFloodAssured, "lasting connections in use",
		fixture(classes(class(ct.TCP, ct.TCPEstablished, true, true, 262144, 9000)), grew(90, 0), rearmed(0.3), spreadOver(300, 1))},
	{codeFloodAssured, "quiet, but spread over very many clients",
		fixture(classes(class(ct.TCP, ct.TCPEstablished, true, true, 262144, 200000)), grew(90, 0), rearmed(0.01), spreadOver(180000, 100000))},
	{codeFloodAssured, "room left", fixture(classes(class(ct.TCP, ct.TCPEstablished, true, true, 9000, 8000)), rearmed(0), spreadOver(2, 0))},
	{codeOneSource, "a proxy with most of a nearly empty table",
		fixture(sources(heavy("10.0.0.7", 1100, made(1100, 1000, 0, 0))))},
	{codeOneSource, "29 % of a full table",
		fixture(limits(262144, 262144, 262144), grew(5, 0), sources(heavy("10.0.0.7", 349)))},
	{codeOneSource, "what is above may be the sketch's error",
		fixture(limits(262144, 262144, 262144), grew(5, 0), sources(ct.Heavy{Prefix: heavy("10.0.0.7", 1).Prefix, Entries: 500, Error: 400}))},
	{codeScanOutbound, "a busy client whose server is down tries one address",
		fixture(nat, classes(class(ct.TCP, ct.TCPSynSent, false, false, 240000)), limits(240000, 262144, 262144),
			sources(heavy("10.0.3.7", 239000, made(0, 0, 239000, 239000), peers(1, 1), to(ct.TCP, 443, 1))))},
	{codeScanOutbound, "a crawler that is answered",
		fixture(nat, classes(class(ct.TCP, ct.TCPEstablished, true, true, 240000)), limits(240000, 262144, 262144),
			sources(heavy("10.0.3.7", 239000, made(230000, 230000, 0, 9000), peers(200000, 1))))},
	{codeScanOutbound, "an address outside is not scanning outward",
		fixture(classes(class(ct.TCP, ct.TCPSynSent, false, false, 240000)), limits(240000, 262144, 262144),
			sources(heavy("203.0.113.7", 239000, made(0, 0, 239000, 239000), peers(200000, 1))))},
	{codeShortChurn, "a busy web server with room",
		fixture(classes(class(ct.TCP, ct.TCPTimeWait, true, true, 30000), class(ct.TCP, ct.TCPEstablished, true, true, 5000)))},
	{codeDNSChurn, "DNS that nobody answers is no churn",
		fixture(classes(class(ct.UDP, 0, false, false, 250000)), limits(250000, 262144, 262144),
			ports(ct.Heavy{Proto: ct.UDP, Port: 53, Entries: 250000, Replied: 100, Unreplied: 249900}))},
	{codeDNSChurn, "a third is DNS",
		fixture(classes(class(ct.UDP, 0, false, true, 250000)), limits(250000, 262144, 262144),
			ports(ct.Heavy{Proto: ct.UDP, Port: 53, Entries: 83000, Replied: 83000}))},
	{codeIdleEstablished, "bulk transfers carry short timeouts and count as idle for nothing",
		fixture(classes(class(ct.TCP, ct.TCPEstablished, true, true, 250000)), limits(250000, 262144, 262144))},
	{codeIdleEstablished, "silent for ten minutes is a keepalive away",
		fixture(classes(class(ct.TCP, ct.TCPEstablished, true, true, 250000, 240000, 240000, 0, 0)), limits(250000, 262144, 262144))},
	{codeIdleEstablished, "idle pools in a table with room",
		fixture(classes(class(ct.TCP, ct.TCPEstablished, true, true, 4000, 4000, 4000, 4000, 4000)))},
	{codeMaxExceedsMemory, "a million entries on 24 GiB", fixture(limits(1204, 1<<20, 1<<20))},
	{codeTimeoutInvalid, "one second is short, but it is a timeout",
		fixture(func(in *Input) { in.Snapshot.Timeouts.Set(ct.TimeoutTCPClose, 1) })},
	{codeTimeoutInvalid, "kernels up to 6.4 show SCTP's 0.3 s as 0",
		fixture(func(in *Input) {
			in.Snapshot.Version = ct.KernelVersion{Major: 5, Minor: 10}
			in.Snapshot.Timeouts.Set(ct.TimeoutSCTPShutdownSent, 0)
		})},
	{codeTrackingInactive, "it could not be told", fixture(func(in *Input) { in.Snapshot.Tracking.Active = ct.Unknown })},
	{codeCannotSee, "everything was read", fixture()},
}

func TestNearMisses(t *testing.T) {
	covered := make(map[string]bool)
	for _, nm := range nearMisses {
		covered[nm.code] = true
		if fd := Run(nm.in).Finding(nm.code); fd != nil {
			t.Errorf("%s raised although %s: %s", nm.code, nm.why, fd.Title)
		}
	}
	for _, code := range Codes() {
		if !covered[code] {
			t.Errorf("%s has no near miss", code)
		}
	}
}

// Each finding is raised by at least one scenario, so that a near miss cannot
// pass because the finding never comes.
func TestEveryFindingIsRaised(t *testing.T) {
	raised := make(map[string]bool)
	for _, sc := range scenarios {
		for _, fd := range Run(sc.in).Findings {
			raised[fd.Code] = true
		}
	}
	for _, code := range Codes() {
		if !raised[code] {
			t.Errorf("no scenario raises %s", code)
		}
	}
}

// What could not be seen, by itself, is no reason to fail a script.
func TestCannotSeeNeverWarns(t *testing.T) {
	in := fixture(func(in *Input) {
		in.Blind = []ct.Blind{{What: "the journal", Why: "permission denied", How: "run as root"}}
	})
	r := Run(in)
	if r.Worst() >= report.Warning {
		t.Errorf("worst is %s for what could not be seen alone", r.Worst())
	}
	if r.Finding(codeCannotSee) == nil {
		t.Error("what could not be seen was not said")
	}
}

// An episode warns for a day and is remembered after it.
func TestOldEpisodeIsNotice(t *testing.T) {
	r := Run(fixture(logged(26*time.Hour, time.Minute, 0, 10, 0)))
	if fd := r.Finding(codeTableWasFull); fd == nil || fd.Severity != report.Notice {
		t.Errorf("an episode of yesterday gives %+v, want a notice", fd)
	}
}

// Evidence that nobody answered never makes an outside address an offender.
func TestUnansweredSourceIsDoubted(t *testing.T) {
	for _, sc := range scenarios {
		if sc.name != "one-host-unreplied-dns" && sc.name != "scan-through-a-gateway" {
			continue
		}
		v := Run(sc.in).Verdict
		if v.Confidence == report.High || !slices.ContainsFunc(v.Doubts, func(s string) bool { return strings.Contains(s, "forged") }) {
			t.Errorf("%s: confidence %s with doubts %q; a source that nobody answered may be forged", sc.name, v.Confidence, v.Doubts)
		}
	}
}

// Where a handful of addresses carries everything, each may be a load balancer:
// nobody is to be cut off.
func TestFewSourcesAreNotCutOff(t *testing.T) {
	silent := func(distinct uint64) Input {
		return fixture(classes(class(ct.TCP, ct.TCPEstablished, true, true, 262144, 262000)), grew(90, 0), rearmed(0), spreadOver(distinct, 0),
			sources(heavy("192.0.2.66", 200000, to(ct.TCP, 80, 1), made(200000, 200000, 0, 0))))
	}
	for distinct, want := range map[uint64]bool{3: false, 300: true} {
		fd := Run(silent(distinct)).Finding(codeFloodAssured)
		if fd == nil {
			t.Fatalf("%d sources: no %s", distinct, codeFloodAssured)
		}
		cut := slices.ContainsFunc(fd.Remedies, func(r report.Remedy) bool {
			return slices.ContainsFunc(r.Commands, func(c string) bool { return strings.Contains(c, "cutoff") })
		})
		if cut != want {
			t.Errorf("%d sources: cutting one off is offered: %t", distinct, cut)
		}
	}
}
