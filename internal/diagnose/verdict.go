package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/report"
)

// verdict says it in one sentence: the state of the table, and why.
func verdict(f *facts, all []finding) report.Verdict {
	v := report.Verdict{Confidence: report.High, Codes: []string{}}
	for i := range all {
		if all[i].Severity >= report.Notice && all[i].Code != codeCannotSee && !slices.Contains(v.Codes, all[i].Code) {
			v.Codes = append(v.Codes, all[i].Code)
		}
	}
	cause := gravest(all)
	state := f.state()
	switch {
	case cause != nil:
		v.Cause, v.Confidence, v.Doubts = cause.cause, cause.confidence, cause.doubts
		clause := cause.clause
		if cause.cause == report.CauseMisconfig && !f.pressed() {
			state = ""
		}
		if slices.Contains(cause.explains, codeEarlyDropDefeated) {
			clause += f.defeat()
		}
		v.Text = join(state, clause)
		v.Codes = front(v.Codes, cause.Code)
	case f.full || f.near || f.evicting:
		v.Cause, v.Confidence = report.CauseUnknown, report.Low
		v.Text = join(state, "what fills it could not be told")
		v.Doubts = []string{f.whyUnknown()}
	case f.recent:
		v.Cause, v.Confidence = report.CauseUnknown, report.Low
		v.Text = state + "."
		v.Doubts = []string{"what filled it is no longer in the table"}
		if !f.looked {
			v.Doubts = []string{"a log does not say what filled it; the machine does"}
		}
	default:
		f.calm(&v, all)
	}
	return v
}

// pressed reports whether the table itself is, or lately was, in trouble.
func (f *facts) pressed() bool { return f.full || f.near || f.evicting || f.recent }

// gravest is the unexplained cause that is most severe; of equals, the one
// that stands first.
func gravest(all []finding) *finding {
	var best *finding
	for i := range all {
		fd := &all[i]
		if fd.cause == "" || fd.ExplainedBy != "" || fd.Severity < report.Notice {
			continue
		}
		if best == nil || fd.Severity > best.Severity {
			best = fd
		}
	}
	return best
}

// state is the first half of the verdict.
func (f *facts) state() string {
	full := "The table is full"
	if e := f.ongoing(); e != nil {
		full = "The table has been full since " + e.Start.UTC().Format("15:04:05") + " UTC"
	}
	switch {
	case f.refusing:
		return full + " and refuses new connections"
	case f.full && f.evicting:
		return full + ", and each newcomer takes the place of an entry that is not assured yet"
	case f.full:
		return full
	case f.near:
		s := "The table is " + pct(f.fill) + " full"
		if left, ok := f.timeToFull(); ok {
			s += ", and at this rate has no room in " + span(left)
		}
		return s
	case f.evicting:
		return "The table keeps reaching its limit and evicts entries"
	case f.recent:
		return f.wasFull()
	case f.fillKnown:
		return "The table is " + pct(f.fill) + " full"
	}
	return ""
}

// wasFull sums up what the log says, and how it is now.
func (f *facts) wasFull() string {
	var last *klog.Episode
	for i := range f.episodes() {
		e := &f.in.Log.Episodes[i]
		if e.Kind == klog.TableFull && f.here(e) && (last == nil || e.End.After(last.End)) {
			last = e
		}
	}
	s := "The table was full"
	if last != nil && last.TimeKnown {
		s += " " + f.episodeTime(last)
	}
	if last != nil {
		s += ": " + f.bounds(last) + " were refused"
	}
	if f.fillKnown {
		s += "; now it is " + pct(f.fill) + " full"
	}
	return s
}

func (f *facts) whyUnknown() string {
	if f.c.Entries == 0 {
		return "the entries could not be read"
	}
	return "no pattern stands out among its entries"
}

// calm is the verdict where nothing fills the table.
func (f *facts) calm(v *report.Verdict, all []finding) {
	v.Cause = report.CauseNone
	for i := range all {
		if fd := &all[i]; fd.Severity >= report.Warning {
			v.Text, v.Cause = fd.Title+".", report.CauseMisconfig
			if fd.Code == codeTableWasFull || fd.Code == codeOtherNamespaceFull {
				v.Cause, v.Confidence = report.CauseUnknown, report.Low
				v.Doubts = []string{"that table was not read"}
			}
			return
		}
	}
	for i := range all {
		if all[i].Code == codeTrackingInactive {
			v.Cause = report.CauseNotTracking
			v.Text = all[i].Title + ", so its table cannot fill."
			return
		}
	}
	l := f.s.Limits
	switch {
	case !f.looked && f.in.Log != nil && f.in.Log.Read():
		v.Text = "The log says nothing of a full table."
		v.Confidence = report.Medium
		v.Doubts = []string{"the kernel prints only some of the refusals, and none while it can evict"}
	case f.fillKnown:
		v.Text = fmt.Sprintf("Nothing is wrong: %s of %s entries are in use (%s)", num(f.peak), num(l.Max.N), pct(f.fill))
		if f.watched {
			v.Text += ", and none was refused in " + span(f.interval)
		}
		v.Text += "."
	case l.Count.Known && l.Max.Known:
		v.Text = fmt.Sprintf("%s entries are in use and there is no limit.", num(l.Count.N))
	default:
		v.Cause, v.Confidence = report.CauseUnknown, report.Low
		v.Text = "The state of the table could not be read."
		for _, b := range f.blind {
			v.Doubts = append(v.Doubts, b.What+": "+b.Why)
		}
		v.Doubts = v.Doubts[:min(len(v.Doubts), 3)]
	}
	if f.fillKnown && !f.watched && v.Confidence == report.High {
		v.Confidence = report.Medium
		v.Doubts = []string{"there was only one reading, so refusals within it would not show"}
	}
}

func join(state, clause string) string {
	switch {
	case state == "":
		return sentence(clause) + "."
	case strings.Contains(state, ": "):
		return state + "; " + clause + "."
	}
	return state + ": " + clause + "."
}

// front moves a code to the front.
func front(codes []string, code string) []string {
	out := []string{code}
	for _, c := range codes {
		if c != code {
			out = append(out, c)
		}
	}
	return out
}

// severity weighs a pattern that holds a share of the entries: by what it does
// to the table. ok is false where it does nothing worth a word.
func (f *facts) severity(share float64) (report.Severity, bool) {
	switch {
	case f.full && (f.refusing || f.oddsKnown && f.odds < lowOdds):
		return report.Critical, true
	case f.full || f.near || f.evicting:
		return report.Warning, true
	case f.fillKnown && share*f.fill >= notableHeld:
		return report.Notice, true
	case f.s.Limits.Max.Known && f.s.Limits.Max.N == 0 && share*float64(f.peak) >= notableHeld*float64(max(kernelMax(f.s.Version, f.s.Memory.TotalBytes.Or(0)), minEntries)):
		return report.Notice, true
	case f.recent && f.looked:
		return report.Notice, share >= majority
	}
	return report.Info, false
}

// pattern reports whether a share is what fills the table.
func pattern(share float64) bool { return share >= patternShare }

// tcpHalfOpen are handshakes that are not finished.
func tcpHalfOpen(k ct.ClassKey) bool {
	return k.Proto == ct.TCP && !k.Assured &&
		(k.State == ct.TCPSynSent || k.State == ct.TCPSynRecv || k.State == ct.TCPSynSent2)
}

// tcpClosing are connections that have seen a FIN or a reset.
func tcpClosing(k ct.ClassKey) bool {
	return k.Proto == ct.TCP && k.State >= ct.TCPFinWait && k.State <= ct.TCPClose
}

// lasting are entries that early drop and gc both spare.
func lasting(k ct.ClassKey) bool {
	return k.Assured && !tcpClosing(k)
}

func established(k ct.ClassKey) bool {
	return k.Proto == ct.TCP && k.State == ct.TCPEstablished && k.Assured
}

func unrepliedUDP(k ct.ClassKey) bool {
	return (k.Proto == ct.UDP || k.Proto == ct.UDPLite) && !k.Replied
}
