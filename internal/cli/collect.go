package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/internal/anonymize"
	"github.com/ctwarden/ctwarden/internal/collect"
	"github.com/ctwarden/ctwarden/internal/diagnose"
	"github.com/ctwarden/ctwarden/internal/kernel/logsrc"
	"github.com/ctwarden/ctwarden/internal/kernel/recorded"
	"github.com/ctwarden/ctwarden/internal/kernel/rootfs"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/report"
)

func newCollect(env *Env) *cobra.Command {
	c := &checker{env: env, output: "text"}
	var anonymized bool
	var file string
	cmd := &cobra.Command{
		Use:   "collect -o FILE",
		Short: "Put all that check reads into one archive, for somewhere else",
		Long: `Reads the machine as check does, and writes what it read into one archive
(tar, packed by zstd): check --from FILE gives the same report from it on any
machine, without rights. The archive also holds that report as text, and the
settings and files it rests on as they were. It holds no packet's content.

--anonymize replaces addresses, so that prefixes stay recognisable, and takes
out host names and users. The same address is the same everywhere in the
archive; the key is thrown away.`,
		Example: `  ctwarden collect -o server.tar.zst
  ctwarden collect --anonymize -o server.tar.zst
  ssh root@server ctwarden collect -o - > server.tar.zst`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return &HintError{errors.New("no file to write to"), "ctwarden collect -o server.tar.zst"}
			}
			if err := c.validate(); err != nil {
				return err
			}
			in, err := c.read(cmd.Context())
			if err != nil {
				return err
			}
			return writeCollected(env, file, in, rawFiles(c.netns), anonymized)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "output", "o", "", "archive to write; - is standard output")
	f.BoolVar(&anonymized, "anonymize", false, "replace addresses, host names and users")
	f.StringVar(&c.netns, "netns", "", "network namespace: a name, a process id, a path, or all to list them (default the own one)")
	f.DurationVar(&c.observe, "observe", observe.DefaultObserve, "time between two readings; 0 for one reading, without rates")
	f.BoolVar(&c.full, "full", false, "read every entry rather than a sample")
	f.StringArrayVar(&c.logs, "log", nil, "read this log instead of the machine's; - is standard input (repeatable)")
	return cmd
}

// writeCollected writes the archive, to a new file that only its owner can
// read.
func writeCollected(env *Env, file string, in diagnose.Input, files []collect.File, anonymized bool) error {
	var text bytes.Buffer
	if err := diagnose.Run(in).WriteText(&text, report.Style{Width: 80, Verbose: true, Namespaces: true}); err != nil {
		return err
	}
	files = append(files, collect.File{Name: "ctwarden/report.txt", Data: text.Bytes()})
	var m *anonymize.Mapper
	if anonymized {
		var err error
		if m, err = newMapper(in); err != nil {
			return err
		}
	}
	if file == "-" {
		return collect.Write(env.Stdout, collect.New(in, Version), files, m)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &HintError{fmt.Errorf("%q is there already", file), "choose another name; nothing is overwritten"}
	}
	if err != nil {
		return err
	}
	err = errors.Join(collect.Write(f, collect.New(in, Version), files, m), f.Close())
	if err != nil {
		os.Remove(file)
		return fmt.Errorf("write %q: %w", file, err)
	}
	fmt.Fprintf(env.Stderr, "ctwarden: wrote %s; read it with: ctwarden check --from %s\n", file, file)
	return nil
}

// newMapper knows the names of this machine and of its users, and the hosts in
// the logs.
func newMapper(in diagnose.Input) (*anonymize.Mapper, error) {
	var key [anonymize.KeySize]byte
	if _, err := rand.Read(key[:]); err != nil {
		return nil, err
	}
	m := anonymize.New(key)
	host := func(name string) {
		short, _, _ := strings.Cut(name, ".")
		m.Name("host", name)
		m.Name("host", short)
	}
	if in.Snapshot != nil {
		host(in.Snapshot.Host)
	}
	if in.Log != nil {
		for _, e := range in.Log.Episodes {
			host(e.Host)
		}
		for _, n := range in.Log.Neighbours {
			host(n.Host)
		}
	}
	passwd, _ := rootfs.Tree{}.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(passwd)) {
		if f := strings.Split(line, ":"); len(f) > 5 && (len(f[2]) > 3 || strings.HasPrefix(f[5], "/home/")) {
			m.Name("user", f[0])
		}
	}
	return m, nil
}

// rawPlaces are files and folders that check reads and that people want to see
// as they were. Folders are not descended.
var rawPlaces = []string{
	"/proc/cmdline", "/proc/modules", "/proc/meminfo", "/proc/version", "/proc/net/stat/nf_conntrack",
	"/proc/net/sockstat", "/proc/net/netstat", "/proc/net/snmp", "/proc/net/softnet_stat",
	"/proc/sys/net/netfilter", "/sys/module/nf_conntrack/parameters",
	"/etc/sysctl.conf", "/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d",
	"/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/etc/modules", "/etc/modules-load.d", "/usr/lib/modules-load.d",
	"/etc/ufw/sysctl.conf", "/etc/default/ufw",
}

const (
	maxRawFiles = 500
	maxRawBytes = 16 << 20
)

// rawFiles reads those places, within bounds; what cannot be read is left out,
// and check says so. What belongs to a network namespace is only read if that
// is this process's own.
func rawFiles(netns string) (files []collect.File) {
	var tree rootfs.Tree
	own := netns == "" || netns == allNamespaces
	left := maxRawBytes
	add := func(name string) {
		data, err := tree.ReadFile(name)
		if err != nil || len(data) > left || len(files) >= maxRawFiles {
			return
		}
		left -= len(data)
		files = append(files, collect.File{Name: strings.TrimPrefix(name, "/"), Data: data})
	}
	for _, place := range rawPlaces {
		if !own && (strings.HasPrefix(place, "/proc/net/") || strings.HasPrefix(place, "/proc/sys/net/")) {
			continue
		}
		names, err := tree.List(place)
		if err != nil || len(names) == 0 {
			add(place)
			continue
		}
		for _, n := range names {
			add(path.Join(place, n))
		}
	}
	return files
}

const fromHint = "--from takes what ctwarden collect wrote, or a folder; unpack a sosreport first: tar -xf FILE"

// readRecorded reads an archive of collect, one that was unpacked, or the
// folder of a recorded machine.
func readRecorded(ctx context.Context, env *Env, from string) (diagnose.Input, error) {
	st, err := os.Stat(from)
	if err != nil {
		return diagnose.Input{}, &HintError{fmt.Errorf("open %q: %w", from, errors.Unwrap(err)), fromHint}
	}
	var read func(io.Reader) (*collect.Document, error) = collect.Read
	file := from
	if st.IsDir() {
		read, file = collect.Decode, filepath.Join(from, collect.Name)
		if _, err := os.Lstat(file); err != nil {
			return readTree(ctx, env, from)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return diagnose.Input{}, err
	}
	defer f.Close()
	d, err := read(f)
	if err != nil {
		return diagnose.Input{}, &HintError{fmt.Errorf("read %q: %w", file, err), fromHint}
	}
	return d.Input(), nil
}

// readTree reads the files of another machine, as a sosreport unpacks to.
func readTree(ctx context.Context, env *Env, root string) (in diagnose.Input, err error) {
	if root, err = filepath.Abs(root); err != nil {
		return in, err
	}
	staged, remove, err := recorded.Stage(root)
	if err != nil {
		return in, err
	}
	defer remove()
	at, zone, known := recorded.TakenAt(root)
	if in.Now = at; !known {
		in.Now = recordedAt(env, root)
	}
	if in.Snapshot, err = observe.Machine(ctx, observe.Options{Root: staged}); err != nil {
		return in, err
	}
	if s := in.Snapshot; s.Release == "" && !s.Limits.Max.Known && !s.Memory.TotalBytes.Known {
		return in, &HintError{fmt.Errorf("read %q: nothing of a machine in it, no proc, no sos_commands", root), fromHint}
	}
	for i, b := range in.Snapshot.Blind {
		in.Snapshot.Blind[i].Why = strings.ReplaceAll(b.Why, staged, root) // not the copy's name
	}
	in.Snapshot.Time = in.Now
	in.Owners = observe.Owners(ctx, staged, in.Snapshot)
	to := klog.NewCollector(klog.Options{Now: in.Now, Version: in.Snapshot.Version, Location: zone})
	in.Blind = logsrc.Machine(ctx, to, logsrc.Options{Root: root, Now: in.Now})
	in.Log = to.Report()
	return in, nil
}

// recordedAt is the time of a recorded machine: when its uptime was written,
// or the folder itself.
func recordedAt(env *Env, root string) (at time.Time) {
	at = env.Now()
	for _, name := range []string{"sos_commands/kernel/uname_-a", "proc/uptime", "proc/meminfo", "."} {
		if st, err := os.Stat(filepath.Join(root, name)); err == nil && st.ModTime().Before(at) {
			return st.ModTime()
		}
	}
	return at
}
