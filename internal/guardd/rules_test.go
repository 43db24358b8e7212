package guardd

import (
	"bytes"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/guardtable"
)

func limitTo(source string) guard.Action {
	return guard.Action{Kind: guard.KindLimit, Why: "of the test",
		Limit: &guard.Limit{Sources: []netip.Prefix{netip.MustParsePrefix(source)}, Seconds: 60}}
}

// TestOthersReloadRules: while the guard limits a source, somebody loads another
// ruleset, as firewall managers do: all is flushed first.
func TestOthersReloadRules(t *testing.T) {
	b := newBed(t)
	c := begin(t, b.script(limitTo("203.0.113.9/32")))
	c.wants("script over")
	h := b.pair.Server
	const theirs = "table inet theirs {\n\tchain c {\n\t}\n}\n"
	for range 20 {
		h.NFT("flush ruleset\n" + theirs)
	}
	if out := h.Exec("nft", "list", "ruleset"); !strings.Contains(out, "203.0.113.9") || !strings.Contains(out, "table inet theirs") {
		t.Errorf("after the reloads:\n%s", out)
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
	if out := h.Exec("nft", "list", "ruleset"); out != theirs {
		t.Errorf("after the guard:\n%s", out)
	}
}

// TestNamespaceGoes: the namespace is removed under the guard, whose sockets are
// all that holds it. The guard lets go of it and ends.
func TestNamespaceGoes(t *testing.T) {
	b := newBed(t)
	c := begin(t, b.script(limitTo("203.0.113.9/32")))
	c.wants("script over")
	if out, err := exec.Command("ip", "netns", "del", b.pair.Server.Name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if c.ends() == nil {
		t.Error("the guard ended as if nothing had happened")
	}
	if !strings.Contains(c.log(), "nothing is left to guard") {
		t.Errorf("the guard does not say why it ended:\n%s", c.log())
	}
	client := b.pair.Client
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := client.TryExec("ip", "link", "show", client.Dev); err != nil {
			return // the cable has gone with the namespace
		}
		if time.Now().After(end) {
			t.Fatal("something still holds the namespace")
		}
	}
}

// brokenTable is a table that fails.
type brokenTable struct {
	err, intact error
	closed      int
}

func (b *brokenTable) SetTimeouts(ct.Timeouts) error { return b.err }
func (b *brokenTable) Limit(guard.Limit) error       { return b.err }
func (b *brokenTable) Untrack(string) error          { return b.err }
func (b *brokenTable) Intact() error                 { return b.intact }
func (b *brokenTable) Policies() bool                { return true }
func (b *brokenTable) Admission() bool               { return true }
func (b *brokenTable) Close() error                  { b.closed++; return nil }

// TestTableFails: a refusal leaves the table where it is; one that has gone, or
// been changed, is let go and made anew at the next use.
func TestTableFails(t *testing.T) {
	for name, c := range map[string]struct {
		err, intact error
		anew        bool
	}{
		"refused":     {unix.ENOMEM, nil, false},
		"answer lost": {unix.ENOBUFS, nil, false},
		"gone":        {unix.ENOENT, guardtable.ErrGone, true},
		"changed":     {unix.ENOENT, guardtable.ErrChanged, true},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			broken, fresh, opened := &brokenTable{err: c.err, intact: c.intact}, &brokenTable{}, 0
			h := newHands(&logger{w: &log}, &Options{Fault: func(string) {}}, nil)
			h.table = broken
			h.openRT = func() (ruleTable, error) { opened++; return fresh, nil }
			a := limitTo("203.0.113.9/32")
			if r := h.carryOut(t.Context(), a); !errors.Is(r.Err, c.err) {
				t.Errorf("the policy is told %v", r.Err)
			}
			if (broken.closed == 1) != c.anew {
				t.Errorf("closed %d times", broken.closed)
			}
			broken.err = nil
			if r := h.carryOut(t.Context(), a); r.Err != nil || (opened == 1) != c.anew {
				t.Errorf("the next time: %v, opened %d times", r.Err, opened)
			}
			if told := strings.Contains(log.String(), "made anew"); told != c.anew {
				t.Errorf("the log says %q", log.String())
			}
		})
	}
}

// TestNoTable: where it cannot be made, undoing what was never done is no error,
// and doing is.
func TestNoTable(t *testing.T) {
	h := newHands(&logger{w: &bytes.Buffer{}}, &Options{Fault: func(string) {}}, nil)
	h.openRT = func() (ruleTable, error) { return nil, guardtable.ErrTaken }
	if r := h.carryOut(t.Context(), limitTo("203.0.113.9/32")); !errors.Is(r.Err, guardtable.ErrTaken) {
		t.Errorf("limit: %v", r.Err)
	}
	undo := guard.Action{Kind: guard.KindLimit, Undo: true, Limit: &guard.Limit{}}
	if r := h.carryOut(t.Context(), undo); r.Err != nil {
		t.Errorf("undo: %v", r.Err)
	}
}
