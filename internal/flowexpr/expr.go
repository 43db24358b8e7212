// Package flowexpr selects flows: by the flags of conntrack(8) and by a small
// typed language over every field of [ct.Flow]. A selection is compiled once
// to closures and then costs some nanoseconds a flow and no allocation.
//
// The language is the grammar of expr-lang/expr with literals for addresses,
// prefixes and durations, and with a third truth value: what an entry lacks,
// or what cannot be told of it, is unknown, an unknown part makes a comparison
// unknown in either polarity, and a flow is selected only if the whole is true.
package flowexpr

import (
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/parser"

	"github.com/ctwarden/ctwarden/ct"
)

// Context is what a selection needs besides the flow.
type Context struct {
	// Timeouts are those in force when the flows' last packets passed; nil
	// makes every idle time unknown, as it must be where timeout policies may
	// apply or timeouts were changed.
	Timeouts *ct.Timeouts
	// Former are timeouts that may have been in force instead. The idle time
	// is then the least that any of them allows.
	Former []ct.Timeouts
	// NowNanos is Unix time, for the age of entries with a timestamp.
	NowNanos int64
}

// predicate says whether a flow satisfies something, or that it cannot tell.
// Yes, unknown and no are ordered, so that "and" is the least, "or" the
// greatest and "not" the negative (Kleene's strong logic).
type predicate func(f *ct.Flow, c *Context) ct.Tri

// Filter is a compiled selection. It is immutable and safe for concurrent use.
// The zero Filter selects every flow.
type Filter struct {
	match  predicate
	kernel Kernel
	text   string
	fields map[string]bool
}

// Match reports whether the selection is certainly true of the flow.
func (s *Filter) Match(f *ct.Flow, c *Context) bool {
	return s.match == nil || s.match(f, c) == ct.Yes
}

// Empty reports whether the selection names nothing and so selects every flow.
func (s *Filter) Empty() bool { return s.match == nil }

// Uses reports whether the selection looks at a field.
func (s *Filter) Uses(field string) bool { return s.fields[field] }

// Kernel returns the part of the selection that the kernel can be asked to do.
// It never excludes a flow that Match would select.
func (s *Filter) Kernel() Kernel { return s.kernel }

// String returns the selection as an expression that compiles to the same.
func (s *Filter) String() string { return s.text }

// maxSource bounds an expression in bytes: it comes from a command line.
const maxSource = 8192

// Error is a fault in an expression.
type Error struct {
	Source string // the expression as it was written
	Column int    // 1-based, in characters
	Reason string
}

// Error names the place and the reason.
func (e *Error) Error() string {
	return fmt.Sprintf("column %d of %q: %s", e.Column, e.Source, e.Reason)
}

// Compile compiles an expression. Errors are of type [*Error].
func Compile(source string) (*Filter, error) {
	if len(source) > maxSource {
		return nil, &Error{source[:40] + "…", 1, fmt.Sprintf("longer than %d bytes", maxSource)}
	}
	if !utf8.ValidString(source) {
		return nil, &Error{strings.ToValidUTF8(source, "?"), 1, "not UTF-8"}
	}
	q := quoteLiterals(source)
	tree, err := parser.Parse(q.text)
	if err != nil {
		return nil, q.syntaxError(err)
	}
	c := compiler{q: q, fields: make(map[string]bool)}
	p, err := c.boolean(tree.Node)
	if err != nil {
		return nil, err
	}
	s := &Filter{match: p, text: strings.TrimSpace(source), fields: c.fields}
	s.kernel.narrow(tree.Node)
	return s, nil
}

// and joins two selections; either may be empty.
func and(a, b *Filter) *Filter {
	switch {
	case a.Empty():
		return b
	case b.Empty():
		return a
	}
	r := &Filter{match: both(a.match, b.match), fields: maps.Clone(a.fields)}
	maps.Copy(r.fields, b.fields)
	r.text = "(" + a.text + ") && (" + b.text + ")"
	r.kernel = a.kernel
	r.kernel.merge(b.kernel)
	return r
}

func both(a, b predicate) predicate {
	return func(f *ct.Flow, c *Context) ct.Tri {
		x := a(f, c)
		if x == ct.No {
			return ct.No
		}
		return min(x, b(f, c))
	}
}

func either(a, b predicate) predicate {
	return func(f *ct.Flow, c *Context) ct.Tri {
		x := a(f, c)
		if x == ct.Yes {
			return ct.Yes
		}
		return max(x, b(f, c))
	}
}

func negated(a predicate) predicate {
	return func(f *ct.Flow, c *Context) ct.Tri { return -a(f, c) }
}

func constant(t ct.Tri) predicate {
	return func(*ct.Flow, *Context) ct.Tri { return t }
}

// fault makes an error at a node.
func (q *quoted) fault(n ast.Node, format string, args ...any) error {
	return &Error{q.source, q.column(n.Location().From), fmt.Sprintf(format, args...)}
}

// ParseDuration reads a duration as time.ParseDuration does, with d for days
// of 24 hours in front.
func ParseDuration(s string) (time.Duration, error) {
	head, tail, days := strings.Cut(s, "d")
	if !days {
		return time.ParseDuration(s)
	}
	d, err := time.ParseDuration(head + "h")
	if err != nil || d < 0 || d > maxDays {
		return 0, fmt.Errorf("bad duration %q", s)
	}
	d *= 24
	if tail == "" {
		return d, nil
	}
	rest, err := time.ParseDuration(tail)
	if err != nil || rest < 0 {
		return 0, fmt.Errorf("bad duration %q", s)
	}
	return d + rest, nil
}

// maxDays keeps a number of days, read as hours, inside a time.Duration.
const maxDays = 50000 * time.Hour
