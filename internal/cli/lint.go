package cli

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/rootfs"
	"github.com/ctwarden/ctwarden/internal/lint"
)

// lintSchema names the JSON form of lint's findings.
const lintSchema = "ctwarden.lint/1"

func newLint(env *Env) *cobra.Command {
	var out output
	var root, kernel string
	c := &cobra.Command{
		Use:   "lint [FILE…]",
		Short: "Judge settings and scripts of connection tracking that others wrote",
		Long: `Reads the files by name (sysctl, modprobe, shell, cron, nftables, Ansible,
Dockerfile, cloud-init; "-" is standard input), or without a name every place
from which this machine takes settings at boot. Each bad line is told with the
corrected one. The exit code is 1 if there are errors or warnings.`,
		RunE: func(_ *cobra.Command, args []string) error {
			format, err := out.choice()
			if err != nil {
				return err
			}
			s := settingsOnly()
			o := lint.Options{Version: s.Version, BuiltIn: s.Tracking.BuiltIn, Whole: len(args) == 0}
			if kernel != "" {
				if o.Version, err = ct.ParseKernelVersion(kernel); err != nil {
					return err
				}
			}
			sources, err := lintSources(env, root, args)
			if err != nil {
				return err
			}
			return printLint(env, format, len(sources), lint.Lint(sources, o))
		},
	}
	c.Flags().StringVar(&root, "root", "", "tree to read instead of /")
	c.Flags().StringVar(&kernel, "kernel", "", "kernel the files are for, as 5.15; this one by default")
	out.register(c.Flags(), "text", "json", "sarif")
	return c
}

func printLint(env *Env, format string, files int, list []lint.Finding) error {
	var err error
	switch format {
	case "json":
		if list == nil {
			list = []lint.Finding{}
		}
		err = writeJSON(env, struct {
			head
			Files    int            `json:"files"`
			Findings []lint.Finding `json:"findings"`
		}{newHead(env, lintSchema), files, list})
	case "sarif":
		err = lint.SARIF(env.Stdout, list, Version)
	default:
		if len(list) == 0 {
			fmt.Fprintf(env.Stdout, "Nothing wrong in %d files.\n", files)
		}
		err = lint.Text(env.Stdout, list)
	}
	if err != nil {
		return err
	}
	if w := lint.Worst(list); w == lint.Error || w == lint.Warning {
		return found
	}
	return nil
}

func lintSources(env *Env, root string, names []string) ([]lint.Source, error) {
	if len(names) == 0 {
		list, unread := machineSources(rootfs.Tree{Root: root})
		if len(unread) > 0 {
			fmt.Fprintf(env.Stderr, "ctwarden: not readable, and so not judged: %s\n", strings.Join(unread, ", "))
		}
		return list, nil
	}
	var list []lint.Source
	for _, name := range names {
		data, err := readNamed(env, name)
		if err != nil {
			return nil, err
		}
		list = append(list, lint.Source{Path: name, Data: data})
	}
	return list, nil
}

func readNamed(env *Env, name string) ([]byte, error) {
	in := env.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, rootfs.MaxFile+1))
	if err == nil && len(data) > rootfs.MaxFile {
		err = fmt.Errorf("%q: %w", name, rootfs.ErrTooLarge)
	}
	if err == nil && bytes.IndexByte(data, 0) >= 0 {
		err = fmt.Errorf("%q is not a text file", name)
	}
	return data, err
}

// machineSources reads every place from which settings come at boot, in the
// order in which they are applied.
func machineSources(t rootfs.Tree) (list []lint.Source, unread []string) {
	add := func(name string) {
		data, err := t.ReadFile(name)
		switch {
		case err == nil || errors.Is(err, rootfs.ErrTooLarge):
			list = append(list, lint.Source{Path: name, Data: data})
		case errors.Is(err, fs.ErrPermission):
			unread = append(unread, name)
		}
	}
	all := func(names []string) {
		for _, n := range names {
			add(n)
		}
	}
	every := func(suffix string, dirs ...string) {
		for _, dir := range dirs {
			if _, err := t.List(dir); errors.Is(err, fs.ErrPermission) {
				unread = append(unread, dir)
			}
		}
		all(dropIns(t, suffix, dirs...))
	}
	add("/proc/cmdline")
	every(".conf", under("modprobe.d")...)
	add("/etc/modules")
	every(".conf", under("modules-load.d")...)
	every(".rules", under("udev/rules.d")...)
	every(".conf", under("sysctl.d")...)
	add("/etc/sysctl.conf")
	for _, name := range []string{"/etc/cloud/cloud.cfg", "/etc/nftables.conf", "/etc/iptables/rules.v4", "/etc/iptables/rules.v6",
		"/etc/sysconfig/iptables", "/etc/sysconfig/nftables.conf"} {
		add(name)
	}
	every(".cfg", "/etc/cloud/cloud.cfg.d")
	if ufwRuns(t) {
		all([]string{"/etc/ufw/before.rules", "/etc/ufw/after.rules", "/etc/ufw/sysctl.conf"})
	}
	every(".service", "/etc/systemd/system")
	if f := tunedProfile(t); f != "" {
		add(f)
	}
	all([]string{"/etc/rc.local", "/etc/rc.d/rc.local", "/etc/crontab"})
	for _, dir := range []string{"/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly",
		"/var/spool/cron/crontabs", "/var/spool/cron"} {
		every("", dir)
	}
	return list, unread
}

// under names the directories of a kind of drop-in files, the first of which
// prevails.
func under(kind string) []string {
	return []string{"/etc/" + kind, "/run/" + kind, "/usr/local/lib/" + kind, "/usr/lib/" + kind}
}

func ufwRuns(t rootfs.Tree) bool {
	data, err := t.ReadFile("/etc/ufw/ufw.conf")
	return err == nil && strings.Contains("\n"+string(data), "\nENABLED=yes")
}

// tunedProfile is the file of the active TuneD profile, "" without one.
func tunedProfile(t rootfs.Tree) string {
	data, err := t.ReadFile("/etc/tuned/active_profile")
	name := strings.TrimSpace(string(data))
	if err != nil || name == "" || strings.ContainsAny(name, "/ \n") {
		return ""
	}
	for _, dir := range []string{"/etc/tuned", "/etc/tuned/profiles", "/usr/lib/tuned", "/usr/lib/tuned/profiles"} {
		if file := path.Join(dir, name, "tuned.conf"); t.Exists(file) {
			return file
		}
	}
	return ""
}

// dropIns lists the files of several directories by name; one in an earlier
// directory hides those of the same name in later ones, and a link to a file
// that is read anyway is passed over.
func dropIns(t rootfs.Tree, suffix string, dirs ...string) []string {
	byName := map[string]string{}
	for _, dir := range dirs {
		names, err := t.List(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, n := range names {
			if _, hidden := byName[n]; !hidden && strings.HasSuffix(n, suffix) {
				byName[n] = path.Join(dir, n)
			}
		}
	}
	var list []string
	for _, p := range byName {
		if real, err := t.Resolve(p); err == nil && real == "/etc/sysctl.conf" {
			continue
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Compare(path.Base(a), path.Base(b)) })
	return list
}
