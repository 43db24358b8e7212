package guardd

import (
	"errors"
	"io"
	"time"

	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
)

// Policy decides; [guard.Policy] is one.
type Policy interface {
	Step(guard.Reading) guard.Decision
	Done(guard.Result)
	SetSurroundings(guard.Surroundings)
	SetConfig(guard.Config)
	Level() guard.Level
	Undo(guard.Reading) []guard.Action
	// Unfinished is the record, so far, of an incident that is not over.
	Unfinished() *guard.Incident
	// Proposals are those that stand, whatever happens.
	Proposals() []guard.Proposal
}

// DefaultRunDir is where a running guard can be found.
const DefaultRunDir = "/run/ctwarden"

// Options of a guard. Zero values but for Config stand for the defaults.
type Options struct {
	// Netns is the namespace: what [netns.Path] understands, or the label of a
	// container; "" is that of the caller.
	Netns string
	// StateDir holds the journal and the incidents, RunDir the lock and the
	// socket of a running guard.
	StateDir, RunDir string
	Config           guard.Config
	// Reload reads the configuration anew on SIGHUP; nil where there is none.
	Reload func() (guard.Config, error)
	// Log takes a sentence a line.
	Log io.Writer
	// SSHConnection is the variable of that name, "" for none.
	SSHConnection string

	// For tests: the policy, the file system of the journal, and what is called
	// at each named point at which a guard may be killed.
	NewPolicy func(guard.Config, guard.Surroundings) Policy
	Disk      disk.FS
	Fault     func(point string)
	// netlinkBufferBytes is the receive buffer of the sockets that write, 0 for
	// the default.
	netlinkBufferBytes int
}

// Errors on which callers decide.
var (
	ErrSecond = errors.New("another guard watches this namespace")
	ErrGone   = errors.New("the network namespace has gone")
)

// tick is the time between two readings unless the policy wants one sooner or
// later.
const (
	tick       = 100 * time.Millisecond
	longestNap = time.Second
)

// memoryLimit bounds the heap: a hint to the collector, not a wall.
const memoryLimit = 96 << 20

func (o *Options) fill() {
	if o.RunDir == "" {
		o.RunDir = DefaultRunDir
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Disk == nil {
		o.Disk = disk.OS{}
	}
	if o.Fault == nil {
		o.Fault = func(string) {}
	}
	if o.NewPolicy == nil {
		o.NewPolicy = func(c guard.Config, s guard.Surroundings) Policy { return guard.New(c, s) }
	}
}
