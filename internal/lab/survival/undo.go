package survival

import (
	"fmt"
	"slices"
	"strings"
)

// settings are what a guard may change, by name.
func (f *field) settings() map[string]string {
	f.t.Helper()
	all := make(map[string]string)
	for line := range strings.Lines(f.guarded.Exec("sh", "-c", "grep -H . /proc/sys/net/netfilter/*timeout* /proc/sys/net/netfilter/nf_conntrack_tcp_* /proc/sys/net/netfilter/nf_conntrack_acct 2>/dev/null")) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			all[key] = value
		}
	}
	all["rules"] = f.guarded.Exec("nft", "-s", "list", "tables")
	return all
}

// left says what a guard has left behind. A limit that it could not lower yet
// is lowered by its cleanup once the table is empty.
func (f *field) left(r *Result, before map[string]string, g *guard) (fails []string) {
	now := f.settings()
	for key, was := range before {
		if now[key] != was {
			fails = append(fails, fmt.Sprintf("%s: %q is %q", key, was, now[key]))
		}
	}
	if len(now) != len(before) {
		fails = append(fails, fmt.Sprintf("%d settings are %d", len(before), len(now)))
	}
	if f.limits.Max() != r.Max || f.limits.Buckets() != r.Buckets {
		f.guarded.Exec("conntrack", "-F")
		if err := g.cleanup(); err != nil {
			fails = append(fails, err.Error())
		}
	}
	if n := f.limits.Max(); n != r.Max {
		fails = append(fails, fmt.Sprintf("max %d is %d", r.Max, n))
	}
	if n := f.limits.Buckets(); n != r.Buckets {
		fails = append(fails, fmt.Sprintf("buckets %d are %d", r.Buckets, n))
	}
	slices.Sort(fails)
	return fails
}
