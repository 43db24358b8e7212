// Package observe reads one machine, in one network namespace, into a
// [ct.Snapshot]: settings, counters, memory, rules and the table itself, once
// or twice. It changes nothing, and no single source that cannot be read makes
// it fail: each becomes a [ct.Blind] that says what is missing, why, and how to
// see it.
package observe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
)

// Defaults for the options of a command.
const (
	DefaultObserve = 2 * time.Second
	DefaultPanel   = 20000
)

// Options say what to read.
type Options struct {
	// Root is the folder of a recorded machine; "" is the live one.
	Root string
	// Netns is a network namespace as [netns.Path] understands it; "" is the
	// caller's own.
	Netns string
	// Observe is the time between two readings; 0 is one reading only, without
	// rates.
	Observe time.Duration
	// Full reads every entry of the table. Otherwise a panel is read, a dump
	// that is closed early.
	Full bool
	// Panel is how many entries the panel holds, 0 for DefaultPanel.
	Panel int
	// Top is how many heavy hitters of each kind are told, 0 for 20.
	Top int
	// Seed makes sketches and samples repeatable; 0 is a fresh one.
	Seed uint64
	// Progress, if set, is told what is being done, and how much of it is
	// done, 0 to 1; negative where that is not known.
	Progress func(doing string, done float64)
}

func (o *Options) fill() {
	if o.Panel <= 0 {
		o.Panel = DefaultPanel
	}
	for o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	if o.Progress == nil {
		o.Progress = func(string, float64) {}
	}
}

// ErrCannotEnter says that the namespace is there and may not be entered.
var ErrCannotEnter = errors.New("network namespace cannot be entered")

// Machine reads a machine. The error tells of a namespace that does not exist
// (netns.ErrNotFound) or cannot be entered, or that ctx has ended; every other
// obstacle is told in the snapshot.
func Machine(ctx context.Context, o Options) (*ct.Snapshot, error) {
	o.fill()
	r := &reader{o: o, fs: procfs.FS{Root: o.Root}, tree: sysctl.Tree{Root: o.Root}, snap: &ct.Snapshot{}}
	r.snap.Netns.Name = o.Netns
	o.Progress("reading settings", -1)
	if err := r.inside(func() { r.settled(ctx) }); err != nil {
		if err := r.fromOutside(err); err != nil {
			return nil, err
		}
		r.outside()
	}
	if err := r.moving(ctx); err != nil {
		return nil, err
	}
	r.judgeTracking()
	return r.snap, nil
}

// reader is one reading under way.
type reader struct {
	o     Options
	fs    procfs.FS
	tree  sysctl.Tree
	snap  *ct.Snapshot
	mods  *procfs.Modules // nil if they could not be told
	rules rules
}

// inside runs f in the namespace.
func (r *reader) inside(f func()) error {
	if r.o.Root != "" || r.fs.Pid != 0 {
		f()
		return nil
	}
	return netns.Do(r.o.Netns, func() error { f(); return nil })
}

// fromOutside prepares for a namespace that could not be entered. That of a
// process can be seen in part without.
func (r *reader) fromOutside(err error) error {
	if errors.Is(err, netns.ErrNotFound) || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	pid, notPid := strconv.ParseUint(r.o.Netns, 10, 31)
	if notPid != nil || pid == 0 {
		return fmt.Errorf("%w: %w", ErrCannotEnter, err)
	}
	r.fs.Pid = int(pid)
	if _, statErr := r.fs.ConntrackStat(); statErr != nil {
		return fmt.Errorf("%w: %w", ErrCannotEnter, err)
	}
	r.blind("settings, rules and entries of the namespace", err, "run it as root")
	return nil
}

// blind notes that something could not be seen.
func (r *reader) blind(what string, err error, how string) {
	r.snap.Blind = append(r.snap.Blind, ct.Blind{What: what, Why: err.Error(), How: how})
}

// asRoot is the advice for a source that rights are missing for.
func asRoot(err error, otherwise string) string {
	if errors.Is(err, fs.ErrPermission) {
		return "run it as root"
	}
	return otherwise
}
