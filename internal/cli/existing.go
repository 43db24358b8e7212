package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// existingGrace is what an entry that is idle beyond a new timeout is left: one
// more packet renews it.
const existingGrace = 2 * time.Minute

// existingWhere selects, for a timeout, the entries that wait for it.
var existingWhere = map[ct.TimeoutKey]string{
	ct.TimeoutTCPSynSent:     `proto == "tcp" && state == "SYN_SENT"`,
	ct.TimeoutTCPSynRecv:     `proto == "tcp" && state == "SYN_RECV"`,
	ct.TimeoutTCPEstablished: `proto == "tcp" && state == "ESTABLISHED"`,
	ct.TimeoutTCPFinWait:     `proto == "tcp" && state == "FIN_WAIT"`,
	ct.TimeoutTCPTimeWait:    `proto == "tcp" && state == "TIME_WAIT"`,
}

// existing are the entries that a plan's lowered timeouts are to reach: those
// idle for longer than the new timeout, and than --keep-idle. They are chosen
// before the timeouts change, because afterwards nobody can tell from what an
// entry has left which of both it was given.
type existing struct{ evictors []*evictor }

func (o *applyFlags) chooseExisting(ctx context.Context, env *Env, items []tune.Item) (x existing, err error) {
	for _, it := range items {
		where, ok := existingSelection(it, o.keepIdle)
		if !o.existing || !ok {
			continue
		}
		e := &evictor{env: env, soft: existingGrace, settle: 2 * time.Second, noWait: true, yes: true, stateDir: o.stateDir}
		e.sel.flags.Where = where
		x.evictors = append(x.evictors, e)
		if err := e.prepare(ctx); err != nil {
			return x, errors.Join(fmt.Errorf("choose existing entries: %w", err), x.close())
		}
	}
	return x, nil
}

// prepare does what run does before it acts.
func (e *evictor) prepare(ctx context.Context) (err error) {
	if err := e.check(); err != nil {
		return err
	}
	if e.table, err = openTable(e.env, ""); err != nil {
		return err
	}
	e.begin()
	if err := e.protect(); err != nil {
		return err
	}
	return e.choose(ctx)
}

// shorten shortens them softly: one more packet renews an entry.
func (x existing) shorten(ctx context.Context) error {
	for _, e := range x.evictors {
		fmt.Fprintf(e.env.Stdout, "\nExisting entries, %s:\n", e.sel.flags.Where)
		e.describe()
		done := e.chosen.Len() > 0
		if done {
			if err := e.carryOut(ctx); err != nil {
				return err
			}
		}
		if err := e.finish(done); err != nil && !errors.Is(err, error(found)) {
			return err
		}
	}
	return nil
}

func (x existing) close() error {
	var err error
	for _, e := range x.evictors {
		if e.table != nil {
			err = errors.Join(err, e.table.Close())
		}
	}
	return err
}

// existingSelection is the selection for a timeout that was lowered.
func existingSelection(it tune.Item, keepIdle time.Duration) (where string, ok bool) {
	name, isTimeout := strings.CutPrefix(it.Key, tune.Prefix)
	key, known := ct.ParseTimeoutKey(name)
	where, has := existingWhere[key]
	to, err1 := strconv.Atoi(it.To)
	from, err2 := strconv.Atoi(it.From)
	if !isTimeout || !known || !has || err1 != nil || err2 != nil || to >= from {
		return "", false
	}
	idle := max(time.Duration(to)*time.Second, keepIdle)
	return fmt.Sprintf("%s && idle_min > %ds", where, int(idle.Seconds())), true
}
