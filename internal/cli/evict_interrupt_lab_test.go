package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestInterruptedEviction: it says how far it came, and its document is whole.
func TestInterruptedEviction(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "stopped")
	h.Track()
	h.Fill(lab.Class{Count: 100, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	state := t.TempDir()
	old := journal.New(disk.OS{}, state, journal.Options{Now: func() time.Time { return time.Now().Add(-2 * time.Hour) }})
	killed, err := old.Begin(t.Context(), journal.Op{Actor: "evict", Boot: bootID(), Entries: &journal.Entries{Action: "delete"}})
	if err != nil {
		t.Fatal(err)
	}
	rebooted, err := old.Begin(t.Context(), journal.Op{Actor: "evict", Boot: "another", Entries: &journal.Entries{Action: "delete"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var out, said bytes.Buffer
	env := &Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &said, Getenv: func(string) string { return "" }, Now: time.Now,
		Args: []string{"evict", "--json", "--yes", "--netns", h.Name, "--state-dir", state, "-p", "tcp", "--rate", "20", "--force", "whole-table"}}
	code := Run(ctx, env)
	var r evictReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v\n%s%s", err, out.String(), said.String())
	}
	if code != ExitFailed || !r.Done || r.Changed == 0 || r.Changed == 100 || h.Count() != 100-r.Changed ||
		!strings.Contains(said.String(), "interrupted after ") {
		t.Errorf("exit code %d, %d left, %+v\n%s", code, h.Count(), r, said.String())
	}
	log, err := old.Read()
	if err != nil || log.Op(killed).State != journal.Confirmed || log.Op(rebooted).State != journal.Void {
		t.Errorf("evictions that nobody ended: %s, %s, %v", log.Op(killed).State, log.Op(rebooted).State, err)
	}
}

// TestTakenBackWhileWaiting: the command that waits for a soft eviction hears
// of its undoing.
func TestTakenBackWhileWaiting(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "undone")
	h.Track()
	h.Fill(lab.Class{Count: 20, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	state := t.TempDir()
	waits := make(chan said, 1)
	go func() {
		waits <- ctw(t, "evict", "--netns", h.Name, "--state-dir", state, "-p", "tcp", "--soft", "4s", "--yes")
	}()
	j := journal.New(disk.OS{}, state, journal.Options{})
	var id string
	for end := time.Now().Add(5 * time.Second); id == "" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if log, err := j.Read(); err == nil && len(log.Ops) == 1 && log.Ops[0].State == journal.Written {
			id = log.Ops[0].ID
		}
	}
	if r, undo := evicts(t, h, state, "--undo", id); undo.code != ExitOK || r.Action != "undo" || r.Changed != 20 {
		t.Fatalf("undo %q: %+v", id, undo)
	}
	if s := <-waits; s.code != ExitOK || !strings.Contains(s.out, "taken back meanwhile") || h.Count() != 20 {
		t.Errorf("%d left, %+v", h.Count(), s)
	}
}

// TestLimitBeyondTheTable: a limit that bounds nothing does not make a flush
// any smaller.
func TestLimitBeyondTheTable(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "limit")
	h.Track()
	h.Fill(lab.Class{Count: 100, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	state := t.TempDir()
	if _, s := evicts(t, h, state, "-p", "tcp", "--limit", "100000", "--yes"); s.code != ExitFailed || h.Count() != 100 || !strings.Contains(s.err, "every entry of the table") {
		t.Errorf("%d left, %+v", h.Count(), s)
	}
	if _, s := evicts(t, h, state, "-p", "tcp", "--limit", "10", "--yes"); s.code != ExitOK || h.Count() != 90 {
		t.Errorf("%d left, %+v", h.Count(), s)
	}
}
