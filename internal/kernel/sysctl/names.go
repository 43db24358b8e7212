package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Names of the settings that callers need by themselves, as of today's kernels.
const (
	Max       = "net.netfilter.nf_conntrack_max"
	Count     = "net.netfilter.nf_conntrack_count"
	Buckets   = "net.netfilter.nf_conntrack_buckets"
	ExpectMax = "net.netfilter.nf_conntrack_expect_max"
)

const (
	modern  = "net.netfilter.nf_conntrack_"
	classic = "net.ipv4.netfilter.ip_conntrack_"
	// modernMax and classicMax are further names of the one limit. The first
	// exists in the initial network namespace only.
	modernMax  = "net.nf_conntrack_max"
	classicMax = "net.ipv4.ip_conntrack_max"
)

// TimeoutName returns today's full name of a timeout.
func TimeoutName(k ct.TimeoutKey) string { return modern + k.String() }

// Canonical returns today's name of a connection-tracking setting that may be
// given under the name of any era, and every other name in dotted form.
func Canonical(name string) string {
	name = Normalize(name)
	if name == modernMax || name == classicMax {
		return Max
	}
	if rest, ok := strings.CutPrefix(name, classic); ok {
		return modern + rest
	}
	return name
}

// Aliases returns all names that the setting has had, today's first:
//
//	net.netfilter.nf_conntrack_*       2.6.18 and later
//	net.nf_conntrack_max               likewise; initial namespace only
//	net.ipv4.netfilter.ip_conntrack_*  2.4 to 2.6.20, and as a copy up to 4.8
//	net.ipv4.ip_conntrack_max          likewise
//
// For a setting that is not of connection tracking it is the name alone.
func Aliases(name string) []string {
	name = Canonical(name)
	rest, ok := strings.CutPrefix(name, modern)
	switch {
	case !ok:
		return []string{name}
	case name == Max:
		return []string{Max, modernMax, classic + rest, classicMax}
	}
	return []string{name, classic + rest}
}

// Find returns the name under which this kernel and namespace have the
// setting, whatever era's name is asked for. If there is none the error is an
// fs.ErrNotExist.
func (t Tree) Find(name string) (string, error) {
	for _, n := range Aliases(name) {
		if t.Exists(n) {
			return n, nil
		}
	}
	return "", fmt.Errorf("setting %s under any of its names: %w", Canonical(name), fs.ErrNotExist)
}

// List returns the dotted names of all connection-tracking settings that this
// kernel and namespace have, sorted. Without tracking there are none. The
// error tells of folders that could not be read; what was found is returned
// nevertheless.
func (t Tree) List() ([]string, error) {
	var names []string
	var errs []error
	for _, d := range [...]struct {
		dir  string
		take func(string) bool
	}{
		{"net/netfilter", func(n string) bool {
			return strings.HasPrefix(n, "nf_conntrack_") || strings.HasPrefix(n, "nf_flowtable_")
		}},
		{"net", func(n string) bool { return n == "nf_conntrack_max" }},
		{"net/ipv4/netfilter", func(n string) bool { return strings.HasPrefix(n, "ip_conntrack_") }},
		{"net/ipv4", func(n string) bool { return n == "ip_conntrack_max" }},
	} {
		entries, err := os.ReadDir(filepath.Join(t.dir(), d.dir))
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("list settings: %w", err))
			}
			continue
		}
		for _, e := range entries {
			if !e.IsDir() && d.take(e.Name()) {
				names = append(names, swapSeparators(d.dir+"/"+e.Name()))
			}
		}
	}
	slices.Sort(names)
	return names, errors.Join(errs...)
}
