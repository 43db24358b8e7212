package anonymize

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// addressLike matches whatever could be an address or prefix; what is one,
// netip decides.
var addressLike = regexp.MustCompile(`(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?:/[0-9]{1,2})?|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?:[0-9]{0,3}(?:\.[0-9]{1,3}){3})?(?:/[0-9]{1,3})?`)

// hardware matches MAC addresses, also the 14 bytes of a logged frame.
var hardware = regexp.MustCompile(`\b(?:[0-9a-fA-F]{2}:){5,}[0-9a-fA-F]{2}\b`)

// home matches the user in a path.
var home = regexp.MustCompile(`(/home/|/Users/)([^/\s"':]+)`)

// Name says that a word is a name of this sort, "host" or "user", and is to
// become "host-1", "host-2" and so on wherever it stands. Very short words,
// and those that are in every text, stay.
func (m *Mapper) Name(sort, word string) {
	if len(word) < 2 || common[strings.ToLower(word)] || m.names[word] != "" {
		return
	}
	if _, err := netip.ParseAddr(word); err == nil {
		return
	}
	m.count[sort]++
	m.names[word] = fmt.Sprintf("%s-%d", sort, m.count[sort])
}

// common are names that reveal nothing.
var common = map[string]bool{"localhost": true, "root": true, "nobody": true, "daemon": true,
	"kernel": true, "linux": true, "unknown": true, "ct": true, "nf": true}

// Text replaces every address, hardware address and known name in a text.
func (m *Mapper) Text(s string) string {
	s = hardware.ReplaceAllString(s, "00:00:00:00:00:00")
	s = addressLike.ReplaceAllStringFunc(s, m.word)
	s = home.ReplaceAllStringFunc(s, func(path string) string {
		parts := home.FindStringSubmatch(path)
		m.Name("user", parts[2])
		return parts[1] + cmp.Or(m.names[parts[2]], parts[2])
	})
	return m.replaceNames(s)
}

// word maps one address or prefix; what only looks like one stays.
func (m *Mapper) word(w string) string {
	if p, err := netip.ParsePrefix(w); err == nil {
		return m.Prefix(p).String()
	}
	addr, rest, slash := strings.Cut(w, "/")
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return w
	}
	if slash {
		return m.Addr(a).String() + "/" + rest
	}
	return m.Addr(a).String()
}

// replaceNames replaces whole words, the longest names first.
func (m *Mapper) replaceNames(s string) string {
	names := make([]string, 0, len(m.names))
	for n := range m.names {
		if strings.Contains(s, n) {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	for _, n := range names {
		s = replaceWord(s, n, m.names[n])
	}
	return s
}

func replaceWord(s, word, by string) string {
	var b strings.Builder
	for {
		i := strings.Index(s, word)
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		end := i + len(word)
		b.WriteString(s[:i])
		if i > 0 && isWord(s[i-1]) || end < len(s) && isWord(s[end]) {
			b.WriteString(word)
		} else {
			b.WriteString(by)
		}
		s = s[end:]
	}
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

// Value replaces the texts in a decoded JSON document. Its keys stay, and so
// does all below those that verbatim names.
func (m *Mapper) Value(v any, verbatim ...string) any {
	switch v := v.(type) {
	case string:
		return m.Text(v)
	case []any:
		for i := range v {
			v[i] = m.Value(v[i], verbatim...)
		}
	case map[string]any:
		for k, x := range v {
			if !slices.Contains(verbatim, k) {
				v[k] = m.Value(x, verbatim...)
			}
		}
	}
	return v
}
