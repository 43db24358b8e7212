package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/evict"
	"github.com/ctwarden/ctwarden/internal/flowgroup"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/protect"
)

// protect finds out what must be spared.
func (e *evictor) protect() error {
	s, err := e.table.readSurroundings()
	if err != nil {
		return err
	}
	e.table.keepTimeouts(&s)
	e.around = s
	if e.filter.Uses("idle_min") && e.table.timeouts == nil {
		return &HintError{fmt.Errorf("idle times are unknown: %s", e.table.whyNot),
			"select by something else, as --state, -s or -d"}
	}
	e.owners = new(owners)
	if err := e.owners.open(e.table); err != nil {
		if !e.guard.Force.Has(evict.SSH) {
			return &HintError{fmt.Errorf("SSH sessions cannot be told from other connections: %w", err),
				"--force ssh goes ahead without sparing them"}
		}
		e.owners = nil
		return nil
	}
	return protect.Fill(e.guard, e.sel.netns, e.owners.index, e.owners.self, e.env.Getenv("SSH_CONNECTION"))
}

// local reports whether a flow ends on this machine, so that it is no
// gateway's.
func (e *evictor) local(f *ct.Flow) bool {
	return e.owners != nil && (e.owners.local(f.Orig.Src) || e.owners.local(f.Reply.Src))
}

// orNil makes a nil interface of a nil pointer.
func (o *owners) orNil() flowgroup.Owners {
	if o == nil {
		return nil
	}
	return o
}

// formerTimeouts are those that entries may carry besides today's: the
// compiled-in ones, and what the journal knows to have been replaced.
func (e *evictor) formerTimeouts() []ct.Timeouts {
	if e.table.timeouts == nil {
		return nil
	}
	var former []ct.Timeouts
	if v, err := ct.ParseKernelVersion(e.table.id.Kernel); err == nil {
		former = append(former, ct.DefaultTimeouts(v))
	}
	for _, op := range e.operations() {
		t, changed := *e.table.timeouts, false
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

// operations are those that the journal knows of this namespace since boot. A
// journal that cannot be read says nothing here; writing it will fail loudly.
func (e *evictor) operations() []*journal.Op {
	log, err := openJournal(e.env, e.stateDir).Read()
	if err != nil {
		return nil
	}
	var ops []*journal.Op
	for _, op := range log.Ops {
		if op.Boot == bootID() && op.Netns == e.table.NetnsInode() {
			ops = append(ops, op)
		}
	}
	return ops
}

// recentlyChanged returns the ids of entries whose timeouts were shortened by
// an eviction that is still running down: what is left of them tells nothing.
func (e *evictor) recentlyChanged() (map[uint32]bool, error) {
	if !e.usesTime() {
		return nil, nil
	}
	j := openJournal(e.env, e.stateDir)
	ids := make(map[uint32]bool)
	for _, op := range e.operations() {
		soft, err := strconv.ParseInt(op.Data[dataSoft], 10, 64)
		if err != nil || e.env.Now().Sub(op.Time) > time.Duration(soft)*time.Second+time.Minute {
			continue
		}
		entries, err := j.ReadSide(op)
		if err != nil {
			return nil, err
		}
		for _, s := range entries {
			ids[s.ID] = true
		}
	}
	return ids, nil
}
