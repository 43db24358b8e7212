package advice

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/deadman"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// Scale is by how much limits and loads are smaller than on the machine that
// the advice was written for.
const Scale = 64

// stockMax is what a kernel from 5.15 on gives a machine with more than 4 GiB,
// for max and buckets alike.
const stockMax = 262144

// KeepIdle is how long the administrator of the scenes wants idle connections
// to live.
const KeepIdle = 24 * time.Hour

// Column is one way to answer the message.
type Column struct {
	Name string
	// At is done when the table has filled, Later a minute after.
	At, Later func(m *machine) error
}

// The commands as they are found. What they set max and buckets to is for a
// whole machine.
const (
	pasted = `sysctl -w net.netfilter.nf_conntrack_max=524288
echo 131072 >/sys/module/nf_conntrack/parameters/hashsize
sysctl -w net.netfilter.nf_conntrack_generic_timeout=120
sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=54000
sysctl -w net.netfilter.nf_conntrack_tcp_timeout_close_wait=60
sysctl -w net.netfilter.nf_conntrack_tcp_timeout_fin_wait=60
sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=60`

	tried = `sysctl -w net.netfilter.nf_conntrack_tcp_timeout_close_wait=60
sysctl -w net.netfilter.nf_conntrack_tcp_timeout_fin_wait=60
sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=60
sysctl -w net.netfilter.nf_conntrack_max=524288`

	reverted = `sysctl -w net.netfilter.nf_conntrack_tcp_timeout_close_wait=120
sysctl -w net.netfilter.nf_conntrack_tcp_timeout_fin_wait=120
sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=120
sysctl -w net.netfilter.nf_conntrack_max=262144`
)

// Columns are the ways to be compared.
func Columns() []Column {
	return []Column{
		{Name: "stock"},
		{Name: "pasted", At: run(pasted)},
		{Name: "pasted, then \"reverted\"", At: run(tried), Later: run(reverted)},
		{Name: "plan", At: (*machine).plan},
		{Name: "plan, then reverted", At: (*machine).plan, Later: (*machine).revert},
	}
}

// columns are those that can differ in a scene: in a quiet one nothing is there
// to take back.
func (s *Scene) columns() (list []Column) {
	for _, c := range Columns() {
		if s.quiet == 0 || c.Later == nil {
			list = append(list, c)
		}
	}
	return list
}

// run carries commands out, on the small machine.
func run(commands string) func(m *machine) error {
	return func(m *machine) error {
		for line := range strings.Lines(commands) {
			key, value, err := parseCommand(strings.TrimSpace(line))
			if err != nil {
				return err
			}
			if _, err := m.Write(key, value); err != nil {
				return fmt.Errorf("%s: %w", strings.TrimSpace(line), err)
			}
			m.did = append(m.did, strings.TrimPrefix(key, tune.Prefix)+"="+value)
		}
		return nil
	}
}

func parseCommand(line string) (key, value string, err error) {
	if set, ok := strings.CutPrefix(line, "sysctl -w "); ok {
		key, value, ok = strings.Cut(set, "=")
		if !ok {
			return "", "", fmt.Errorf("%q sets nothing", line)
		}
	} else if f := strings.Fields(line); len(f) == 3 && f[0] == "echo" && strings.HasSuffix(f[2], "/hashsize") {
		key, value = tune.KeyBuckets, f[1] // the same table
	} else {
		return "", "", fmt.Errorf("%q is not understood", line)
	}
	if key == tune.KeyMax || key == tune.KeyBuckets {
		n, err := strconv.Atoi(value)
		if err != nil {
			return "", "", err
		}
		value = strconv.Itoa(n / Scale)
	}
	return key, value, nil
}

// machine is the namespace on trial. To a plan it is the whole machine, which
// owns max and buckets.
type machine struct {
	tracked *lab.Host
	limits  *lab.Limits
	dir     string
	did     []string
	keeper  *tune.Keeper
}

// Read, Write and Writable make the namespace and the global limits one set of
// settings.
func (m *machine) Read(key string) (value string, err error) {
	err = m.in(key, func() error {
		value, err = sysctl.Live{}.Read(key)
		return err
	})
	return value, err
}

func (m *machine) Write(key, value string) (got string, err error) {
	err = m.in(key, func() error {
		got, err = sysctl.Live{}.Write(key, value)
		return err
	})
	return got, err
}

func (m *machine) Writable(string) (bool, error) { return true, nil }

func (m *machine) in(key string, f func() error) error {
	if key == tune.KeyMax || key == tune.KeyBuckets {
		return f()
	}
	return m.tracked.Do(f)
}

// plan is ctwarden plan and ctwarden apply.
func (m *machine) plan() error {
	s, err := observe.Machine(context.Background(), observe.Options{Netns: m.tracked.Path(), Observe: 5 * time.Second, Full: true})
	if err != nil {
		return err
	}
	s.Netns.Initial, s.Limits.MaxWritable = ct.Yes, ct.Yes
	p, err := tune.New(s, tune.Options{KeepIdle: KeepIdle})
	if err != nil {
		return err
	}
	for _, it := range p.Items {
		m.did = append(m.did, strings.TrimPrefix(it.Key, tune.Prefix)+"="+it.To)
	}
	if len(p.Items) == 0 {
		return nil
	}
	p.Netns.Inode = 0 // the machine's, whatever its number
	boot, err := deadman.BootID()
	if err != nil {
		return err
	}
	inode, err := netns.Inode(m.tracked.Path())
	if err != nil {
		return err
	}
	m.keeper = &tune.Keeper{Settings: m, Files: disk.Files{FS: disk.OS{Root: m.dir}}, Boot: boot, Netns: inode,
		Journal: journal.New(disk.OS{}, filepath.Join(m.dir, "state"), journal.Options{}),
		Deadman: nobody{}, Boottime: deadman.Boottime, NoFiles: "a trial of advice",
		HighestCount: func() (int64, error) { return int64(m.tracked.Count()), nil }}
	if _, err = m.keeper.Apply(context.Background(), p, tune.ApplyOptions{Trial: time.Hour}); err != nil {
		return err
	}
	return nil
}

// revert is ctwarden revert.
func (m *machine) revert() error {
	if m.keeper == nil {
		return nil
	}
	op, err := m.keeper.Revert(context.Background(), "", "on trial")
	if err != nil {
		return err
	}
	m.did = append(m.did, "revert: "+string(op.State))
	return nil
}

// nobody is the dead-man of a trial that the test itself ends.
type nobody struct{}

func (nobody) Arm(string, time.Duration) (string, error) { return "nobody", nil }
func (nobody) Disarm(string, string) error               { return nil }

func newMachine(tracked *lab.Host, limits *lab.Limits) (*machine, error) {
	dir, err := os.MkdirTemp("", "advice-")
	return &machine{tracked: tracked, limits: limits, dir: dir}, err
}
