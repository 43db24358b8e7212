package cli

import (
	"context"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/sysctl"
	"github.com/ctwarden/ctwarden/internal/notrack"
	"github.com/ctwarden/ctwarden/internal/observe"
	provenance "github.com/ctwarden/ctwarden/internal/owners"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// machineOwners answers who else sets a value, from one analysis of the
// machine.
type machineOwners struct {
	report func() *provenance.Report
}

var (
	_ tune.Owners = machineOwners{}
	_ tune.Boot   = machineOwners{}
)

func (o *keeping) owners() machineOwners {
	return machineOwners{sync.OnceValue(func() *provenance.Report {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s := settingsOnly()
		// A container with an init of its own boots from its own files.
		if own, err := netns.Inode(""); err == nil && o.noFiles(own) == "" {
			s.Netns.Initial = ct.Yes
		}
		if r := observe.Owners(ctx, o.root, s); r != nil {
			return r
		}
		return new(provenance.Report)
	})}
}

// settingsOnly is as much of a snapshot as the owners of settings depend on.
func settingsOnly() *ct.Snapshot {
	var s ct.Snapshot
	var proc procfs.FS
	s.Netns.Initial = proc.InitialNetns()
	if release, err := proc.Release(); err == nil {
		s.Version, _ = ct.ParseKernelVersion(release)
	}
	s.CPUs, _ = proc.CPUs()
	if mods, err := proc.Modules(); err == nil {
		s.Tracking.ModuleLoaded, s.Tracking.BuiltIn = mods.Offers()
	}
	if set, err := (sysctl.Tree{}).Conntrack(); err == nil {
		s.Sysctls = set.Raw
	}
	return &s
}

// Claims returns what others say of a setting.
func (m machineOwners) Claims(key string) []tune.Claim {
	s, ok := m.report().Find(key)
	if !ok {
		return nil
	}
	var claims []tune.Claim
	for _, a := range s.Assignments {
		if a.File == tune.SysctlPath || a.File == tune.ModprobePath {
			continue
		}
		c := tune.Claim{Who: a.Owner, Where: a.File, Value: a.Value, Wins: outlasts(a)}
		if a.Line > 0 {
			c.Where = fmt.Sprintf("%s:%d", a.File, a.Line)
		}
		if c.Wins {
			c.Advice = "it is applied after our file: change the value there, or take it out"
			if a.Stage == provenance.StageModuleHook {
				c.Advice += "; " + a.Why
			}
		}
		claims = append(claims, c)
	}
	return claims
}

// outlasts reports whether an assignment would prevail over our file at boot:
// it is applied after sysctl.d, or by a file that sorts after ours.
func outlasts(a provenance.Assignment) bool {
	switch a.Effect {
	case provenance.Wins, provenance.Overridden, provenance.Sometimes:
	default:
		return false
	}
	if a.Stage > provenance.StageSysctl {
		return true
	}
	return a.Stage == provenance.StageSysctl && a.Effect == provenance.Wins && afterOurs(a.File)
}

// actors are programs that run here and have a say.
func (m machineOwners) actors() []string {
	var list []string
	for _, a := range m.report().Actors {
		list = append(list, a.Name+" "+a.Does)
	}
	return list
}

// AtBoot returns what the next boot gives a setting and where it comes from.
func (m machineOwners) AtBoot(key string) (value, from string) {
	r := m.report()
	s, ok := r.Find(key)
	if !ok || s.AtBoot == "" {
		return "", r.KeysWhy
	}
	if s.Winner >= 0 && s.Winner < len(s.Assignments) {
		from = s.Assignments[s.Winner].File
	}
	return s.AtBoot, from
}

// warnOwners says after a confirmation who would undo it.
func (o *keeping) warnOwners(env *Env, settings []journal.Setting) {
	who := o.owners()
	for _, s := range settings {
		if s.State != journal.Confirmed || s.Key == notrack.Key {
			continue
		}
		if at, from := who.AtBoot(s.Key); at != s.After {
			fmt.Fprintf(env.Stderr, "ctwarden: the next boot gives %s = %s (%s)\n", s.Key, orDefault(at), from)
		}
	}
}

func orDefault(v string) string {
	if v == "" {
		return "the kernel's default"
	}
	return v
}

// afterOurs reports whether a file of sysctl settings is read after ours: the
// files of all directories are read by name, and /etc/sysctl.conf last.
func afterOurs(file string) bool {
	return file == "/etc/sysctl.conf" || path.Base(file) > path.Base(tune.SysctlPath)
}
