package observe

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/procs"
)

// settled reads what does not move while it is looked at. It runs inside the
// namespace.
func (r *reader) settled(ctx context.Context) {
	r.host()
	r.namespace()
	r.modules()
	r.settings()
	r.memory()
	r.neighbours()
	r.readRules(ctx)
}

// outside reads what can be seen of a namespace without entering it.
func (r *reader) outside() {
	r.host()
	r.snap.Netns.Pid = r.fs.Pid
	if inode, err := r.fs.NetnsInode(); err == nil {
		r.snap.Netns.Inode = inode
	}
	r.modules()
	// The limits are the host's and the same everywhere; nothing else is.
	if s, err := r.tree.Conntrack(); err == nil {
		r.snap.Limits = ct.Limits{Max: s.Limits.Max, Buckets: s.Limits.Buckets, ExpectMax: s.Limits.ExpectMax}
	}
	r.memory()
}

// note tells of an error unless there is none. hints is the advice where it is
// not a matter of rights.
func note[T any](r *reader, what, hint string) func(T, error) T {
	return func(v T, err error) T {
		if err != nil {
			r.blind(what, err, asRoot(err, hint))
		}
		return v
	}
}

const mountProc = "look for a /proc and a /sys that are mounted and not masked"

func (r *reader) host() {
	s := r.snap
	s.Time = time.Now()
	s.Host = note[string](r, "the host name", mountProc)(r.fs.Hostname())
	s.Release = note[string](r, "the kernel release", mountProc)(r.fs.Release())
	if v, err := ct.ParseKernelVersion(s.Release); err == nil {
		s.Version = v
	} else if s.Release != "" {
		r.blind("the kernel version", err, "defaults and counters are read as those of the newest kernel")
	}
	s.CPUs = note[int](r, "the number of CPUs", mountProc)(r.fs.CPUs())
	if up, err := r.fs.Uptime(); err == nil {
		s.UptimeSeconds = ct.Known(up)
	} else {
		r.blind("the uptime", err, mountProc)
	}
	s.Container = r.fs.Container()
}

func (r *reader) namespace() {
	n := &r.snap.Netns
	inode, err := r.fs.NetnsInode()
	if err == nil {
		n.Inode = inode
	} else if r.fs.Live() {
		r.blind("the number of the network namespace", err, mountProc)
	}
	n.Initial = r.fs.InitialNetns()
	if pid, err := strconv.ParseUint(r.o.Netns, 10, 31); err == nil {
		n.Pid, n.Owner = int(pid), procs.FS{}.Owner(int(pid))
	}
}

func (r *reader) modules() {
	t := &r.snap.Tracking
	mods, err := r.fs.Modules()
	if err != nil {
		r.blind("the loaded modules", err, mountProc)
	} else {
		r.mods = mods
		t.ModuleLoaded, t.BuiltIn = mods.Offers()
	}
	r.snap.ModuleParams = r.fs.ModuleParams("nf_conntrack")
}

func (r *reader) settings() {
	s := r.snap
	set, err := r.tree.Conntrack()
	if err != nil {
		r.blind("some settings", err, asRoot(err, "read the settings by hand: sysctl -a -r conntrack"))
	}
	s.Limits, s.Timeouts, s.Knobs, s.Sysctls = set.Limits, set.Timeouts, set.Knobs, set.Raw
	if s.Limits.Max.Known || s.Limits.Count.Known {
		s.Tracking.ModuleLoaded = ct.Yes // the settings appear with the module
	}
	if s.Tracking.ModuleLoaded == ct.Yes && !s.Limits.Max.Known && err == nil {
		r.blind("the limits", fs.ErrNotExist, mountProc)
	}
	if _, ok := s.Timeouts.Get(ct.TimeoutTCPEstablished); !ok && s.Tracking.ModuleLoaded == ct.Yes && err == nil {
		r.blind("the timeouts", fs.ErrNotExist, mountProc)
	}
	if n, err := r.fs.ExpectCount(); err == nil {
		s.Limits.ExpectCount = ct.Known(n)
	} else if !errors.Is(err, fs.ErrNotExist) {
		r.blind("the expectations", err, asRoot(err, mountProc))
	}
}

func (r *reader) memory() {
	m := &r.snap.Memory
	var err error
	if m.TotalBytes, m.AvailableBytes, err = r.fs.Meminfo(); err != nil {
		r.blind("the memory", err, mountProc)
	}
	slab, err := r.fs.ConntrackSlab()
	switch {
	case err == nil:
		m.SlabObjects, m.SlabBytes = ct.Known(slab.Objects), ct.Known(slab.Bytes)
		m.SlabObjectBytes = ct.Known(slab.ObjectBytes)
	case errors.Is(err, procfs.ErrNoSlab) && r.snap.Tracking.ModuleLoaded != ct.Yes: // as it must be
	default:
		r.blind("the memory that entries take", err, asRoot(err, "a kernel without /proc/slabinfo does not tell"))
	}
}

// neighbours reads who must never be taken for an offender.
func (r *reader) neighbours() {
	s := r.snap
	const hint = "protect these addresses by hand"
	own, err := r.fs.Addresses()
	if err != nil && r.fs.Live() {
		r.blind("the machine's own addresses", err, hint)
	}
	gateways, err := r.fs.Gateways()
	if err != nil && r.fs.Live() {
		r.blind("the default gateways", err, hint)
	}
	servers, err := r.fs.Nameservers(r.o.Netns)
	if err != nil && r.fs.Live() && !errors.Is(err, fs.ErrNotExist) {
		r.blind("the nameservers", err, hint)
	}
	s.SelfAddresses, s.Gateways, s.Nameservers = own, gateways, servers
}
