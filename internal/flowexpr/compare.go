package flowexpr

import (
	"math"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/ctwarden/ctwarden/ct"
)

// operand is one side of a comparison.
type operand struct {
	node  ast.Node
	kind  kind
	field *Field  // nil for a value or something computed
	num   numFunc // numbers and durations
	// literal is set for values written down. A text has no type of its own:
	// it takes that of the other side.
	literal bool
	text    string
	n       int64
}

func (o *operand) isText() bool { return o.literal && o.kind == kindText }

func (c *compiler) operand(n ast.Node) (*operand, error) {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		f, err := c.field(n)
		if err != nil {
			return nil, err
		}
		return &operand{node: n, kind: f.kind, field: f, num: f.num}, nil
	case *ast.StringNode:
		return &operand{node: n, kind: kindText, literal: true, text: n.Value}, nil
	case *ast.IntegerNode:
		return numberLiteral(n, int64(n.Value)), nil
	case *ast.FloatNode:
		if n.Value != math.Trunc(n.Value) || math.Abs(n.Value) > 1<<53 {
			return nil, c.q.fault(n, "numbers here are whole")
		}
		return numberLiteral(n, int64(n.Value)), nil
	case *ast.UnaryNode:
		return c.sign(n)
	case *ast.BinaryNode:
		return c.arithmetic(n)
	case *ast.BuiltinNode:
		return c.bitand(n, n.Name, n.Arguments)
	}
	return nil, c.q.fault(n, "this cannot be compared; see docs/where.md")
}

func numberLiteral(n ast.Node, v int64) *operand {
	return &operand{node: n, kind: kindNumber, literal: true, n: v,
		num: func(*ct.Flow, *Context) (int64, bool) { return v, true }}
}

// comparison compiles ==, !=, <, <=, > and >=.
func (c *compiler) comparison(n *ast.BinaryNode) (predicate, error) {
	l, err := c.operand(n.Left)
	if err != nil {
		return nil, err
	}
	r, err := c.operand(n.Right)
	if err != nil {
		return nil, err
	}
	op := n.Operator
	if l.literal && !r.literal {
		l, r, op = r, l, mirrored[op]
	}
	if l.literal {
		return nil, c.q.fault(n, "both sides are fixed values")
	}
	if l.kind == kindNumber || l.kind == kindDuration {
		return c.compareNumbers(n, op, l, r)
	}
	if op != "==" && op != "!=" {
		return nil, c.q.fault(n, "%s has no order; use ==, != or in", l.field.Name)
	}
	p, err := c.equal(n, l, r)
	if err == nil && op == "!=" {
		p = negated(p)
	}
	return p, err
}

var mirrored = map[string]string{"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

func (c *compiler) compareNumbers(n ast.Node, op string, l, r *operand) (predicate, error) {
	if r.isText() {
		if p, err, done := c.maskedMark(op, l, r); done {
			return p, err
		}
		if err := c.asNumber(l, r); err != nil {
			return nil, err
		}
	}
	if l.kind != r.kind {
		return nil, c.q.fault(n, "a %s is compared with a %s%s", l.kind, r.kind, durationHint(l, r))
	}
	if r.literal {
		lo, hi, invert := bounds(op, r.n)
		p := within(l.num, lo, hi)
		if invert {
			p = negated(p)
		}
		return p, nil
	}
	return compareTwo(op, l.num, r.num), nil
}

func durationHint(l, r *operand) string {
	if l.kind == kindDuration || r.kind == kindDuration {
		return "; durations carry a unit, as 90s or 1h"
	}
	return ""
}

// asNumber reads a text that stands beside a number or a duration.
func (c *compiler) asNumber(l, r *operand) error {
	if l.kind == kindDuration {
		d, err := ParseDuration(r.text)
		if err != nil {
			return c.q.fault(r.node, "%q is no duration, as 90s, 1h or 5d", r.text)
		}
		*r = *numberLiteral(r.node, int64(d))
		r.kind = kindDuration
		return nil
	}
	if _, err := ParseDuration(r.text); err == nil {
		return c.q.fault(r.node, "%q is a duration, and the other side a number", r.text)
	}
	return c.q.fault(r.node, "%q is no number", r.text)
}

// maskedMark compiles mark == 0x10/0xff.
func (c *compiler) maskedMark(op string, l, r *operand) (p predicate, err error, done bool) {
	if l.field == nil || l.field.Name != "mark" || !strings.Contains(r.text, "/") {
		return nil, nil, false
	}
	m, err := ParseMark(r.text)
	if err != nil {
		return nil, c.q.fault(r.node, "%v", err), true
	}
	p = m.match()
	switch op {
	case "==":
		return p, nil, true
	case "!=":
		return negated(p), nil, true
	}
	return nil, c.q.fault(r.node, "a mark with a mask has no order"), true
}

// bounds turns a comparison with v into an interval, both ends included, or
// into its opposite.
func bounds(op string, v int64) (lo, hi int64, invert bool) {
	lo, hi = math.MinInt64, math.MaxInt64
	switch op {
	case "==":
		return v, v, false
	case "!=":
		return v, v, true
	case "<":
		return v, hi, true
	case "<=":
		return lo, v, false
	case ">":
		return lo, v, true
	}
	return v, hi, false
}

func within(get numFunc, lo, hi int64) predicate {
	return func(f *ct.Flow, c *Context) ct.Tri {
		v, ok := get(f, c)
		if !ok {
			return ct.Unknown
		}
		return ct.TriOf(v >= lo && v <= hi)
	}
}

func compareTwo(op string, l, r numFunc) predicate {
	return func(f *ct.Flow, c *Context) ct.Tri {
		a, okA := l(f, c)
		b, okB := r(f, c)
		if !okA || !okB {
			return ct.Unknown
		}
		switch op {
		case "==":
			return ct.TriOf(a == b)
		case "!=":
			return ct.TriOf(a != b)
		case "<":
			return ct.TriOf(a < b)
		case "<=":
			return ct.TriOf(a <= b)
		case ">":
			return ct.TriOf(a > b)
		}
		return ct.TriOf(a >= b)
	}
}

// equal compiles equality of everything that is no number.
func (c *compiler) equal(n ast.Node, l, r *operand) (predicate, error) {
	if r.isText() {
		return c.equalText(l, r)
	}
	switch {
	case l.kind == kindAddr && r.kind == kindAddr:
		a, b := l.field.addr, r.field.addr
		return func(f *ct.Flow, _ *Context) ct.Tri {
			x, y := a(f), b(f)
			if !x.IsValid() || !y.IsValid() {
				return ct.Unknown
			}
			return ct.TriOf(*x == *y)
		}, nil
	case l.kind == kindProto && r.literal && r.kind == kindNumber:
		if r.n < 0 || r.n > 255 {
			return nil, c.q.fault(r.node, "a protocol number is 0 to 255")
		}
		return protoIs(ct.Proto(r.n)), nil
	case l.kind == kindText && r.kind == kindText:
		a, b := l.field.text, r.field.text
		return func(f *ct.Flow, _ *Context) ct.Tri {
			x, okX := a(f)
			y, okY := b(f)
			if !okX || !okY {
				return ct.Unknown
			}
			return ct.TriOf(x == y)
		}, nil
	}
	return nil, c.q.fault(n, "a %s is compared with a %s", l.kind, r.kind)
}

func (c *compiler) equalText(l, r *operand) (predicate, error) {
	switch l.kind {
	case kindAddr, kindProto, kindState, kindFamily:
		var s set
		if l.kind == kindAddr && strings.Contains(r.text, "/") {
			return nil, c.q.fault(r.node, "%q is a prefix: write %s in %s", r.text, l.field.Name, r.text)
		}
		if err := c.addText(&s, l, r); err != nil {
			return nil, err
		}
		return s.match(l), nil
	case kindText:
		get, want := l.field.text, r.text
		return func(f *ct.Flow, _ *Context) ct.Tri {
			s, ok := get(f)
			if !ok {
				return ct.Unknown
			}
			return ct.TriOf(s == want)
		}, nil
	case kindStatus, kindLabels:
		return nil, c.q.fault(r.node, "%s is a set: write %q in %s", l.field.Name, r.text, l.field.Name)
	}
	return nil, c.q.fault(r.node, "%s is %s; write it alone, or !%s", l.field.Name, l.kind, l.field.Name)
}

// textSearch compiles contains, startsWith and endsWith.
func (c *compiler) textSearch(n *ast.BinaryNode) (predicate, error) {
	l, err := c.operand(n.Left)
	if err != nil {
		return nil, err
	}
	r, err := c.operand(n.Right)
	if err != nil {
		return nil, err
	}
	if l.field == nil || l.kind != kindText || !r.isText() {
		return nil, c.q.fault(n, "%s searches a text field for a text", n.Operator)
	}
	test := map[string]func(s, t string) bool{"contains": strings.Contains,
		"startsWith": strings.HasPrefix, "endsWith": strings.HasSuffix}[n.Operator]
	get, want := l.field.text, r.text
	return func(f *ct.Flow, _ *Context) ct.Tri {
		s, ok := get(f)
		if !ok {
			return ct.Unknown
		}
		return ct.TriOf(test(s, want))
	}, nil
}
