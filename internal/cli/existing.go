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

// shortenExisting brings lowered timeouts to the entries that are there: those
// that have been idle for longer than the new timeout, and than keepIdle, are
// shortened softly, with all that evict spares.
func (o *applyFlags) shortenExisting(ctx context.Context, env *Env, items []tune.Item) error {
	for _, it := range items {
		where, ok := existingSelection(it, o.keepIdle)
		if !ok {
			continue
		}
		fmt.Fprintf(env.Stdout, "\nExisting entries that wait for %s:\n", strings.TrimPrefix(it.Key, tune.Prefix))
		e := &evictor{env: env, soft: existingGrace, settle: 2 * time.Second, noWait: true, yes: true, stateDir: o.stateDir}
		e.sel.flags.Where = where
		if err := e.run(ctx); err != nil && !errors.Is(err, error(found)) {
			return fmt.Errorf("shorten existing entries: %w", err)
		}
	}
	return nil
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
