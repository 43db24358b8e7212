package diagnose

import (
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// scenario is a machine with one thing the matter, what must be said of it,
// and its golden text.
type scenario struct {
	name  string
	in    Input
	cause report.Cause
	// code leads the findings; "" where none is of weight.
	code string
	// says must be in the verdict.
	says []string
}

var scenarios = []scenario{
	{"healthy", fixture(), report.CauseNone, "", []string{"Nothing is wrong"}},

	{"syn-flood-too-many-buckets", fixture(
		classes(class(ct.TCP, ct.TCPSynRecv, false, true, 4600), class(ct.TCP, ct.TCPSynSent, false, false, 350), class(ct.TCP, ct.TCPEstablished, true, true, 50)),
		limits(5000, 5000, 262144), grew(42000, 15100), spreadOver(4890, 4800), rearmed(0.01),
		destinations(heavy("10.0.0.1", 4980, to(ct.TCP, 80, 0.99))), sources(heavy("203.0.113.5", 12)),
	), report.CauseAttack, codeFloodSYN, []string{"SYN flood", "10.0.0.1 port 80", "262,144 buckets for 5,000 entries", "26 %"}},

	{"syn-flood-that-the-kernel-copes-with", fixture(
		classes(class(ct.TCP, ct.TCPSynRecv, false, true, 255000), class(ct.TCP, ct.TCPEstablished, true, true, 7144)),
		grew(0, 160000), spreadOver(131072, 60000), destinations(heavy("10.0.0.1", 258000, to(ct.TCP, 443, 0.97))),
	), report.CauseAttack, codeFloodSYN, []string{"SYN flood", "takes the place"}},

	{"udp-flood", fixture(
		classes(class(ct.UDP, 0, false, false, 250000), class(ct.TCP, ct.TCPEstablished, true, true, 12144)),
		grew(0, 90000), spreadOver(131072, 70000), destinations(heavy("10.0.0.1", 250000, to(ct.UDP, 123, 1))),
	), report.CauseAttack, codeFloodUDP, []string{"unanswered UDP", "10.0.0.1 port 123"}},

	{"one-host-unreplied-dns", fixture(
		nat,
		classes(class(ct.UDP, 0, false, false, 190000), class(ct.TCP, ct.TCPEstablished, true, true, 72144)),
		grew(3000, 9000), spreadOver(412, 10),
		sources(heavy("10.0.3.7", 186122, to(ct.UDP, 53, 1), made(40, 12, 0, 186082), peers(2, 1))),
		ports(ct.Heavy{Proto: ct.UDP, Port: 53, Entries: 189000, Replied: 900, Unreplied: 188100}),
	), report.CauseOneHost, codeOneSource, []string{"one host, 10.0.3.7, holds 71 % of it with unanswered UDP to port 53"}},

	{"handshakes-left-idle", fixture(
		classes(class(ct.TCP, ct.TCPEstablished, true, true, 19500, 4000), class(ct.TCP, ct.TCPTimeWait, true, true, 500)),
		limits(20000, 20000, 262144), grew(180, 0), rearmed(0.01), spreadOver(40, 3),
		sources(heavy("192.0.2.66", 16759, to(ct.TCP, 80, 1), made(16759, 16759, 0, 0))),
		destinations(heavy("10.0.0.1", 19900, to(ct.TCP, 80, 0.99))),
	), report.CauseAttack, codeFloodAssured, []string{"192.0.2.66", "finished their handshake"}},

	{"scan-through-a-gateway", fixture(
		nat,
		classes(class(ct.TCP, ct.TCPSynSent, false, false, 50000), class(ct.TCP, ct.TCPEstablished, true, true, 4000)),
		limits(65536, 65536, 65536), grew(0, 5000), spreadOver(30, 2),
		sources(heavy("10.0.3.7", 49500, to(ct.TCP, 23, 0.98), made(3, 3, 49497, 49497), peers(48700, 2))),
	), report.CauseScan, codeScanOutbound, []string{"10.0.3.7", "scans outward"}},

	{"dns-churn", fixture(
		nat,
		classes(class(ct.UDP, 0, false, true, 60000), class(ct.TCP, ct.TCPEstablished, true, true, 3000)),
		limits(65536, 65536, 65536), grew(0, 2000), births(2100, 30*time.Second), spreadOver(22, 1),
		ports(ct.Heavy{Proto: ct.UDP, Port: 53, Entries: 59000, Replied: 58500, Unreplied: 500}),
		sources(heavy("10.0.3.9", 44000, to(ct.UDP, 53, 1), made(43900, 0, 0, 100))),
		destinations(heavy("10.0.0.53", 59000, to(ct.UDP, 53, 1))),
	), report.CauseChurn, codeDNSChurn, []string{"DNS queries", "10.0.3.9"}},

	{"short-connections", fixture(
		classes(class(ct.TCP, ct.TCPTimeWait, true, true, 210000), class(ct.TCP, ct.TCPEstablished, true, true, 12000)),
		births(1750, 120*time.Second), counts(221000, 222000), spreadOver(1800, 20),
	), report.CauseChurn, codeShortChurn, []string{"have ended"}},

	{"idle-connections", fixture(
		classes(class(ct.TCP, ct.TCPEstablished, true, true, 230000, 228000, 225000, 220000, 190000)),
		limits(230000, 262144, 262144), rearmed(0), spreadOver(14, 0),
		sources(heavy("10.0.0.1", 215000, to(ct.TCP, 5432, 1), made(215000, 215000, 0, 0), peers(3, 1))),
	), report.CauseLeak, codeIdleEstablished, []string{"silent for an hour", "this machine itself"}},

	{"growth", fixture(
		classes(class(ct.TCP, ct.TCPEstablished, true, true, 250000, 9000), class(ct.TCP, ct.TCPTimeWait, true, true, 12144)),
		grew(420, 30), rearmed(0.31), spreadOver(88000, 20000), sources(heavy("203.0.113.9", 310, made(310, 310, 0, 0))),
	), report.CauseGrowth, codeTableFull, []string{"full and refuses", "outgrown"}},

	{"full-for-a-while", fixture(
		classes(class(ct.TCP, ct.TCPEstablished, true, true, 262144, 9000)),
		grew(420, 0), rearmed(0.31), spreadOver(88000, 20000),
		logged(26*time.Hour, 4*time.Minute, 0, 80, 900), logged(40*time.Minute, 39*time.Minute, 0, 2210, 515812),
	), report.CauseGrowth, codeTableFull, []string{"has been full since 02:32:00 UTC and refuses"}},

	{"small-limit", fixture(
		classes(class(ct.TCP, ct.TCPEstablished, true, true, 7800, 300), class(ct.UDP, 0, true, true, 392)),
		limits(8192, 8192, 8192), grew(40, 12), rearmed(0.4), spreadOver(2600, 400),
	), report.CauseWrongSizing, codeTableFull, []string{"limit of 8,192 is small"}},

	{"filling", fixture(
		classes(class(ct.TCP, ct.TCPEstablished, true, true, 215000)),
		counts(214000, 215000), rearmed(0.3), spreadOver(70000, 9000),
	), report.CauseGrowth, codeTableNearFull, []string{"82 % full", "no room in 2 min"}},

	{"was-full", fixture(
		logged(40*time.Minute, 12*time.Minute, 0, 210, 15812),
	), report.CauseUnknown, codeTableWasFull, []string{"was full from 2026-03-14 02:32:00 to 02:44:00 UTC", "at least 210", "now it is 0.5 % full"}},

	{"container-full", fixture(
		logged(40*time.Minute, 12*time.Minute, 4026532245, 9, 492),
		func(in *Input) {
			in.Snapshot.Namespaces = []ct.Namespace{{Inode: 4026532245, Owner: "docker container web", Pid: 4711, Comm: "nginx"}}
		},
	), report.CauseUnknown, codeTableWasFull, []string{"another network namespace", "docker container web"}},

	{"several-others-full", fixture(
		logged(40*time.Minute, 12*time.Minute, 4026532245, 9, 492),
		logged(30*time.Minute, 0, 4026532246, 10, 40000),
		logged(20*time.Minute, 0, 4026532247, 10, 40000),
		func(in *Input) {
			in.Snapshot.Namespaces = []ct.Namespace{{Inode: 4026532245, Owner: "docker container web", Pid: 4711, Comm: "nginx"}}
		},
	), report.CauseUnknown, codeTableWasFull, []string{"tables of 3 other network namespaces were full"}},

	{"gone-namespace-full", fixture(
		logged(40*time.Minute, 12*time.Minute, 4026532245, 9, 492),
		func(in *Input) { in.Snapshot.Namespaces = []ct.Namespace{{Inode: 4026531840, Pid: 1, Comm: "systemd"}} },
	), report.CauseNone, codeTableWasFull, []string{"Nothing is wrong"}},

	{"number-given-out-again", fixture(
		logged(40*time.Minute, 12*time.Minute, 4026532245, 9, 492),
		func(in *Input) {
			in.Snapshot.Netns = ct.Netns{Inode: 4026532245, Name: "web", Initial: ct.No}
			in.Snapshot.Namespaces = []ct.Namespace{{Inode: 4026532245, Names: []string{"web"}, Counters: in.Snapshot.Counters}}
		},
	), report.CauseNone, codeTableWasFull, []string{"Nothing is wrong"}},

	{"another-host-full", fixture(
		logged(40*time.Minute, 12*time.Minute, 0, 9, 492),
		func(in *Input) { in.Log.Episodes[0].Host = "db3.example.org" },
	), report.CauseUnknown, codeTableWasFull, []string{"on host db3.example.org"}},

	{"unprivileged-full", fixture(
		limits(262144, 262144, 262144), grew(800, 0),
		func(in *Input) {
			in.Snapshot.Census = nil
			in.Snapshot.Blind = []ct.Blind{{What: "the entries of the table", Why: "operation not permitted", How: "run as root"}}
		},
	), report.CauseUnknown, codeTableFull, []string{"full and refuses", "could not be told"}},

	{"zero-timeout", fixture(
		func(in *Input) { in.Snapshot.Timeouts.Set(ct.TimeoutTCPEstablished, 0) },
	), report.CauseMisconfig, codeTimeoutInvalid, []string{"tcp_timeout_established = 0"}},

	{"more-than-memory", fixture(
		limits(1204, 64<<20, 1<<20),
	), report.CauseMisconfig, codeMaxExceedsMemory, []string{"24 GiB"}},

	{"not-tracking", fixture(
		func(in *Input) { in.Snapshot.Tracking.Active = ct.No; in.Snapshot.Limits.Count = ct.Known(0) },
	), report.CauseNotTracking, codeTrackingInactive, []string{"tracks no connections"}},

	{"two-lines-of-log", originLog(), report.CauseUnknown, codeTableWasFull,
		[]string{"was full", "at least 1 packet", "at most 15,813"}},
}
