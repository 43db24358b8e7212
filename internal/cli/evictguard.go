package cli

import (
	"fmt"
	"strconv"
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

// formerTimeouts are those that entries may carry besides today's.
func (e *evictor) formerTimeouts() []ct.Timeouts {
	if e.table.timeouts == nil {
		return nil
	}
	v, err := ct.ParseKernelVersion(e.table.id.Kernel)
	if err != nil {
		v = ct.KernelVersion{}
	}
	return evict.Former(e.table.timeouts, v, e.operations())
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
