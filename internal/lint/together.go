package lint

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// together judges what lines do to each other.
func (l *linter) together() {
	l.ratio()
	l.duplicates()
	l.natAndNotrack()
	l.reloads()
	if l.o.Whole {
		l.beforeModule()
	}
}

// canonical is today's name of a setting under any of its names.
func canonical(key string) string {
	switch {
	case key == "net.nf_conntrack_max", key == "net.ipv4.ip_conntrack_max":
		return prefix + "max"
	case strings.HasPrefix(key, classic):
		return prefix + strings.TrimPrefix(key, classic)
	}
	return key
}

// last finds the last assignment of a setting, as of what will be in force.
func (l *linter) last(file, key string) (*act, int64) {
	for i := len(l.acts) - 1; i >= 0; i-- {
		a := &l.acts[i]
		if a.verb != set || canonical(a.key) != key || file != "" && a.file != file {
			continue
		}
		if n, err := strconv.ParseInt(a.value, 0, 64); err == nil {
			return a, n
		}
	}
	return nil, 0
}

func (l *linter) hashsize(file string) (*act, int64) {
	for i := len(l.acts) - 1; i >= 0; i-- {
		a := &l.acts[i]
		name := strings.TrimSuffix(a.key, " at run time")
		if a.verb != param || name != "nf_conntrack.hashsize" || file != "" && a.file != file {
			continue
		}
		if n, err := strconv.ParseInt(a.value, 0, 64); err == nil {
			return a, n
		}
	}
	return nil, 0
}

// ratio judges max against buckets. Sources that are not a whole machine are
// judged each by itself only where both stand in one.
func (l *linter) ratio() {
	maxAct, limit := l.last("", prefix+"max")
	bucketAct, buckets := l.last("", prefix+"buckets")
	if bucketAct == nil {
		bucketAct, buckets = l.hashsize("")
	}
	switch {
	case maxAct == nil && bucketAct == nil:
	case bucketAct == nil:
		if std := l.defaultBuckets(); limit > std*l.entriesPerBucket() {
			l.report(maxAct, Warning, "max-without-buckets", fmt.Sprintf(
				"nothing sets the number of buckets, at most %d by default: a full table has chains of %d entries%s", std, 2*limit/std, l.chainLimit()),
				l.line(maxAct, prefix+"buckets", strconv.FormatInt(l.bucketsFor(limit), 10))+"   # before the line of max")
		}
	case maxAct == nil:
		l.bucketsAlone(bucketAct, buckets)
	case buckets > 0 && limit > buckets*l.entriesPerBucket():
		l.report(maxAct, Warning, "long-chains", fmt.Sprintf("%d entries in %d buckets: a full table has chains of %d entries%s", limit, buckets, 2*limit/buckets, l.chainLimit()),
			l.line(bucketAct, prefix+"buckets", strconv.FormatInt(l.bucketsFor(limit), 10)))
	case limit > 0 && buckets >= 8*limit:
		l.report(bucketAct, Warning, "sparse-table", fmt.Sprintf("%d buckets for %d entries: early drop looks at eight buckets and finds nothing to evict, so a full table refuses flows although most entries are disposable", buckets, limit),
			l.line(bucketAct, prefix+"buckets", strconv.FormatInt(l.bucketsFor(limit), 10)))
	}
}

func (l *linter) bucketsAlone(a *act, n int64) {
	if a.verb == param && !strings.HasSuffix(a.key, " at run time") {
		l.report(a, Warning, "buckets-without-max", fmt.Sprintf("hashsize at load also sets max to 8 times it, %d: set max as well", 8*n), prefix+"max = "+strconv.FormatInt(n, 10)+"   # in "+ownFile)
		return
	}
	if n > l.defaultBuckets() {
		l.report(a, Warning, "buckets-without-max", "more buckets let no more entries in: nothing sets max", l.line(a, prefix+"max", strconv.FormatInt(n, 10)))
	}
}

// defaultBuckets is what a machine of more than 4 GiB has.
func (l *linter) defaultBuckets() int64 {
	switch {
	case l.o.Version.AtLeast(5, 15):
		return 262144
	case l.o.Version.AtLeast(4, 1):
		return 65536
	}
	return 16384
}

// entriesPerBucket is what a bucket may hold on the mean: from 5.15 to 6.0 chains
// of more than 8 to 31 lose flows; elsewhere a quarter is the custom.
func (l *linter) entriesPerBucket() int64 {
	if l.o.Version.AtLeast(5, 15) && !l.o.Version.AtLeast(6, 1) {
		return 2
	}
	return 4
}

func (l *linter) chainLimit() string {
	if l.o.Version.AtLeast(5, 15) {
		return ", and new flows are refused when chains grow too long"
	}
	return ", each of them met by every packet"
}

func (l *linter) bucketsFor(limit int64) int64 {
	per := int64(2)
	if l.entriesPerBucket() == 2 {
		per = 1
	}
	return (limit/per + 511) / 512 * 512
}

// duplicates blames each assignment that a later one replaces with another
// value. Only sources of one machine, or one file, replace each other.
func (l *linter) duplicates() {
	type place struct{ file, key string }
	later := map[place]*act{}
	for i := len(l.acts) - 1; i >= 0; i-- {
		a := &l.acts[i]
		if a.verb != set || templated(a.value) || !strings.Contains(a.key, "conntrack") || canonical(a.key) == prefix+"count" {
			continue
		}
		p := place{key: canonical(a.key)}
		if !l.o.Whole {
			p.file = a.file
		}
		switch by := later[p]; {
		case by == nil:
			later[p] = a
		case by.value == a.value:
		case by.file == a.file:
			l.report(a, Warning, "overridden", fmt.Sprintf("line %d sets it to %s", by.line, by.value), "")
		default:
			l.report(a, Warning, "overridden", fmt.Sprintf("%s:%d sets it to %s and is applied later", by.file, by.line, by.value), "")
		}
	}
}

// natAndNotrack blames rules that take packets past tracking on a machine that
// translates: untracked packets are not translated, without a word.
func (l *linter) natAndNotrack() {
	nat := map[string]*act{}
	for i := range l.acts {
		if a := &l.acts[i]; a.verb == translate {
			nat[a.file] = a
			nat[""] = a
		}
	}
	for i := range l.acts {
		a := &l.acts[i]
		if a.verb != notrack {
			continue
		}
		by := nat[a.file]
		if l.o.Whole && by == nil {
			by = nat[""]
		}
		if by == nil {
			continue
		}
		where := "line " + strconv.Itoa(by.line)
		if by.file != a.file {
			where = by.file + ":" + strconv.Itoa(by.line)
		}
		l.report(a, Error, "notrack-with-nat", "untracked packets are not translated, and "+where+" translates: these flows leave with their inner addresses",
			"ctwarden notrack says which flows can do without")
	}
}

// reloads blames "sysctl -p" after settings went into sysctl.d: it reads
// /etc/sysctl.conf only.
func (l *linter) reloads() {
	dropIn := map[string]bool{}
	for i := range l.acts {
		a := &l.acts[i]
		if strings.Contains(a.text, "/etc/sysctl.d/") {
			dropIn[a.file] = true
		}
		if a.verb == reload && dropIn[a.file] {
			l.report(a, Warning, "reload-misses", "sysctl -p reads /etc/sysctl.conf only, not sysctl.d", "sysctl --system")
		}
	}
}

// beforeModule blames settings that are applied before the module exists.
func (l *linter) beforeModule() {
	if l.o.BuiltIn == ct.Yes {
		return
	}
	for i := range l.acts {
		if l.acts[i].verb == load && l.acts[i].kind == kindModulesLoad {
			return
		}
	}
	for i := range l.acts {
		a := &l.acts[i]
		if a.verb == set && a.kind == kindSysctl && strings.HasPrefix(canonical(a.key), prefix) {
			l.report(a, Warning, "before-module", "sysctl.d is applied before nf_conntrack is loaded by its first user: the setting is lost at boot", "# in /etc/modules-load.d/conntrack.conf: nf_conntrack")
		}
	}
}
