package diagnose

import (
	"fmt"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/report"
)

// maxExceedsMemory: a table as full as it may get takes memory that the
// machine does not have. It is not reclaimable, so the OOM killer comes first.
func maxExceedsMemory(f *facts) []finding {
	l, m := f.s.Limits, f.s.Memory
	if !l.Max.Known || l.Max.N <= 0 || !m.TotalBytes.Known {
		return nil
	}
	need := f.tableBytes(l.Max.N, l.Buckets.Or(0))
	have := m.TotalBytes.N
	if m.AvailableBytes.Known {
		have = min(have, m.AvailableBytes.N+f.peak*f.entryBytes())
	}
	fd := finding{explains: []string{codeBucketsTooFew}}
	switch {
	case need > have:
		fd.Severity = report.Warning
		fd.Title = fmt.Sprintf("A full table would take %s, more than the %s this machine has left", byteSize(need), byteSize(have))
	case float64(need) > memoryShare*float64(m.TotalBytes.N):
		fd.Severity = report.Notice
		fd.Title = fmt.Sprintf("A full table would take %s of the machine's %s", byteSize(need), byteSize(m.TotalBytes.N))
	default:
		return nil
	}
	fd.Figures = map[string]any{"max": l.Max.N, "full_table_bytes": need, "available_bytes": have, "entry_bytes": f.entryBytes()}
	fd.Evidence = []string{
		fmt.Sprintf("%s entries of %d bytes, and %s buckets. The limit holds for each network namespace by itself, so several can take this much each.", num(l.Max.N), f.entryBytes(), num(l.Buckets.Or(0))),
		"This memory cannot be reclaimed and counts for no container: when it runs out, the OOM killer ends other processes.",
	}
	fd.Remedies = f.saferMax()
	return []finding{fd}
}

// saferMax never goes below what is in use: lowering max under the count would
// refuse nearly every new connection.
func (f *facts) saferMax() []report.Remedy {
	c := f.ceiling() / 1024 * 1024
	if floor := f.peak + f.peak/5; c < floor || c == 0 {
		return []report.Remedy{{When: report.ForGood,
			What: fmt.Sprintf("Find what fills the table, or give the machine more memory. Do not lower the limit now: %s entries are in use.", num(f.peak)),
			Risk: "none"}}
	}
	return []report.Remedy{{When: report.ForGood,
		What:     fmt.Sprintf("Set a limit that memory bears: %s%s.", num(c), f.onHost()),
		Commands: []string{fmt.Sprintf("sysctl -w %s=%d", f.key("max"), c)},
		Cost:     fmt.Sprintf("at most %s for each namespace", byteSize(f.tableBytes(c, f.s.Limits.Buckets.Or(0)))),
		Risk:     fmt.Sprintf("new connections are refused from there on; %s entries are in use now. Do this in calm only", num(f.peak)),
		Undo:     []string{fmt.Sprintf("sysctl -w %s=%d", f.key("max"), f.s.Limits.Max.N)}}}
}

// timeoutInvalid: a timeout of zero or below ends each flow at its next packet.
func timeoutInvalid(f *facts) []finding {
	defaults := ct.DefaultTimeouts(f.s.Version)
	var bad []string
	fd := finding{cause: report.CauseMisconfig, confidence: report.High, Finding: report.Finding{Severity: report.Warning}}
	for k := range ct.NumTimeouts {
		s, ok := f.s.Timeouts.Get(k)
		d, hasDefault := defaults.Get(k)
		// Old kernels show their own 0.3 s of SCTP's shutdown states as 0.
		if !ok || s > 0 || s == 0 && hasDefault && d == 0 || s == 0 && sctpShutdown(k) && !f.s.Version.AtLeast(6, 5) {
			continue
		}
		name := f.key(k.String())
		bad = append(bad, fmt.Sprintf("%s = %d", name, s))
		if k == ct.TimeoutTCPEstablished || k == ct.TimeoutUDP || k == ct.TimeoutUDPStream || k == ct.TimeoutTCPSynSent || k == ct.TimeoutTCPSynRecv {
			fd.Severity = report.Critical
		}
		if hasDefault {
			fd.Remedies = append(fd.Remedies, report.Remedy{When: report.Now,
				What:     fmt.Sprintf("Set %s back to the kernel's own %d s.", name, d),
				Commands: []string{f.within(fmt.Sprintf("sysctl -w %s=%d", name, d))},
				Risk:     "none"})
		}
	}
	if len(bad) == 0 {
		return nil
	}
	list := strings.Join(bad, ", ")
	fd.Title = plural(len(bad), "timeout ends", "timeouts end") + " connections at their next packet: " + list
	fd.clause = plural(len(bad), "timeout ends", "timeouts end") + " connections at their next packet: " + list
	fd.Figures = map[string]any{"settings": bad}
	fd.Evidence = []string{"The kernel accepts zero and negative timeouts, and takes them as \"expired now\"."}
	fd.Remedies = append(fd.Remedies, report.Remedy{When: report.ForGood,
		What:     "Find the file that sets it.",
		Commands: []string{"grep -rn conntrack.*timeout /etc/sysctl.conf /etc/sysctl.d /run/sysctl.d /usr/lib/sysctl.d /etc/ufw/sysctl.conf 2>/dev/null"},
		Risk:     "none: it only reads"})
	return []finding{fd}
}

func sctpShutdown(k ct.TimeoutKey) bool {
	return k == ct.TimeoutSCTPShutdownSent || k == ct.TimeoutSCTPShutdownRecd
}

// trackingInactive: nothing in this namespace asks for connection tracking.
func trackingInactive(f *facts) []finding {
	t := f.s.Tracking
	if !f.looked || t.ModuleLoaded != ct.No && t.Active != ct.No {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Info
	fd.Title = "This network namespace tracks no connections"
	fd.Evidence = []string{"No rule of its firewall uses connection state or translates addresses."}
	if t.ModuleLoaded == ct.No {
		fd.Title = "This kernel has no connection tracking loaded"
		fd.Evidence = []string{"The module nf_conntrack is not loaded; ctwarden did not load it."}
	}
	if n := f.s.Limits.Count.Or(0); n > 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("%s are left from before and age out.", plural(n, "entry", "entries")))
	}
	if f.in.Log != nil && len(f.in.Log.Episodes) > 0 {
		fd.Evidence = append(fd.Evidence, "The log shows a full table all the same: it was another namespace's (`ctwarden check --netns all` lists them), or tracking has been switched off since.")
	}
	return []finding{fd}
}

// cannotSee lists what could not be read. It never changes the exit code.
func cannotSee(f *facts) []finding {
	if len(f.blind) == 0 {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Notice
	fd.Title = plural(len(f.blind), "thing", "things") + " could not be seen"
	for _, b := range f.blind {
		line := b.What + ": " + b.Why
		if b.How != "" {
			line += "; " + b.How
		}
		fd.Evidence = append(fd.Evidence, line)
	}
	return []finding{fd}
}
