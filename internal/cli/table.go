package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/pflag"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/flowexpr"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/nft"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
)

// selection is what list, watch, top and evict have in common: which entries,
// of which namespace.
type selection struct {
	flags flowexpr.Flags
	netns string
	noBPF bool
}

func (s *selection) register(fs *pflag.FlagSet) {
	o := &s.flags
	fs.StringVar(&s.netns, "netns", "", "network namespace: a name, a process id or a path")
	fs.BoolVar(&s.noBPF, "no-bpf", false, "read through ctnetlink alone; large tables are read several times faster by a BPF program, which is loaded for that long")
	fs.StringVarP(&o.Family, "family", "f", "", "ipv4 or ipv6; both by default")
	fs.StringVarP(&o.Proto, "proto", "p", "", "protocols, by name or number")
	fs.StringVarP(&o.Src, "src", "s", "", "original source: addresses and prefixes")
	fs.StringVarP(&o.Dst, "dst", "d", "", "original destination: addresses and prefixes")
	fs.StringVarP(&o.ReplySrc, "reply-src", "r", "", "source of replies")
	fs.StringVarP(&o.ReplyDst, "reply-dst", "q", "", "destination of replies")
	fs.StringVar(&o.SPort, "sport", "", "original source ports: numbers and ranges 1000-2000")
	fs.StringVar(&o.DPort, "dport", "", "original destination ports")
	fs.StringVar(&o.ReplySPort, "reply-port-src", "", "source ports of replies")
	fs.StringVar(&o.ReplyDPort, "reply-port-dst", "", "destination ports of replies")
	fs.StringVar(&o.State, "state", "", "states, as SYN_SENT,ESTABLISHED")
	fs.StringVarP(&o.Mark, "mark", "m", "", "mark, or mark/mask")
	fs.StringVarP(&o.Zone, "zone", "w", "", "zones")
	fs.StringVar(&o.OrigZone, "orig-zone", "", "zones of the original direction")
	fs.StringVar(&o.ReplyZone, "reply-zone", "", "zones of the reply direction")
	fs.StringVarP(&o.Status, "status", "u", "", "status bits that must be set, or after ! clear: ASSURED,!SEEN_REPLY")
	fs.StringVarP(&o.Label, "label", "l", "", "labels, by number")
	fs.StringVarP(&o.SrcNAT, "src-nat", "n", "", "translated source, =ADDRESS or any")
	fs.StringVarP(&o.DstNAT, "dst-nat", "g", "", "translated destination, =ADDRESS or any")
	fs.StringVarP(&o.AnyNAT, "any-nat", "j", "", "translated either way, =ADDRESS or any")
	fs.StringVar(&o.Where, "where", "", `expression, as 'proto == "tcp" && idle_min > 1h && src in 10.0.0.0/8'`)
	for alias, name := range map[string]string{"orig-src": "src", "orig-dst": "dst", "protonum": "proto",
		"orig-port-src": "sport", "orig-port-dst": "dport"} {
		fs.Var(fs.Lookup(name).Value, alias, "")
		fs.Lookup(alias).Hidden = true
	}
	for _, nat := range []string{"src-nat", "dst-nat", "any-nat"} {
		fs.Lookup(nat).NoOptDefVal = flowexpr.AnyAddress
	}
}

// compile returns the selection, with its faults told as the command line's.
func (s *selection) compile() (*flowexpr.Filter, error) {
	f, err := s.flags.Compile()
	var in *flowexpr.Error
	if errors.As(err, &in) {
		return nil, &HintError{err, "the fields and operators are listed in docs/where.md"}
	}
	return f, err
}

// table is one namespace's table, open for reading and changing.
type table struct {
	*ctnl.Conn
	ref string
	id  identity
	// walk allows readings that remove no expired entries and load a BPF program.
	walk bool
	// timeouts are nil where idle times cannot be told; whyNot says why.
	timeouts *ct.Timeouts
	whyNot   string
}

// identity is the head that every document has.
type identity struct {
	Time   time.Time `json:"time"`
	Host   string    `json:"host"`
	Kernel string    `json:"kernel"`
	Netns  ct.Netns  `json:"netns"`
}

// open opens the table that the selection is of.
func (s *selection) open(env *Env) (*table, error) {
	t, err := openTable(env, s.netns)
	if err != nil {
		return nil, err
	}
	t.walk = !s.noBPF
	return t, nil
}

func openTable(env *Env, ref string) (*table, error) {
	conn, err := ctnl.Dial(ctnl.Options{Netns: ref})
	if err != nil {
		return nil, explainDial(err, ref)
	}
	t := &table{Conn: conn, ref: ref}
	t.id = identity{Time: env.Now().UTC(), Netns: ct.Netns{Inode: conn.NetnsInode(), Name: ref}}
	var proc procfs.FS
	t.id.Host, _ = proc.Hostname()
	t.id.Kernel, _ = proc.Release()
	return t, nil
}

func explainDial(err error, ref string) error {
	switch {
	case errors.Is(err, ctnl.ErrNotLoaded):
		return &HintError{err, "nothing is tracked here, or the module waits for a first use; `modprobe nf_conntrack_netlink` loads it"}
	case errors.Is(err, netns.ErrNotFound):
		return &HintError{err, "`ip netns list` shows the named ones; a process id or a path will do, too"}
	case errors.Is(err, fs.ErrPermission):
		return explainRights(err, ref)
	}
	return err
}

func explainRights(err error, ref string) error {
	if ref != "" {
		return &HintError{err, "another namespace needs root, or CAP_NET_ADMIN and CAP_SYS_ADMIN"}
	}
	return &HintError{err, "the table needs root, or CAP_NET_ADMIN"}
}

// surroundings are the parts of the machine that decide what an entry means.
type surroundings struct {
	settings sysctl.Settings
	rules    nft.Rules
	unread   []nft.Source
}

// readSurroundings reads settings and rules of the table's namespace.
func (t *table) readSurroundings() (s surroundings, err error) {
	err = netns.Do(t.ref, func() (err error) {
		if s.settings, err = (sysctl.Tree{}).Conntrack(); err != nil {
			return err
		}
		mods, err := procfs.FS{}.Modules()
		if err != nil {
			return err
		}
		s.rules, s.unread = nft.Read(context.Background(), procfs.FS{}, mods)
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("read settings and rules: %w", err)
	}
	return s, nil
}

// readTimeouts reads the namespace's timeouts. Where rules give entries others,
// which a dump does not show, or where that cannot be told, none are kept.
func (t *table) readTimeouts() error {
	s, err := t.readSurroundings()
	if err != nil {
		return err
	}
	t.keepTimeouts(&s)
	return nil
}

func (t *table) keepTimeouts(s *surroundings) {
	t.timeouts = nil
	switch {
	case s.rules.TimeoutPolicies:
		t.whyNot = "rules give entries timeouts of their own, which the kernel does not show"
	case len(s.unread) > 0:
		t.whyNot = fmt.Sprintf("rules may give entries timeouts of their own; not all could be read: %s: %v", s.unread[0].What, s.unread[0].Err)
	default:
		t.timeouts = &s.settings.Timeouts
	}
}

// context is what a selection and the formats need to know of now.
func (t *table) context(now time.Time) *flowexpr.Context {
	return &flowexpr.Context{Timeouts: t.timeouts, NowNanos: now.UnixNano()}
}

// Address families as ctnetlink numbers them.
const (
	afINET  = 2
	afINET6 = 10
)

// kernelFilter hands the kernel what it can do of a selection. The rest, and
// all of it once more, is done by Filter.Match.
func kernelFilter(k flowexpr.Kernel) ctnl.Filter {
	q := ctnl.Filter{Mark: k.Mark.Value, MarkMask: k.Mark.Mask, Status: k.Status, StatusMask: k.Mask}
	q.Family = map[int]uint8{4: afINET, 6: afINET6}[k.Family]
	q.Zone, q.HasZone = uint16(k.Zone.N), k.Zone.Known
	q.Orig = ctnl.TupleFilter{Src: k.Src, Dst: k.Dst, SrcNet: k.SrcNet, DstNet: k.DstNet, Proto: ct.Proto(k.Proto.N),
		SrcPort: uint16(k.SrcPort.N), HasSrcPort: k.SrcPort.Known,
		DstPort: uint16(k.DstPort.N), HasDstPort: k.DstPort.Known}
	return q
}

// each calls fn with every entry that the selection matches. ids says whether
// fn looks at the id: of all entries that is dear.
func (t *table) each(ctx context.Context, sel *flowexpr.Filter, at *flowexpr.Context, ids bool, fn func(*ct.Flow) error) (ctnl.Summary, error) {
	if sel.Kernel().Never() {
		return ctnl.Summary{}, nil
	}
	match := func(f *ct.Flow) bool { return sel.Match(f, at) }
	q := ctnl.Query{Filter: kernelFilter(sel.Kernel()), Walk: t.walk, WithoutID: !ids}
	switch {
	case sel.Uses("id"):
		q.WithoutID = false
		return t.Dump(ctx, q, func(f *ct.Flow) error {
			if !match(f) {
				return nil
			}
			return fn(f)
		})
	case !sel.Empty():
		q.Select = match
	}
	return t.Dump(ctx, q, fn)
}

// warnShort says on stderr what a reading may have missed.
func warnShort(env *Env, s *ctnl.Summary) {
	switch n := s.Short(); {
	case s.Resized():
		fmt.Fprintf(env.Stderr, "ctwarden: the table was resized from %d to %d buckets while it was read: entries may be missing\n",
			s.BucketsBefore, s.BucketsAfter)
	case s.Expired > int(s.CountBefore)/100:
		fmt.Fprintf(env.Stderr, "ctwarden: %d of %d entries have expired and are not shown; they count against the limit until the kernel removes them\n",
			s.Expired, s.CountBefore)
	case n > 0 && n > int(s.CountBefore)/100:
		fmt.Fprintf(env.Stderr, "ctwarden: %d of %d entries were not shown: expired, still on their way, or gone meanwhile\n",
			n, s.CountBefore)
	}
}
