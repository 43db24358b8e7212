package explain

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/klog"
)

// finder collects the topics of one text.
type finder struct {
	version ct.KernelVersion
	topics  []Topic
	have    map[string]bool
}

// maxTopics bounds what one text can ask for.
const maxTopics = 64

func (f *finder) add(group string, e *entry, seen ...string) {
	if e == nil || len(f.topics) >= maxTopics {
		return
	}
	if f.have[e.id] {
		return
	}
	f.have[e.id] = true
	t := f.topic(group, e)
	t.Seen = seen
	f.topics = append(f.topics, t)
}

// logLines recognises what the kernel logs, in any format.
func (f *finder) logLines(text string) {
	c := klog.NewCollector(klog.Options{Version: f.version})
	if c.Feed("text", strings.NewReader(text), klog.Hints{}) != nil {
		return
	}
	r := c.Report()
	for i := range r.Episodes {
		e := &r.Episodes[i]
		f.add("message", find(messages, e.Kind.String()), episodeSeen(e)...)
		if e.Suppressed > 0 {
			f.add("message", find(messages, klog.Suppressed.String()), fmt.Sprintf("%d messages were not printed.", e.Suppressed))
		}
	}
	for i := range r.Neighbours {
		n := &r.Neighbours[i]
		f.add("message", find(messages, n.Kind.String()), neighbourSeen(n)...)
	}
}

func episodeSeen(e *klog.Episode) (seen []string) {
	if e.NetnsInode != 0 {
		seen = append(seen, fmt.Sprintf("The namespace is the one with inode %d: lsns -t net shows it, and so does ls -l /proc/*/ns/net | grep %d.", e.NetnsInode, e.NetnsInode))
	}
	if e.Era != klog.EraUnknown {
		seen = append(seen, fmt.Sprintf("By its wording the kernel is %s.", e.Era))
	}
	if e.RefusedMax > e.RefusedMin {
		seen = append(seen, fmt.Sprintf("Refused: at least %d, at most %d that the log accounts for.", e.RefusedMin, e.RefusedMax))
	}
	return seen
}

func neighbourSeen(n *klog.Neighbour) (seen []string) {
	switch {
	case n.Kind == klog.SynFlood:
		seen = append(seen, "The listening socket: "+n.Detail+".")
	case n.Max.Known:
		seen = append(seen, fmt.Sprintf("%d buckets, max %d.", n.Buckets.N, n.Max.N))
	case n.Kind == klog.InvalidPacket || n.Kind == klog.HelperDrop || n.Kind == klog.NeighbourOverflow || n.Kind == klog.SettingNotApplied:
		if n.Detail != "" {
			seen = append(seen, "It is about "+n.Detail+".")
		}
	}
	if n.Suppressed > 0 {
		seen = append(seen, fmt.Sprintf("%d messages were not printed.", n.Suppressed))
	}
	return seen
}

// errorText recognises what the C library calls an error, anywhere in a line.
func (f *finder) errorText(text string) {
	low := strings.ToLower(text)
	for i := range errors {
		for _, n := range errors[i].names {
			if strings.Contains(n, " ") && strings.Contains(low, n) {
				f.add("error", &errors[i])
			}
		}
	}
}

// whole looks the text up as one name, with or without a value.
func (f *finder) whole(text string) {
	name, value := normalize(text)
	if strings.Contains(value, " ") { // "hashsize = max / 4" is a rule, not a setting
		return
	}
	for _, t := range tables {
		for i := range t.entries {
			if e := &t.entries[i]; slices.Contains(e.names, name) {
				f.add(t.group, e, f.judge(t.group, e, text, value)...)
			}
		}
	}
}

// words looks every word of the text up: a line of conntrack -L or -S, the
// header of /proc/net/stat/nf_conntrack, a list of settings. In running text
// only what is written like a name counts as one.
func (f *finder) words(text string) {
	var names []string
	words := wordPattern.FindAllString(text, 200)
	for _, w := range words {
		if name, _ := normalize(w); known(name) {
			names = append(names, w)
		}
	}
	listed := len(names) >= 3 && 2*len(names) >= len(words)
	for _, w := range names {
		if listed || len(w) >= 3 && (strings.ContainsAny(w, "_=.") || strings.ToUpper(w) == w) {
			f.whole(w)
		}
	}
}

var wordPattern = regexp.MustCompile(`[A-Za-z][A-Za-z0-9_./-]*(=-?[0-9]+)?`)

func known(name string) bool {
	for _, t := range tables {
		if find(t.entries, name) != nil {
			return true
		}
	}
	return false
}

// find returns the entry with this id or name.
func find(entries []entry, name string) *entry {
	for i := range entries {
		if entries[i].id == name || slices.Contains(entries[i].names, name) {
			return &entries[i]
		}
	}
	return nil
}

// question finds the question that shares most words with the text.
func (f *finder) question(text string) {
	words := wordSet(text)
	var best *entry
	most := 0
	for i := range questions {
		for _, ask := range questions[i].asks {
			if n := allIn(strings.Fields(ask), words); n > most {
				best, most = &questions[i], n
			}
		}
	}
	f.add("question", best)
}

// allIn returns how many words are asked for, 0 unless the text has all of
// them; a word matches any that begins with it.
func allIn(ask []string, words []string) int {
	for _, a := range ask {
		if !slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, a) }) {
			return 0
		}
	}
	return len(ask)
}

func wordSet(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_')
	})
}

// normalize writes a name as the tables do: in lower case, dotted, without the
// prefixes of any era, and without the value, which it returns.
func normalize(text string) (name, value string) {
	name = strings.ToLower(strings.TrimSpace(text))
	name = strings.TrimRight(name, ".?!:;,")
	for _, cut := range []string{"sysctl -w ", "sysctl -n ", "sysctl ", "$", "- "} {
		name = strings.TrimPrefix(name, cut)
	}
	name, value, _ = strings.Cut(name, "=")
	name, value = strings.Trim(name, " \"'`[]()"), strings.TrimSpace(value)
	if i := strings.Index(name, "proc/sys/"); i >= 0 {
		name = name[i+len("proc/sys/"):]
	}
	if strings.HasPrefix(name, "net/") {
		name = strings.ReplaceAll(name, "/", ".")
	}
	for _, p := range []string{"net.netfilter.", "net.ipv4.netfilter.", "net.ipv4.ip_conntrack_max", "net.nf_conntrack_max",
		"/sys/module/nf_conntrack/parameters/", "node_nf_conntrack_stat_"} {
		if rest, ok := strings.CutPrefix(name, p); ok {
			name = cmp.Or(rest, "nf_conntrack_max")
		}
	}
	if rest, ok := strings.CutPrefix(name, "ip_conntrack_"); ok {
		name = "nf_conntrack_" + rest
	}
	return name, value
}

// judge says what is to be said of this very name and value.
func (f *finder) judge(group string, e *entry, text, value string) (seen []string) {
	if group != "setting" {
		return nil
	}
	low := strings.ToLower(text)
	if strings.Contains(low, "ip_conntrack") || strings.Contains(low, "net.ipv4.netfilter") || strings.Contains(low, "net/ipv4/netfilter") {
		if f.version.IsZero() || f.version.AtLeast(4, 9) {
			seen = append(seen, "This name is gone since 4.9; today it is "+fullName(e.names[0])+".")
		} else {
			seen = append(seen, "This is the old name; the newer one, since 2.6.18, is "+fullName(e.names[0])+".")
		}
	}
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		if s := judgeValue(e.names[0], n); s != "" {
			seen = append(seen, s)
		}
	}
	return seen
}

// Suggest returns the names that look most like the text, best first.
func Suggest(text string) []string {
	type scored struct {
		name  string
		score float64
	}
	var list []scored
	want, _ := normalize(text)
	for _, t := range tables {
		for i := range t.entries {
			for _, n := range t.entries[i].names {
				if s := similarity(want, n); s > 0.3 {
					list = append(list, scored{n, s})
				}
			}
		}
	}
	slices.SortStableFunc(list, func(a, b scored) int { return cmp.Compare(b.score, a.score) })
	var names []string
	for _, s := range list[:min(len(list), 5)] {
		if !slices.Contains(names, s.name) {
			names = append(names, s.name)
		}
	}
	return names
}

// similarity is Dice's coefficient over pairs of letters, 0 to 1.
func similarity(a, b string) float64 {
	if len(a) < 2 || len(b) < 2 {
		return 0
	}
	pairs := map[string]int{}
	for i := range len(a) - 1 {
		pairs[a[i:i+2]]++
	}
	common := 0
	for i := range len(b) - 1 {
		if pairs[b[i:i+2]] > 0 {
			pairs[b[i:i+2]]--
			common++
		}
	}
	return 2 * float64(common) / float64(len(a)+len(b)-2)
}

// Topics lists every name that is known, by group.
func Topics() map[string][]string {
	m := map[string][]string{}
	for _, t := range tables {
		for i := range t.entries {
			m[t.group] = append(m[t.group], t.entries[i].names[0])
		}
	}
	return m
}
