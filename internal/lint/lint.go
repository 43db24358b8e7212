// Package lint judges settings of connection tracking that others wrote: sysctl
// and modprobe files, scripts, playbooks, Dockerfiles, cloud-init. It knows
// the page of commands that everyone pastes, and what is wrong with it.
//
// It is pure: sources in, findings out.
package lint

import (
	"cmp"
	"slices"

	"github.com/ctwarden/ctwarden/ct"
)

// Severity says how much a finding matters.
type Severity string

// Severities. An error does not do what it says, or does harm; a warning does
// harm under conditions; a note is worth knowing.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Note    Severity = "note"
)

// Finding is one bad line.
type Finding struct {
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Severity Severity `json:"severity"`
	Code     string   `json:"code"` // stable, kebab-case
	Message  string   `json:"message"`
	// Fix is the corrected line, "" where the line should go.
	Fix string `json:"fix,omitempty"`
}

// Source is one file to judge.
type Source struct {
	Path string
	Data []byte
}

// Options say what machine the sources are for.
type Options struct {
	// Version is the kernel; the zero value means a current one.
	Version ct.KernelVersion
	// Whole is set if the sources are all that a machine boots with, in the
	// order in which it applies them: only then can a file be blamed for what
	// no other does.
	Whole bool
	// BuiltIn says whether nf_conntrack is part of the kernel image.
	BuiltIn ct.Tri
}

// Lint judges the sources and returns findings by file and line.
func Lint(sources []Source, o Options) []Finding {
	if o.Version.IsZero() {
		o.Version = ct.KernelVersion{Major: 6, Minor: 12}
	}
	l := &linter{o: o}
	for _, s := range sources {
		l.acts = append(l.acts, read(s)...)
	}
	for i := range l.acts {
		l.one(&l.acts[i])
	}
	l.together()
	slices.SortStableFunc(l.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Code, b.Code))
	})
	return slices.Compact(l.found)
}

type linter struct {
	o     Options
	acts  []act
	found []Finding
}

func (l *linter) report(a *act, s Severity, code, message, fix string) {
	l.found = append(l.found, Finding{File: a.file, Line: a.line, Severity: s, Code: code, Message: message, Fix: fix})
}

// Worst is the highest severity of the findings, "" without any.
func Worst(list []Finding) Severity {
	worst := Severity("")
	for _, f := range list {
		switch {
		case f.Severity == Error:
			return Error
		case f.Severity == Warning:
			worst = Warning
		case worst == "":
			worst = f.Severity
		}
	}
	return worst
}
