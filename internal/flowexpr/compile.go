package flowexpr

import (
	"github.com/expr-lang/expr/ast"

	"github.com/ctwarden/ctwarden/ct"
)

// compiler turns a syntax tree into closures, checking types on the way.
type compiler struct {
	q      *quoted
	fields map[string]bool // those looked at
}

// boolean compiles a node that must be true or false.
func (c *compiler) boolean(n ast.Node) (predicate, error) {
	switch n := n.(type) {
	case *ast.BoolNode:
		return constant(ct.TriOf(n.Value)), nil
	case *ast.IdentifierNode:
		return c.booleanField(n)
	case *ast.UnaryNode:
		if n.Operator != "!" && n.Operator != "not" {
			return nil, c.q.fault(n, "%q makes no condition", n.Operator)
		}
		p, err := c.boolean(n.Node)
		if err != nil {
			return nil, err
		}
		return negated(p), nil
	case *ast.BinaryNode:
		return c.binary(n)
	case *ast.CallNode:
		return c.has(n)
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode:
		return nil, c.q.fault(n, "a value alone is no condition; compare a field with it")
	}
	return nil, c.q.fault(n, "this is not part of the language; see docs/where.md")
}

func (c *compiler) booleanField(n *ast.IdentifierNode) (predicate, error) {
	f, err := c.field(n)
	if err != nil {
		return nil, err
	}
	if f.kind != kindBool {
		return nil, c.q.fault(n, "%s is a %s; compare it with something", f.Name, f.Type())
	}
	test := f.flag
	return func(f *ct.Flow, _ *Context) ct.Tri { return ct.TriOf(test(f)) }, nil
}

func (c *compiler) field(n *ast.IdentifierNode) (*Field, error) {
	f, ok := fieldIndex[n.Value]
	if !ok {
		return nil, c.q.fault(n, "unknown field %q%s", n.Value, suggest(n.Value))
	}
	c.fields[n.Value] = true
	return f, nil
}

func (c *compiler) binary(n *ast.BinaryNode) (predicate, error) {
	switch n.Operator {
	case "&&", "and", "||", "or":
		l, err := c.boolean(n.Left)
		if err != nil {
			return nil, err
		}
		r, err := c.boolean(n.Right)
		if err != nil {
			return nil, err
		}
		if n.Operator == "&&" || n.Operator == "and" {
			return both(l, r), nil
		}
		return either(l, r), nil
	case "in":
		return c.in(n)
	case "==", "!=", "<", "<=", ">", ">=":
		return c.comparison(n)
	case "contains", "startsWith", "endsWith":
		return c.textSearch(n)
	}
	return nil, c.q.fault(n, "operator %q makes no condition here; see docs/where.md", n.Operator)
}

// has compiles has(field): whether the entry carries a value for it.
func (c *compiler) has(n *ast.CallNode) (predicate, error) {
	callee, ok := n.Callee.(*ast.IdentifierNode)
	if !ok || callee.Value != "has" || len(n.Arguments) != 1 {
		return nil, c.q.fault(n, "the only functions are has(field) and bitand(number, number)")
	}
	id, ok := n.Arguments[0].(*ast.IdentifierNode)
	if !ok {
		return nil, c.q.fault(n, "has takes the name of a field")
	}
	f, err := c.field(id)
	if err != nil {
		return nil, err
	}
	return hasField(f), nil
}

func hasField(fd *Field) predicate {
	switch {
	case fd.num != nil:
		get := fd.num
		return func(f *ct.Flow, c *Context) ct.Tri { _, ok := get(f, c); return ct.TriOf(ok) }
	case fd.text != nil:
		get := fd.text
		return func(f *ct.Flow, _ *Context) ct.Tri {
			s, ok := get(f)
			return ct.TriOf(ok && s != "")
		}
	case fd.kind == kindState:
		return func(f *ct.Flow, _ *Context) ct.Tri {
			return ct.TriOf(f.Has(ct.HasProtoInfo) && f.Orig.Proto.HasState())
		}
	case fd.kind == kindLabels:
		return func(f *ct.Flow, _ *Context) ct.Tri { return ct.TriOf(f.Labels != [16]byte{}) }
	}
	return constant(ct.Yes)
}

// suggest proposes the field that is nearest to a mistyped name.
func suggest(name string) string {
	if best, ok := otherNames[name]; ok {
		return "; did you mean " + best + "?"
	}
	best, least := "", 3
	for i := range fields {
		if d := distance(name, fields[i].Name); d < least {
			best, least = fields[i].Name, d
		}
	}
	if best != "" {
		return "; did you mean " + best + "?"
	}
	return `; texts such as "tcp" or "ESTABLISHED" stand in quotation marks`
}

// otherNames are words that people use for fields.
var otherNames = map[string]string{"idle": "idle_min", "protocol": "proto", "saddr": "src",
	"daddr": "dst", "source": "src", "destination": "dst", "dnat": "dst_nat", "snat": "src_nat",
	"connmark": "mark", "left": "timeout", "label": "labels", "offload": "offloaded"}

// distance is the edit distance, bounded by the short names it is used on.
func distance(a, b string) int {
	if len(a) > 32 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev = row[j+1]
			row[j+1] = min(cost, prev+1, row[j]+1)
		}
	}
	return row[len(b)]
}
