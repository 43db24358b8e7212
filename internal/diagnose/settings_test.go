package diagnose

import (
	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/owners"
	"github.com/ctwarden/ctwarden/internal/report"
)

// look sets both readings of the neighbours and lets one counter grow.
func look(l ct.Lookalikes, grow func(*ct.Lookalikes)) edit {
	return func(in *Input) {
		before, after := l, l
		if grow != nil {
			after.Allowances = append([]ct.Allowance(nil), l.Allowances...)
			grow(&after)
		}
		in.Snapshot.LookalikesBefore, in.Snapshot.Lookalikes = &before, &after
	}
}

func setting(key, live, boot string, winner int, as ...owners.Assignment) edit {
	return func(in *Input) {
		if in.Owners == nil {
			in.Owners = &owners.Report{KeysAtSysctl: ct.No, KeysWhy: "nothing loads nf_conntrack before sysctl runs; its first user does, later"}
		}
		in.Owners.Settings = append(in.Owners.Settings, owners.Setting{Key: key, Live: live, AtBoot: boot, Winner: winner, Assignments: as})
	}
}

func assign(file string, line int, key, value string, e owners.Effect) owners.Assignment {
	return owners.Assignment{Stage: owners.StageSysctl, Owner: "sysctl.d", File: file, Line: line, Written: key, Key: key, Value: value, Effect: e}
}

func knob(set func(*ct.Snapshot)) edit { return func(in *Input) { set(in.Snapshot) } }

func counter(name string, total, grown uint32) edit {
	return func(in *Input) {
		in.Snapshot.Counters.SetByName(name, total)
		in.Snapshot.Rates.Counters.SetByName(name, grown)
	}
}

func namespace(label string, pid int, count int64, drop uint32) edit {
	return func(in *Input) {
		n := ct.Namespace{Inode: 4026532245, Owner: label, Pid: pid, Count: ct.Known(count)}
		n.Counters.SetByName("drop", drop)
		in.Snapshot.Namespaces = append(in.Snapshot.Namespaces, n)
	}
}

const maxName = "net.netfilter.nf_conntrack_max"

func init() {
	v51 := knob(func(s *ct.Snapshot) { s.Version = ct.KernelVersion{Major: 5, Minor: 15} })
	scenarios = append(scenarios,
		scenario{"ping-flood", fixture(classes(class(ct.ICMP, 0, false, true, 250000), class(ct.TCP, ct.TCPEstablished, true, true, 12144)), grew(0, 40000)),
			report.CauseAttack, codeFloodICMP, []string{"pings make up"}},
		scenario{"half-closed", fixture(classes(class(ct.TCP, ct.TCPCloseWait, true, true, 200000), class(ct.TCP, ct.TCPTimeWait, true, true, 10000), class(ct.TCP, ct.TCPEstablished, true, true, 52144)), grew(700, 0)),
			report.CauseLeak, codeHalfClosedMass, []string{"one side has closed"}},
		scenario{"dead-backend", fixture(classes(class(ct.TCP, ct.TCPEstablished, true, true, 100000), class(ct.UDP, 0, false, true, 140000)), limits(240000, 262144, 262144),
			destinations(heavy("10.9.9.9", 150000, to(ct.TCP, 5432, 1), made(100, 0, 0, 140000)))),
			report.CauseOneHost, codeOneDestination, []string{"10.9.9.9 port 5432", "does not answer"}},
		scenario{"chains-too-long", fixture(limits(70000, 524288, 16384), v51, counter("chaintoolong", 90210, 4000), counter("insert_failed", 90300, 4000)),
			report.CauseWrongSizing, codeLongChains, []string{"hash buckets", "chain is too long"}},
		scenario{"too-few-buckets", fixture(limits(1204, 1048576, 65536), v51), report.CauseMisconfig, codeBucketsTooFew, []string{"cannot hold"}},
		scenario{"listener-stuck", fixture(limits(9000, 262144, 262144), knob(func(s *ct.Snapshot) { s.Dying = ct.Known(6000) }),
			look(ct.Lookalikes{Listeners: []ct.EventListener{{Pid: 4711, Comm: "ulogd", Groups: 4, QueueBytes: 212992, Drops: 90}}}, nil)),
			report.CauseLeak, codeEntriesPinned, []string{"6,000", "ulogd"}},
		scenario{"retrans-zero", fixture(knob(func(s *ct.Snapshot) { s.Knobs.TCPMaxRetrans = ct.Known(0) })), report.CauseMisconfig, codeMaxRetransZero, []string{"300 s"}},
		scenario{"max-lowered", fixture(limits(150000, 65536, 262144), grew(3000, 10)), report.CauseMisconfig, codeMaxBelowCount, []string{"below the 150,000 entries"}},
		scenario{"no-limit", fixture(limits(900, 0, 262144)), report.CauseMisconfig, codeMaxUnlimited, []string{"no limit"}},
		scenario{"cloud", fixture(look(ct.Lookalikes{Allowances: []ct.Allowance{{Interface: "ens5", Exceeded: 700, Available: ct.Known(0)}}},
			func(l *ct.Lookalikes) { l.Allowances[0].Exceeded += 300 })), report.CauseLookAlike, codeCloudLimit, []string{"cloud provider", "ens5"}},
		scenario{"neighbours-full", fixture(look(ct.Lookalikes{ARPEntries: ct.Known(1024), ARPLimit: ct.Known(1024), ARPTableFulls: ct.Known(5)},
			func(l *ct.Lookalikes) { l.ARPTableFulls = ct.Known(900) })), report.CauseLookAlike, codeNeighbourOverflow, []string{"neighbour table", "not connection tracking"}},
		scenario{"accept-queue", fixture(look(ct.Lookalikes{ListenOverflows: ct.Known(10), Syncookies: ct.Known(1)},
			func(l *ct.Lookalikes) { l.ListenOverflows = ct.Known(510) })), report.CauseLookAlike, codeSynBacklog, []string{"does not accept"}},
		scenario{"socket-memory", fixture(look(ct.Lookalikes{TCPMemPages: ct.Known(575000), TCPMemLimitPages: ct.Known(575796)}, nil)), report.CauseLookAlike, codeSocketMemory, []string{"socket memory"}},
		scenario{"nat-ports", fixture(nat, func(in *Input) {
			cl := class(ct.TCP, ct.TCPEstablished, true, true, 64000)
			cl.NAT = true
			classes(cl)(in)
		}, destinations(heavy("203.0.113.9", 63000, to(ct.TCP, 443, 1))), counter("found", 90000, 40000)), report.CauseLookAlike, codePortExhaustion, []string{"203.0.113.9 port 443"}},
		scenario{"expectations", fixture(knob(func(s *ct.Snapshot) { s.Limits.ExpectCount, s.Limits.ExpectMax = ct.Known(4096), ct.Known(4096) })), report.CauseLookAlike, codeExpectationFull, []string{"expectations"}},
		scenario{"other-table-full", fixture(namespace("docker 3f2a9c01beef", 4711, 262144, 9000)), report.CauseUnknown, codeOtherNamespaceFull, []string{"docker 3f2a9c01beef"}},
		scenario{"races", fixture(counter("insert_failed", 900, 40)), report.CauseNone, codeInsertRace, nil},
		scenario{"short-established", fixture(nat, knob(func(s *ct.Snapshot) { s.Timeouts.Set(ct.TimeoutTCPEstablished, 600) })), report.CauseMisconfig, codeEstablishedBelowKeepalive, []string{"600 s"}},
		scenario{"lost-at-boot", fixture(setting(maxName, "262144", "", -1, assign("/etc/sysctl.d/90-x.conf", 2, maxName, "524288", owners.Lost))), report.CauseMisconfig, codeSettingLostAtBoot, []string{"lost at every boot"}},
		scenario{"overridden", fixture(setting(maxName, "65536", "65536", 1, assign("/etc/sysctl.d/90-x.conf", 2, maxName, "524288", owners.Overridden),
			owners.Assignment{Stage: owners.StageFirewall, Owner: "ufw", File: "/etc/ufw/sysctl.conf", Line: 7, Written: maxName, Key: maxName, Value: "65536", Effect: owners.Wins})), report.CauseNone, codeSettingOverridden, nil},
		scenario{"not-live", fixture(setting(maxName, "262144", "524288", 0, assign("/etc/sysctl.d/90-x.conf", 2, maxName, "524288", owners.Wins))), report.CauseNone, codeSettingNotLive, nil},
		scenario{"dead-line", fixture(setting(maxName, "262144", "", -1, assign("/etc/sysctl.conf", 9, "net.ipv4.ip_conntrack_max", "65536", owners.Dead))), report.CauseNone, codeDeadSetting, nil},
		scenario{"log-invalid", fixture(knob(func(s *ct.Snapshot) { s.Knobs.LogInvalid = ct.Known(255) })), report.CauseNone, codeLogInvalidOn, nil},
		scenario{"log-unlimited", fixture(knob(func(s *ct.Snapshot) { s.Knobs.MessageCost = ct.Known(0) })), report.CauseMisconfig, codeLogUnlimited, []string{"not rate limited"}},
		scenario{"expired", fixture(knob(func(s *ct.Snapshot) { s.Census.Expiring = 900 })), report.CauseNone, codeExpiredLinger, nil},
		scenario{"expired-reaped", fixture(knob(func(s *ct.Snapshot) {
			s.Census.Complete, s.Census.Short = true, false
			s.Census.CountBefore, s.Census.CountAfter = ct.Known(3*int64(s.Census.Entries)), ct.Known(int64(s.Census.Entries))
		})), report.CauseNone, codeExpiredLinger, nil},
		scenario{"dns-server", fixture(classes(class(ct.UDP, 0, false, true, 60000)), ports(ct.Heavy{Proto: ct.UDP, Port: 53, Entries: 59000, Replied: 59000}),
			destinations(heavy("198.51.100.1", 59000, to(ct.UDP, 53, 1), made(59000, 0, 0, 0)))), report.CauseNone, codeNotrackCandidate, nil},
	)
	type nm = struct {
		code, why string
		in        Input
	}
	nearMisses = append(nearMisses,
		nm{codeFloodICMP, "a third are pings", fixture(classes(class(ct.ICMP, 0, false, true, 80000), class(ct.TCP, ct.TCPEstablished, true, true, 182144)), grew(5, 0))},
		nm{codeHalfClosedMass, "TIME_WAIT is churn, not half-closed", fixture(classes(class(ct.TCP, ct.TCPTimeWait, true, true, 140000), class(ct.TCP, ct.TCPFinWait, false, true, 110000)), grew(5, 0))},
		nm{codeOneDestination, "the destination is this server itself", fixture(limits(262144, 262144, 262144), grew(5, 0), destinations(heavy("198.51.100.1", 1200)))},
		nm{codeLongChains, "one retried lookup is no refusal", fixture(counter("search_restart", 50, 50))},
		nm{codeBucketsTooFew, "four entries a bucket is the default before 5.15", fixture(limits(1204, 262144, 65536), knob(func(s *ct.Snapshot) { s.Version = ct.KernelVersion{Major: 5, Minor: 10} }))},
		nm{codeBucketsTooMany, "twice as many buckets as entries is fine", fixture(limits(1204, 131072, 262144))},
		nm{codeEntriesPinned, "a few are always on their way", fixture(knob(func(s *ct.Snapshot) { s.Dying = ct.Known(20) }))},
		nm{codeMaxRetransZero, "three is the default", fixture(knob(func(s *ct.Snapshot) { s.Knobs.TCPMaxRetrans = ct.Known(3) }))},
		nm{codeMaxBelowCount, "a reader may see one entry for each CPU too many", fixture(limits(262146, 262144, 262144))},
		nm{codeMaxUnlimited, "the limit is unknown", fixture(knob(func(s *ct.Snapshot) { s.Limits.Max = ct.Value{} }))},
		nm{codeCloudLimit, "the counter exists and is zero", fixture(look(ct.Lookalikes{Allowances: []ct.Allowance{{Interface: "ens5"}}}, nil))},
		nm{codeNeighbourOverflow, "refusals of another day", fixture(look(ct.Lookalikes{ARPEntries: ct.Known(12), ARPLimit: ct.Known(1024), ARPTableFulls: ct.Known(900)}, nil))},
		nm{codeSynBacklog, "overflows of another day", fixture(look(ct.Lookalikes{ListenOverflows: ct.Known(9000)}, nil))},
		nm{codeSocketMemory, "half of it is in use", fixture(look(ct.Lookalikes{TCPMemPages: ct.Known(280000), TCPMemLimitPages: ct.Known(575796)}, nil))},
		nm{codePortExhaustion, "many connections to one server without translation", fixture(classes(class(ct.TCP, ct.TCPEstablished, true, true, 64000)), destinations(heavy("203.0.113.9", 63000, to(ct.TCP, 443, 1))), sources(heavy("10.7.7.7", 60)))},
		nm{codeExpectationFull, "a few expectations", fixture(knob(func(s *ct.Snapshot) { s.Limits.ExpectCount, s.Limits.ExpectMax = ct.Known(12), ct.Known(4096) }))},
		nm{codeOtherNamespaceFull, "a busy container with room", fixture(namespace("docker 3f2a9c01beef", 4711, 150000, 0))},
		nm{codeInsertRace, "one race in two seconds", fixture(counter("insert_failed", 900, 1))},
		nm{codeEstablishedBelowKeepalive, "two hours and four minutes", fixture(knob(func(s *ct.Snapshot) { s.Timeouts.Set(ct.TimeoutTCPEstablished, 7440) }))},
		nm{codeSettingLostAtBoot, "a masked file is not lost", fixture(setting(maxName, "262144", "", -1, assign("/usr/lib/sysctl.d/30-x.conf", 1, maxName, "5", owners.Masked)))},
		nm{codeSettingOverridden, "both say the same", fixture(setting(maxName, "5", "5", 1, assign("/etc/sysctl.d/1.conf", 1, maxName, "5", owners.Overridden), assign("/etc/sysctl.d/2.conf", 1, maxName, "5", owners.Wins)))},
		nm{codeSettingNotLive, "buckets rounded up to a page", fixture(setting("net.netfilter.nf_conntrack_buckets", "65536", "65100", 0, assign("/etc/sysctl.d/1.conf", 1, "net.netfilter.nf_conntrack_buckets", "65100", owners.Wins)))},
		nm{codeDeadSetting, "what a package ships is not the administrator's", fixture(setting(maxName, "5", "", -1, assign("/usr/lib/sysctl.d/50-d.conf", 1, maxName, "5", owners.Ignored)))},
		nm{codeLogInvalidOn, "it is off", fixture(knob(func(s *ct.Snapshot) { s.Knobs.LogInvalid = ct.Known(0) }))},
		nm{codeLogUnlimited, "the default", fixture(knob(func(s *ct.Snapshot) { s.Knobs.MessageCost = ct.Known(5) }))},
		nm{codeExpiredLinger, "a tenth is about to expire", fixture(knob(func(s *ct.Snapshot) { s.Census.Expiring = 120 }))},
		nm{codeExpiredLinger, "a tenth was reaped", fixture(knob(func(s *ct.Snapshot) {
			s.Census.Complete, s.Census.Short = true, false
			s.Census.CountBefore, s.Census.CountAfter = ct.Known(int64(s.Census.Entries)*10/9), ct.Known(int64(s.Census.Entries))
		}))},
		nm{codeNotrackCandidate, "a gateway that translates", fixture(nat, classes(class(ct.UDP, 0, false, true, 60000)), ports(ct.Heavy{Proto: ct.UDP, Port: 53, Entries: 59000, Replied: 59000}), destinations(heavy("198.51.100.1", 59000)))},
	)
}
