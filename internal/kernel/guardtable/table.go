package guardtable

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/kernel/netns"
)

// Name is the table's name; its family is inet.
const Name = "ctwarden"

var (
	// ErrTaken is returned where a table of our name belongs to another guard
	// that runs, or to somebody else.
	ErrTaken = errors.New("a table inet " + Name + " is there already")
	// ErrUnsupported is returned where the kernel has no nf_tables for family
	// inet, or lacks what was asked for.
	ErrUnsupported = errors.New("not supported by this kernel's nftables")
	// ErrGone is returned where our table is there no more.
	ErrGone = errors.New("our table inet " + Name + " is gone")
	// ErrChanged is returned where somebody else has changed our table: on
	// kernels before 5.12 they can.
	ErrChanged = errors.New("somebody else has changed our table inet " + Name)
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the table is closed")
)

// Table is our table in one namespace. Its methods may be called from several
// goroutines.
type Table struct {
	mu         sync.Mutex
	ref        string
	sock       *socket
	port       uint32
	persistent bool
	handle     uint64
	can        abilities

	now  state   // what the kernel holds
	want desired // what it was asked to hold
	// unsure is set where the kernel's answer to a change was lost: the next
	// change makes the table anew.
	unsure bool
	// dropped counts what the counters of tables that were made anew had.
	dropped uint64
	print   string // of a persistent table, as we left it
}

// abilities are what this kernel can do, found by trying.
type abilities struct {
	policies, admission bool
	counts, untrack     answer
}

// answer is what a trial has told.
type answer uint8

const (
	no answer = iota
	yes
	untold
)

// Open makes the table in a namespace, named as package netns names them. What
// a guard that has ended left on an old kernel is replaced.
//
// It finds out what the kernel can do by having it check, and then drop, rules
// of each kind, and by a trial of ct count with datagrams to the loopback. For
// those milliseconds the namespace's flows are tracked.
//
// It returns ErrTaken, ErrUnsupported, or an error that is fs.ErrPermission
// without CAP_NET_ADMIN.
func Open(ref string) (*Table, error) {
	t := &Table{ref: ref}
	err := netns.Do(ref, func() (err error) {
		t.sock, err = dial()
		return err
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil {
		return nil, err
	}
	if err := t.open(); err != nil {
		t.sock.close()
		return nil, fmt.Errorf("make table inet %s: %w", Name, err)
	}
	return t, nil
}

func (t *Table) open() (err error) {
	if t.port, err = t.sock.portID(); err != nil {
		return err
	}
	old, err := t.sock.leftover()
	if err != nil {
		return err
	}
	if err = t.found(old); refusesOwner(err) {
		t.persistent = true
		err = t.found(old)
	}
	if err != nil {
		return explain(err)
	}
	t.can = t.probe()
	return t.note()
}

// refusesOwner tells a kernel before 5.12, which knows no owners.
func refusesOwner(err error) bool {
	what, ok := refusedPart(err, unix.EINVAL)
	if !ok {
		what, ok = refusedPart(err, unix.EOPNOTSUPP)
	}
	return ok && isTable(what)
}

// found makes the table, with a leftover's handle in its place.
func (t *Table) found(old uint64) error {
	p := parts{&batch{}, Name}
	if old != 0 {
		p.deleteTable(old)
	}
	t.lay(p)
	return t.sock.commit(p.batch, false)
}

// lay adds the empty table to a batch.
func (t *Table) lay(p parts) {
	if !t.persistent {
		p.newTable(flagOwner)
	} else {
		p.newTable(0)
		p.newChain(mark(), nil)
	}
	p.newCounter(counterName)
}

// explain turns the kernel's refusal of a table into what it means.
func explain(err error) error {
	var r *RefusedError
	if !errors.As(err, &r) {
		return err
	}
	switch {
	case isTable(r.What) && (errors.Is(r.Err, unix.EPERM) || errors.Is(r.Err, unix.EEXIST)):
		return fmt.Errorf("%w: %w", ErrTaken, err)
	case errors.Is(r.Err, unix.EPERM):
		return fmt.Errorf("this needs CAP_NET_ADMIN in the namespace: %w", err)
	case errors.Is(r.Err, unix.EOPNOTSUPP) || errors.Is(r.Err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}

// Persistent reports whether the table outlives its process: before Linux
// 5.12.
func (t *Table) Persistent() bool { return t.persistent }

// Policies reports whether new flows can be given timeouts of their own: from
// 4.19, with CONFIG_NF_CONNTRACK_TIMEOUT.
func (t *Table) Policies() bool { return t.can.policies }

// Admission reports whether new connections of sources can be refused.
func (t *Table) Admission() bool { return t.can.admission }

// Counts reports whether a source's entries can be counted, for Limit's
// PerSource: from 4.18, except where the kernel counts wrongly.
//
// Where the table's fill or a loopback that is down keeps it from being tried in
// the namespace, it is tried in one made for it; where that is not allowed, again
// with each call.
func (t *Table) Counts() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts()
}

func (t *Table) counts() bool {
	if t.can.counts == untold && t.sock != nil {
		t.can.counts = t.tryCount(trialLimit)
		if t.can.counts == untold {
			t.can.counts = tryElsewhere()
		}
		if t.persistent {
			_ = t.note()
		}
	}
	return t.can.counts == yes
}

// desired is what the table shall hold, state what it holds.
type desired struct {
	timeouts policies
	limit    *members // nil: nobody is limited
	untrack  string   // flows that pass before tracking, as notrack.Value has them
}

type state struct {
	timeouts timeoutState
	limit    limitState
	untrack  string
}

// plan adds to a batch what leads from a state to what is desired.
func (s state) plan(p parts, d desired) state {
	return state{s.timeouts.plan(p, d.timeouts), s.limit.plan(p, d.limit), planUntrack(p, s.untrack, d.untrack)}
}

// probe has the kernel check, without doing it, what a guard may ask for.
func (t *Table) probe() abilities {
	try := t.try
	limit, counted := probeMembers()
	can := abilities{
		policies:  try(desired{timeouts: probePolicies()}),
		admission: try(desired{limit: limit}),
		untrack:   untold,
	}
	if try(desired{limit: counted}) {
		can.counts = t.tryCount(trialLimit)
	}
	return can
}

// try has the kernel check what would make an empty table hold something.
func (t *Table) try(d desired) bool {
	p := parts{&batch{}, Name}
	state{}.plan(p, d)
	return t.sock.commit(p.batch, true) == nil
}

// change carries out what is desired, in one transaction.
func (t *Table) change(edit func(*desired)) error {
	if t.sock == nil {
		return ErrClosed
	}
	want := t.want
	edit(&want)
	p := parts{&batch{}, Name}
	from := t.now
	if t.unsure {
		if err := t.again(p); err != nil {
			return err
		}
		from = state{}
	}
	next := from.plan(p, want)
	err := t.sock.commit(p.batch, false)
	switch {
	case errors.Is(err, errLost):
		t.unsure = true
		return err
	case errors.Is(err, unix.ENOENT):
		if gone := t.intact(); gone != nil {
			return fmt.Errorf("%w: %w", gone, err)
		}
		return err
	case err != nil:
		return err
	}
	t.now, t.want = next, want
	if t.unsure || t.persistent {
		t.unsure = false
		return t.note()
	}
	return nil
}

// again adds to a batch the making of the table anew, where it is not known
// what it holds.
func (t *Table) again(p parts) error {
	if n, err := t.counter(counterName); err == nil {
		t.dropped += n
	}
	is, err := t.sock.look(Name)
	if err != nil {
		return err
	}
	p.deleteTable(is.handle)
	t.lay(p)
	return nil
}

// note remembers the table as we left it.
func (t *Table) note() error {
	is, err := t.sock.look(Name)
	if err != nil {
		return err
	}
	t.handle = is.handle
	if t.persistent {
		t.print, err = t.sock.fingerprint(Name)
	}
	return err
}

// Close removes the table and all it holds. Flows that had its timeouts get
// the namespace's with their next packet.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sock == nil {
		return nil
	}
	p := parts{&batch{}, Name}
	p.deleteTable(t.handle)
	err := t.sock.commit(p.batch, false)
	t.sock.close()
	t.sock = nil
	if errors.Is(err, unix.ENOENT) {
		return nil // somebody else has removed it
	}
	if err != nil && !t.persistent {
		return nil // it went with the socket
	}
	return err
}
