package evict

import (
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/journal"
)

// Former returns the timeouts that entries may carry besides today's: the
// compiled-in ones of the kernel, and what operations of the journal, all of
// this boot and of one namespace, say to have been in force.
func Former(today *ct.Timeouts, v ct.KernelVersion, ops []*journal.Op) []ct.Timeouts {
	var former []ct.Timeouts
	if !v.IsZero() {
		former = append(former, ct.DefaultTimeouts(v))
	}
	for _, op := range ops {
		t, changed := *today, false
		for _, s := range op.Settings {
			for _, v := range []string{s.Before, s.After} {
				changed = setTimeout(&t, s.Key, v) || changed
			}
			if changed {
				former = append(former, t)
			}
		}
	}
	return former
}

func setTimeout(t *ct.Timeouts, key, value string) bool {
	name, ours := strings.CutPrefix(key, "net.netfilter.nf_conntrack_")
	k, known := ct.ParseTimeoutKey(name)
	n, err := strconv.ParseInt(value, 10, 32)
	if !ours || !known || err != nil {
		return false
	}
	t.Set(k, int32(n))
	return true
}
