package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/kernel/nft"
	"github.com/ctwarden/ctwarden/internal/kernel/ownrules"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/sockdiag"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
	"github.com/ctwarden/ctwarden/internal/notrack"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// notrackSchema names the JSON form of a judgement.
const notrackSchema = "ctwarden.notrack/1"

type notrackFlags struct {
	applyFlags
	out     output
	proto   string
	port    uint16
	to      []string
	from    []string
	install bool
}

func newNotrack(env *Env) *cobra.Command {
	var o notrackFlags
	c := &cobra.Command{
		Use:   "notrack --proto udp --dport 53",
		Short: "Whether a flow can do without tracking, and the rules that let it",
		Long: `Judges from rules, translation, sockets and the table, in both families, whether
flows to a port served here can pass untracked: proven, refuted, or not proven
with what is missing. With --to it judges the queries of this machine to the
servers named instead; without them the way back would be open to anybody. With
--from it judges the flows of these clients alone.
--install puts rules for both directions into a table of our own before
tracking, on trial as ctwarden apply does, and only if it is proven. The exit
code is 1 unless it is proven.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), env) },
	}
	fs := c.Flags()
	fs.StringVar(&o.proto, "proto", "udp", "udp or tcp")
	fs.Uint16Var(&o.port, "dport", 0, "port of the service")
	fs.StringSliceVar(&o.to, "to", nil, "addresses of servers that this machine asks")
	fs.StringSliceVar(&o.from, "from", nil, "prefixes of clients, for a path of their own to the service")
	fs.BoolVar(&o.install, "install", false, "install the rules if proven")
	o.registerTrial(c)
	o.keeping.register(env, fs)
	o.out.register(fs, "text", "json", "nft", "iptables")
	return c
}

func (o *notrackFlags) run(ctx context.Context, env *Env) error {
	format, err := o.out.choice()
	if err != nil {
		return err
	}
	if err := o.checkTrial(); err != nil {
		return err
	}
	specs, err := o.specs()
	if err != nil {
		return err
	}
	j := notrack.Judge(specs, notrackFacts(ctx, env, specs))
	if err := printJudgement(env, format, &j); err != nil {
		return err
	}
	if j.Verdict != notrack.Proven {
		return found
	}
	if !o.install {
		return nil
	}
	if format != "text" {
		words := *env
		words.Stdout = env.Stderr // the judgement alone is for a program
		env = &words
	}
	return o.installRules(ctx, env, specs)
}

func (o *notrackFlags) specs() ([]notrack.Spec, error) {
	proto, ok := map[string]ct.Proto{"udp": ct.UDP, "tcp": ct.TCP}[strings.ToLower(o.proto)]
	if !ok {
		return nil, fmt.Errorf("--proto %q is neither udp nor tcp", o.proto)
	}
	if o.port == 0 {
		return nil, &HintError{errors.New("--dport is missing"), "name the port of the service, as --dport 53"}
	}
	switch {
	case len(o.to) > 0 && len(o.from) > 0:
		return nil, errors.New("--to is for a client and --from for a service: one of them")
	case len(o.from) > 0:
		return o.clients(proto)
	case len(o.to) == 0:
		return []notrack.Spec{{Proto: proto, Port: o.port}}, nil
	}
	first, last := ephemeral()
	var specs []notrack.Spec
	for _, text := range o.to {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("--to: %w", err)
		}
		specs = append(specs, notrack.Spec{Proto: proto, Port: o.port, Server: a.Unmap(), First: first, Last: last})
	}
	_, err := notrack.ParseValue(notrack.Value(specs))
	return specs, err
}

// clients are the specs of a service for the clients of --from.
func (o *notrackFlags) clients(proto ct.Proto) (specs []notrack.Spec, err error) {
	for _, text := range o.from {
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); aerr == nil {
			p, err = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("--from: %w", err)
		}
		specs = append(specs, notrack.Spec{Proto: proto, Port: o.port, From: p.Masked()})
	}
	_, err = notrack.ParseValue(notrack.Value(specs))
	return specs, err
}

// ephemeral is the range of ports that the kernel gives to clients.
func ephemeral() (first, last uint16) {
	first, last = notrack.DefaultEphemeralFirst, notrack.DefaultEphemeralLast
	text, err := sysctl.Tree{}.Read("net.ipv4.ip_local_port_range")
	if err != nil {
		return first, last
	}
	var a, z uint16
	if n, err := fmt.Sscan(text, &a, &z); err == nil && n == 2 && a > 0 && a <= z {
		return a, z
	}
	return first, last
}

// notrackFacts gathers what the judgement rests on. What cannot be read makes
// it weaker, never an error.
func notrackFacts(ctx context.Context, env *Env, specs []notrack.Spec) notrack.Facts {
	var f notrack.Facts
	var proc procfs.FS
	factRules(ctx, proc, &f)
	f.Self, _ = proc.Addresses()
	f.Self = append(f.Self, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
	if socks, err := sockdiag.List(""); err == nil {
		factSockets(socks, specs[0], &f)
	}
	factEntries(ctx, env, specs, &f)
	return f
}

func factRules(ctx context.Context, proc procfs.FS, f *notrack.Facts) {
	mods, err := proc.Modules()
	if err != nil {
		f.Unread = append(f.Unread, "the modules")
		return
	}
	r, unread := nft.Read(ctx, proc, mods)
	for _, u := range unread {
		f.Unread = append(f.Unread, u.What)
	}
	// Our own table is no obstacle to itself.
	f.Users = slices.DeleteFunc(r.Users, func(u string) bool { return strings.Contains(u, notrack.Table) })
	f.NATRules, f.PolicyDrop, f.Drops, f.MatchesState = r.NAT, r.PolicyDrop, r.Drops, r.MatchesState
	switch {
	case len(r.NAT) > 0:
		f.NAT = ct.Yes
	case len(unread) == 0:
		f.NAT = ct.No
	}
}

func factSockets(socks []sockdiag.Socket, s notrack.Spec, f *notrack.Facts) {
	for _, k := range socks {
		if k.Proto != s.Proto {
			continue
		}
		waits := s.Proto == ct.UDP && (!k.Remote.IsValid() || k.Remote.Port() == 0) || k.State == sockdiag.Listen
		if !waits {
			continue
		}
		f.Bound = append(f.Bound, k.Local.Port())
		if k.Local.Port() == s.Port {
			f.Listeners = append(f.Listeners, k.Local)
		}
	}
}

func factEntries(ctx context.Context, env *Env, specs []notrack.Spec, f *notrack.Facts) {
	// An empty table needs no reading, and often no module to read it is loaded.
	if n, err := (sysctl.Tree{}).Int(sysctl.Count); err == nil && n == 0 {
		f.TableRead = true
		return
	}
	t, err := openTable(env, "")
	if errors.Is(err, ctnl.ErrNotLoaded) {
		f.TableNeeds = "modprobe nf_conntrack_netlink: without that module nobody can list the entries, and reading loads none"
	}
	if err != nil {
		return
	}
	defer t.Close()
	self := func(a netip.Addr) bool { return slices.Contains(f.Self, a) }
	_, err = t.Dump(ctx, ctnl.Query{}, func(fl *ct.Flow) error {
		if notrack.Concerns(specs, fl) {
			f.Entries.Add(fl, self)
		}
		return nil
	})
	f.TableRead = err == nil
}

func printJudgement(env *Env, format string, j *notrack.Judgement) error {
	switch format {
	case "json":
		return writeJSON(env, struct {
			head
			*notrack.Judgement
		}{newHead(env, notrackSchema), j})
	case "nft":
		_, err := fmt.Fprint(env.Stdout, j.NFT)
		return err
	case "iptables":
		_, err := fmt.Fprintln(env.Stdout, strings.Join(j.Iptables, "\n"))
		return err
	}
	w := env.Stdout
	fmt.Fprintf(w, "%s: %s.\n", strings.Join(j.Specs, "; "), map[notrack.Verdict]string{
		notrack.Proven:    "proven, it can do without tracking",
		notrack.Refuted:   "refuted, it needs tracking",
		notrack.NotProven: "not proven that it can do without tracking"}[j.Verdict])
	if n := j.Entries.Total; n == 0 {
		fmt.Fprintf(w, "No entry of it exists now.\n\n")
	} else {
		fmt.Fprintf(w, "%d entries exist now and break at the switch where rules go by their state.\n\n", n)
	}
	for _, c := range j.Checks {
		fmt.Fprintf(w, "  %-11s %s: %s\n", c.Verdict, c.What, c.Why)
		if c.Missing != "" {
			fmt.Fprintf(w, "              missing: %s\n", c.Missing)
		}
	}
	fmt.Fprintln(w, "\nRisks:")
	for _, r := range j.Risks {
		fmt.Fprintf(w, "  - %s\n", r)
	}
	_, err := fmt.Fprintf(w, "\nThe rules (-o nft, -o iptables; --install puts them in on trial):\n%s", j.NFT)
	return err
}

func (o *notrackFlags) installRules(ctx context.Context, env *Env, specs []notrack.Spec) error {
	k, err := o.keeper(env)
	if err != nil {
		return err
	}
	live, err := k.Settings.Read(notrack.Key)
	if err != nil {
		return explainNFT(err)
	}
	old, err := notrack.ParseValue(live)
	if err != nil {
		return fmt.Errorf("table %s: %w", notrack.Table, err)
	}
	value := notrack.Value(append(old, specs...))
	if err := (ownrules.Table{}).Check(value); err != nil {
		return explainNFT(err)
	}
	if err := o.agree(ctx, env); err != nil {
		return err
	}
	p := &tune.Plan{Items: []tune.Item{{Key: notrack.Key, To: value}}}
	return o.carryOut(ctx, env, k, p, "notrack")
}

func explainNFT(err error) error {
	if errors.Is(err, ownrules.ErrNoNFT) {
		return &HintError{err, "-o iptables prints the commands for legacy iptables"}
	}
	return err
}
