package diagnose

import (
	"fmt"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/owners"
	"github.com/ctwarden/ctwarden/internal/report"
)

// owned calls yield for every setting that somebody sets.
func (f *facts) owned(yield func(owners.Setting)) {
	if f.in.Owners == nil {
		return
	}
	for _, s := range f.in.Owners.Settings {
		if len(s.Assignments) > 0 {
			yield(s)
		}
	}
}

func place(a owners.Assignment) string {
	if a.Line > 0 {
		return fmt.Sprintf("%s:%d", a.File, a.Line)
	}
	return a.File
}

// settingLostAtBoot: sysctl.d names a key that does not exist when it is
// applied, because the module comes later.
func settingLostAtBoot(f *facts) []finding {
	var lost []string
	sample := owners.Assignment{}
	f.owned(func(s owners.Setting) {
		for _, a := range s.Assignments {
			if a.Effect == owners.Lost {
				lost = append(lost, fmt.Sprintf("%s sets %s = %s", place(a), a.Written, a.Value))
				sample = a
			}
		}
	})
	if len(lost) == 0 {
		return nil
	}
	fd := finding{explains: []string{codeSettingNotLive}}
	fd.Severity = report.Warning
	fd.Title = plural(len(lost), "setting is", "settings are") + " lost at every boot"
	if len(lost) == 1 {
		fd.Title = fmt.Sprintf("%s = %s of %s is lost at every boot", sample.Written, sample.Value, place(sample))
	}
	fd.Figures = map[string]any{"settings": lost}
	fd.Evidence = append(lost, f.in.Owners.KeysWhy+".")
	if n := f.neighbourLines(klog.SettingNotApplied); n > 0 {
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("The log shows it: %s \"Couldn't write … to net/netfilter/…, ignoring\".", count(n, "line")))
	}
	fd.Remedies = []report.Remedy{{When: report.ForGood,
		What:     "Have the module loaded before sysctl.d is applied.",
		Commands: []string{"echo nf_conntrack > /etc/modules-load.d/conntrack.conf"},
		Cost:     "the module is loaded at every boot, even if no rule asks for it",
		Risk:     "none: without a rule that uses it nothing is tracked (4.14 and later)",
		Undo:     []string{"rm /etc/modules-load.d/conntrack.conf"}}}
	if sample.File != "" && sample.Stage == owners.StageSysctl {
		fd.Remedies = append(fd.Remedies, report.Remedy{When: report.Now,
			What: "Apply the file now, while the keys exist.", Commands: []string{"sysctl -p " + shellQuote(sample.File)},
			Risk: "it sets everything that the file names: read it first"})
	}
	return []finding{fd}
}

// settingOverridden: what one owner sets, another replaces later in the boot.
func settingOverridden(f *facts) []finding {
	var lines []string
	f.owned(func(s owners.Setting) {
		if s.Winner < 0 {
			return
		}
		w := s.Assignments[s.Winner]
		for _, a := range s.Assignments {
			if a.Effect == owners.Overridden && a.Value != w.Value && byAdmin(a) && (a.File != w.File || a.Owner != w.Owner) {
				lines = append(lines, fmt.Sprintf("%s wants %s = %s, but %s sets %s afterwards (%s)", place(a), s.Key, a.Value, place(w), w.Value, w.Owner))
			}
		}
	})
	if len(lines) == 0 {
		return nil
	}
	fd := finding{explains: []string{codeSettingNotLive}}
	fd.Severity = report.Notice
	fd.Title = plural(len(lines), "setting is", "settings are") + " overridden by another owner"
	fd.Figures = map[string]any{"settings": lines}
	fd.Evidence = lines
	fd.Remedies = []report.Remedy{{When: report.ForGood,
		What: "Set the value where the winner keeps it, and remove the line that loses: two owners of one value is how it comes back at the worst moment.",
		Risk: "none beyond the value itself"}}
	return []finding{fd}
}

// byAdmin leaves out what packages ship.
func byAdmin(a owners.Assignment) bool {
	return !strings.HasPrefix(a.File, "/usr/lib/") && !strings.HasPrefix(a.File, "/lib/")
}

// settingNotLive: files say one thing, the kernel holds another.
func settingNotLive(f *facts) []finding {
	var lines, commands []string
	f.owned(func(s owners.Setting) {
		if !s.Drifts() || s.Winner < 0 || s.Assignments[s.Winner].AtLeast || rounded(s) {
			return
		}
		w := s.Assignments[s.Winner]
		lines = append(lines, fmt.Sprintf("now %s is %s; %s sets %s at the next boot", s.Key, s.Live, place(w), s.AtBoot))
		commands = append(commands, fmt.Sprintf("sysctl -w %s=%s", s.Key, s.AtBoot))
	})
	if len(lines) == 0 {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Notice
	fd.Title = plural(len(lines), "value differs", "values differ") + " from what the files say"
	fd.Figures = map[string]any{"settings": lines}
	fd.Evidence = append(lines, "Either somebody changed the value by hand, or the file was never applied.")
	fd.Remedies = []report.Remedy{{When: report.ForGood,
		What:     "Decide which is meant. To bring the files' values to life:",
		Commands: commands,
		Risk:     "lowering max under the entries in use refuses new connections: compare with " + f.key("count") + " first"}}
	return []finding{fd}
}

// rounded: the kernel rounds buckets up to a page of slots, 512 of them.
func rounded(s owners.Setting) bool {
	var live, boot int64
	if !strings.HasSuffix(s.Key, "_buckets") {
		return false
	}
	if _, err := fmt.Sscan(s.Live, &live); err != nil {
		return false
	}
	if _, err := fmt.Sscan(s.AtBoot, &boot); err != nil {
		return false
	}
	return live == (boot+511)/512*512
}

// deadSetting: lines that this kernel will never heed.
func deadSetting(f *facts) []finding {
	var lines []string
	f.owned(func(s owners.Setting) {
		for _, a := range s.Assignments {
			if (a.Effect == owners.Dead || a.Effect == owners.Ignored) && byAdmin(a) {
				lines = append(lines, fmt.Sprintf("%s: %s = %s: %s", place(a), a.Written, a.Value, a.Why))
			}
		}
	})
	if len(lines) == 0 {
		return nil
	}
	fd := finding{}
	fd.Severity = report.Notice
	fd.Title = plural(len(lines), "line has", "lines have") + " no effect on this kernel"
	fd.Figures = map[string]any{"settings": lines}
	fd.Evidence = lines
	fd.Remedies = []report.Remedy{{When: report.ForGood,
		What:     "See what each line should be, and correct it.",
		Commands: []string{"ctwarden lint"},
		Risk:     "none: it only reads"}}
	return []finding{fd}
}

// otherNamespaceFull: the host has room and a container's table has not. The
// limit is one number, but each namespace counts for itself.
func otherNamespaceFull(f *facts) []finding {
	limit := f.s.Limits.Max.Or(0)
	if limit <= 0 {
		return nil
	}
	var fds []finding
	for i := range f.s.Namespaces {
		n := &f.s.Namespaces[i]
		fill := float64(n.Count.Or(0)) / float64(limit)
		if n.Inode == f.s.Netns.Inode || !n.Count.Known || fill < nearFill {
			continue
		}
		fd := finding{}
		fd.Severity = report.Warning
		state := pct(fill) + " full"
		if fill >= fullFill {
			fd.Severity = report.Critical
			state = "full"
		}
		fd.Title = fmt.Sprintf("The table of %s is %s", n.Label(), state)
		fd.Figures = map[string]any{"inode": n.Inode, "count": n.Count.N, "max": limit, "drop": n.Counters.Drop, "early_drop": n.Counters.EarlyDrop}
		fd.Evidence = []string{fmt.Sprintf("It holds %s of %s entries; %s have been refused and %s evicted there since it was made.",
			num(n.Count.N), num(limit), count(uint64(n.Counters.Drop), "packet"), plural(uint64(n.Counters.EarlyDrop), "entry", "entries"))}
		look := fmt.Sprintf("ctwarden check --netns %d", n.Pid)
		if n.Pid == 0 && n.Path != "" {
			look = "ctwarden check --netns " + shellQuote(n.Path)
		}
		fd.Remedies = []report.Remedy{{When: report.Now, What: "Look at what fills it.", Commands: []string{look}, Risk: "none: it only reads"}}
		if f.s.Netns.Name != "" { // another one was asked for
			fd.Severity, fd.Remedies = report.Notice, nil
		}
		fds = append(fds, fd)
	}
	return fds
}

// entriesPinned: the count is higher than what can be shown, because dead
// entries wait for a listener that does not read.
func entriesPinned(f *facts) []finding {
	held := f.s.Dying.Or(0)
	if c := f.c; held == 0 && c.Complete && !c.Short && c.CountBefore.Known && c.CountAfter.Known {
		held = min(c.CountBefore.N, c.CountAfter.N) - int64(c.Entries)
	}
	if held < pinnedLeast || float64(held) < pinnedShare*float64(f.peak) {
		return nil
	}
	fd := finding{cause: report.CauseLeak, confidence: report.High}
	fd.Severity = report.Warning
	fd.Figures = map[string]any{"held": held, "count": f.peak}
	fd.Title = plural(held, "entry is", "entries are") + " counted but no longer in the table"
	fd.clause = fmt.Sprintf("%s of the %s entries counted are dead and held", num(held), num(f.peak))
	var culprit *ct.EventListener
	if l := f.s.Lookalikes; l != nil {
		for i := range l.Listeners {
			e := &l.Listeners[i]
			if culprit == nil || e.QueueBytes > culprit.QueueBytes {
				culprit = e
			}
		}
	}
	if !f.s.Dying.Known {
		fd.confidence = report.Low
		fd.doubts = []string{"packets that wait in a queue (NFQUEUE) are counted and not shown either"}
	}
	if culprit != nil {
		who := culprit.Comm
		if who == "" {
			who = "a program"
		}
		fd.clause += fmt.Sprintf(" by %s (netlink port %d), which does not read its events", who, culprit.Pid)
		fd.Evidence = append(fd.Evidence, fmt.Sprintf("The listener %s asks for reliable events and has %s waiting unread; %s lost so far.", who, byteSize(int64(culprit.QueueBytes)), plural(culprit.Drops, "message was", "messages were")))
		fd.Remedies = []report.Remedy{{When: report.Now,
			What:     "See whether it hangs, and restart it: its entries are let go as soon as its socket is closed.",
			Commands: []string{fmt.Sprintf("ps -o pid,stat,wchan,args -p %d", culprit.Pid)},
			Risk:     "it misses events while it is away, and must read the table anew"}}
	}
	fd.Evidence = append(fd.Evidence, "Dead entries whose last event could not be delivered to a reliable listener stay in the count until it is; raising the limit only delays the end.")
	return []finding{fd}
}
