package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/deadman"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/nslist"
	"github.com/ctwarden/ctwarden/internal/kernel/ownrules"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/pulse"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
	"github.com/ctwarden/ctwarden/internal/notrack"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// keeping are the flags of every command that changes settings or asks about
// changes.
type keeping struct {
	stateDir string
	root     string
}

func (o *keeping) register(env *Env, fs *pflag.FlagSet) {
	dir := env.Getenv("CTWARDEN_STATE_DIR")
	if dir == "" {
		dir = journal.DefaultDir
	}
	fs.StringVar(&o.stateDir, "state-dir", dir, "where the journal lives; CTWARDEN_STATE_DIR")
	fs.StringVar(&o.root, "root", "", "tree for the permanent files instead of /")
	fs.Lookup("root").Hidden = true
}

// absolute makes the paths good from anywhere: the dead-man starts in /.
func (o *keeping) absolute() (err error) {
	if o.stateDir, err = filepath.Abs(o.stateDir); err == nil && o.root != "" {
		o.root, err = filepath.Abs(o.root)
	}
	return err
}

// keeper wires a Keeper to this machine and the namespace that the process is
// in.
func (o *keeping) keeper(env *Env) (*tune.Keeper, error) {
	if err := o.absolute(); err != nil {
		return nil, err
	}
	boot, err := deadman.BootID()
	if err != nil {
		return nil, err
	}
	inode, err := netns.Inode("")
	if err != nil {
		return nil, err
	}
	say := func(format string, args ...any) { fmt.Fprintf(env.Stderr, format+"\n", args...) }
	return &tune.Keeper{
		Settings: settings{},
		Journal:  journal.New(disk.OS{}, o.stateDir, journal.Options{Now: env.Now, Warn: func(s string) { say("%s", s) }}),
		Files:    disk.Files{FS: disk.OS{Root: o.root}},
		Deadman:  deadman.Deadman{Dir: o.stateDir, Args: o.guardArgs},
		Boot:     boot, Netns: inode, Boottime: deadman.Boottime, HighestCount: highestCount, Available: available,
		HeadsInPage: sysctl.HeadsInPage(),
		Say:         say, NoFiles: o.noFiles(inode), NoUnits: noUnits(),
	}, nil
}

// settings are the sysctls of this namespace and, as one more, our own table of
// untracked flows.
type settings struct {
	sysctl.Live
	rules ownrules.Table
}

func (s settings) Read(key string) (string, error) {
	if key == notrack.Key {
		return s.rules.Read()
	}
	return s.Live.Read(key)
}

func (s settings) Write(key, value string) (string, error) {
	if key == notrack.Key {
		return s.rules.Write(value)
	}
	return s.Live.Write(key, value)
}

func (s settings) Writable(key string) (bool, error) {
	if key == notrack.Key {
		return true, nil
	}
	return s.Live.Writable(key)
}

// noFiles says why no file can bring settings back: what boots the system
// lives in another network namespace.
func (o *keeping) noFiles(own uint64) string {
	if o.root != "" {
		return ""
	}
	first, err := netns.Inode("1")
	switch {
	case err == nil && first != own:
		return "this is not the network namespace in which the system boots, and a new one starts from the kernel's defaults"
	case err != nil && procfs.FS{}.InitialNetns() == ct.No:
		return "whether the system boots in this network namespace cannot be told, for that of process 1 cannot be read"
	}
	return ""
}

// noUnits says why no unit of systemd can load rules at boot.
func noUnits() string {
	if !deadman.SystemdRuns() {
		return "systemd does not run here"
	}
	return ""
}

// highestCount is the count of the fullest namespace that can be seen.
func highestCount() (int64, error) {
	own, err := sysctl.Tree{}.Int(sysctl.Count)
	if err != nil {
		return 0, err
	}
	// In vain it holds max where it is, so it may take its time.
	all, err := nslist.List(context.Background(), nslist.Options{Limit: 5 * time.Second})
	switch {
	case err != nil:
		return 0, err
	case all.Cut:
		return 0, errors.New("not all namespaces could be looked at in time")
	}
	for _, n := range all.Namespaces {
		own = max(own, n.Count.Or(0))
	}
	return own, nil
}

// available is MemAvailable, 0 if it cannot be read.
func available() int64 {
	_, bytes, err := procfs.FS{}.Meminfo()
	if err != nil {
		return 0
	}
	return bytes.Or(0)
}

// health takes the machine's pulse for the watch during a trial.
func health() (tune.Health, error) {
	p, err := pulse.Read()
	return tune.Health{At: deadman.Boottime(), Invalid: p.Invalid, Refused: p.Refused, Resets: p.Resets,
		AvailableBytes: p.AvailableBytes, TotalBytes: p.TotalBytes}, err
}

// actor names who runs the command.
func actor(env *Env, command string) string {
	if u := env.Getenv("SUDO_USER"); u != "" {
		return command + " by " + u
	}
	if u := env.Getenv("USER"); u != "" {
		return command + " by " + u
	}
	return command
}

// explainKeeper adds what to do about an error of a Keeper.
func explainKeeper(err error) error {
	hints := []struct {
		is   error
		hint string
	}{
		{disk.ErrLocked, "another ctwarden is at work; try again in a moment"},
		{tune.ErrOnTrial, "`ctwarden status` shows it; confirm or revert it first"},
		{tune.ErrStale, "`ctwarden plan` makes a new plan from what is there now"},
		{tune.ErrMemory, "`ctwarden plan` makes a plan for the memory of this machine"},
		{tune.ErrHostsOnly, "max and buckets can only be written in the host's initial network namespace, as root, and with /proc/sys writable"},
		{tune.ErrNotHere, "enter that namespace first, as with `ip netns exec NAME` or `nsenter -n -t PID`"},
		{tune.ErrEntries, "deleted entries cannot be brought back; `ctwarden evict --undo ID` gives shortened ones their timeouts back"},
		{tune.ErrDeadman, "nothing was written; without a dead-man there is no trial. --now applies without one"},
		{journal.ErrNewer, "use that version to finish what it began"},
		{journal.ErrUnknown, "`ctwarden status` lists the operations"},
		{fs.ErrPermission, "run it as root"},
		{disk.ErrShared, "--state-dir must name a directory of its own, which is made if need be"},
		{disk.ErrReadOnly, "make that file system writable; apply can keep its journal elsewhere, with --state-dir"},
		{disk.ErrFull, "make room on that disk; apply can keep its journal elsewhere, with --state-dir"},
	}
	for _, h := range hints {
		if errors.Is(err, h.is) {
			return &HintError{err, h.hint}
		}
	}
	return err
}

// head is what every JSON document of these commands begins with.
type head struct {
	Schema string `json:"schema"`
	identity
}

func newHead(env *Env, schema string) head {
	var proc procfs.FS
	h := head{schema, identity{Time: env.Now().UTC()}}
	h.Host, _ = proc.Hostname()
	h.Kernel, _ = proc.Release()
	h.Netns.Inode, _ = netns.Inode("")
	h.Netns.Initial = proc.InitialNetns()
	return h
}

// output are the flags that choose the face of a report.
type output struct {
	format string
	json   bool
	known  []string
}

func (o *output) register(fs *pflag.FlagSet, formats ...string) {
	o.known = formats
	fs.StringVarP(&o.format, "output", "o", formats[0], "one of "+strings.Join(formats, ", "))
	fs.BoolVar(&o.json, "json", false, "same as -o json")
}

// choice returns the format, or an error for one that is not known.
func (o *output) choice() (string, error) {
	if o.json {
		return "json", nil
	}
	for _, f := range o.known {
		if f == o.format {
			return f, nil
		}
	}
	return "", fmt.Errorf("unknown output %q: one of %s", o.format, strings.Join(o.known, ", "))
}
