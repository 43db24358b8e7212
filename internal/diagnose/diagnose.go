// Package diagnose turns what was read of a machine and of its logs into
// findings and one verdict. It is pure: no input or output, no clock.
//
// Each finding has a file of its own and a line in the registry. Findings are
// of two kinds: symptoms, which say what is the matter with the table, and
// causes, which say who or what brought it there. A cause names the findings
// it explains, and the verdict is made of the gravest unexplained cause and
// the state of the table.
package diagnose

import (
	"slices"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/owners"
	"github.com/ctwarden/ctwarden/internal/report"
)

// Input is everything a diagnosis rests on.
type Input struct {
	// Now is the present; it decides how long ago an episode was.
	Now time.Time
	// Snapshot is the machine; nil if only logs were read.
	Snapshot *ct.Snapshot
	// Log is what the logs said; nil if none were looked at.
	Log *klog.Report
	// Blind is what could not be read besides Snapshot.Blind.
	Blind []ct.Blind
	// Owners says who sets each value; nil if it was not looked at.
	Owners *owners.Report
}

// finding is a finding on its way to the verdict.
type finding struct {
	report.Finding
	// cause is set for causes and empty for symptoms.
	cause report.Cause
	// clause completes "The table is full: …".
	clause string
	// confidence and doubts are the verdict's, if this cause makes it.
	confidence report.Confidence
	doubts     []string
	// explains are the codes that follow from this one, if it is present.
	explains []string
}

// check looks for one finding, or for a few with one code.
type check struct {
	code string
	find func(*facts) []finding
}

// registry lists the checks. The order is the rank of causes of one severity:
// the more specific a cause, the earlier it stands.
var registry = []check{
	{codeScanOutbound, scanOutbound},
	{codeFloodAssured, floodAssured},
	{codeIdleEstablished, idleEstablished},
	{codeDNSChurn, dnsChurn},
	{codeShortChurn, shortConnectionChurn},
	{codeOneSource, oneSource},
	{codeFloodSYN, floodSYN},
	{codeFloodUDP, floodUDP},
	{codeFloodICMP, floodICMP},
	{codeHalfClosedMass, halfClosedMass},
	{codeOneDestination, oneDestination},
	{codeLongChains, longChains},
	{codeEntriesPinned, entriesPinned},
	{codeTimeoutInvalid, timeoutInvalid},
	{codeMaxRetransZero, maxRetransZero},
	{codeMaxBelowCount, maxBelowCount},
	{codeMaxUnlimited, maxUnlimited},
	{codeCloudLimit, cloudLimit},
	{codeNeighbourOverflow, neighbourOverflow},
	{codeSynBacklog, synBacklogOverflow},
	{codeSocketMemory, socketMemory},
	{codePortExhaustion, portExhaustion},
	{codeExpectationFull, expectationTableFull},
	{codeTableFull, tableFull},
	{codeTableNearFull, tableNearFull},
	{codeTableWasFull, tableWasFull},
	{codeEarlyDropDefeated, earlyDropDefeated},
	{codeEarlyDropActive, earlyDropActive},
	{codeOtherNamespaceFull, otherNamespaceFull},
	{codeInsertRace, insertRace},
	{codeBucketsTooFew, bucketsTooFew},
	{codeBucketsTooMany, bucketsTooMany},
	{codeMaxExceedsMemory, maxExceedsMemory},
	{codeEstablishedBelowKeepalive, establishedBelowKeepalive},
	{codeSettingLostAtBoot, settingLostAtBoot},
	{codeSettingOverridden, settingOverridden},
	{codeSettingNotLive, settingNotLive},
	{codeDeadSetting, deadSetting},
	{codeLogInvalidOn, logInvalidOn},
	{codeLogUnlimited, logUnlimited},
	{codeExpiredLinger, expiredLinger},
	{codeNotrackCandidate, notrackCandidate},
	{codeTrackingInactive, trackingInactive},
	{codeCannotSee, cannotSee},
}

// Codes lists the codes of all findings, in the order of the registry.
func Codes() []string {
	codes := make([]string, len(registry))
	for i, c := range registry {
		codes[i] = c.code
	}
	return codes
}

// Run makes the report.
func Run(in Input) *report.Report {
	f := newFacts(in)
	var all []finding
	for _, c := range registry {
		for _, fd := range c.find(f) {
			fd.Code = c.code
			fd.Title = sentence(fd.Title)
			if fd.Evidence == nil {
				fd.Evidence = []string{}
			}
			for i, e := range fd.Evidence {
				fd.Evidence[i] = sentence(e)
			}
			if fd.Remedies == nil {
				fd.Remedies = []report.Remedy{}
			}
			for i := range fd.Remedies {
				f.place(&fd.Remedies[i])
			}
			all = append(all, fd)
		}
	}
	explain(all)
	order(all)
	r := &report.Report{
		Time: in.Now, Verdict: verdict(f, all), Log: in.Log, Snapshot: in.Snapshot, Blind: f.blind,
	}
	if s := in.Snapshot; s != nil {
		r.Time, r.Host, r.Kernel, r.Netns = s.Time, s.Host, s.Release, s.Netns
	}
	for _, fd := range all {
		r.Findings = append(r.Findings, fd.Finding)
	}
	return r
}

// explain marks the findings that follow from another. A finding that is
// explained itself explains nothing that its own cause does not.
func explain(all []finding) {
	for i := range all {
		if all[i].ExplainedBy != "" {
			continue
		}
		for j := range all {
			if i != j && all[j].ExplainedBy == "" && slices.Contains(all[i].explains, all[j].Code) {
				all[j].ExplainedBy = all[i].Code
			}
		}
	}
}

// order puts unexplained findings before explained ones, and each by severity
// and rank. What could not be seen comes last.
func order(all []finding) {
	slices.SortStableFunc(all, func(a, b finding) int {
		if la, lb := a.Code == codeCannotSee, b.Code == codeCannotSee; la != lb {
			return boolOrder(la, lb)
		}
		if c := int(b.Severity) - int(a.Severity); c != 0 {
			return c
		}
		return boolOrder(a.ExplainedBy != "", b.ExplainedBy != "")
	})
}

func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
