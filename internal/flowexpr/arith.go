package flowexpr

import (
	"math"
	"math/bits"

	"github.com/expr-lang/expr/ast"

	"github.com/ctwarden/ctwarden/ct"
)

// sign compiles -n and +n of a number written down.
func (c *compiler) sign(n *ast.UnaryNode) (*operand, error) {
	if n.Operator != "-" && n.Operator != "+" {
		return nil, c.q.fault(n, "%q needs parentheses around a condition", n.Operator)
	}
	o, err := c.operand(n.Node)
	if err != nil {
		return nil, err
	}
	if !o.literal || o.kind != kindNumber {
		return nil, c.q.fault(n, "a sign stands before a number only")
	}
	if n.Operator == "-" {
		return numberLiteral(n, -o.n), nil
	}
	return o, nil
}

// arithmetic compiles +, -, * and / of numbers and durations. A result that
// does not fit, and a division by zero, is unknown.
func (c *compiler) arithmetic(n *ast.BinaryNode) (*operand, error) {
	fn, ok := arithmetics[n.Operator]
	if !ok {
		return nil, c.q.fault(n, "%q makes no value; put conditions in parentheses", n.Operator)
	}
	l, err := c.operand(n.Left)
	if err != nil {
		return nil, err
	}
	r, err := c.operand(n.Right)
	if err != nil {
		return nil, err
	}
	for _, o := range [...]*operand{l, r} {
		if o.isText() { // the only texts one can calculate with
			if err := c.asNumber(&operand{kind: kindDuration}, o); err != nil {
				return nil, err
			}
		}
	}
	k, ok := resultKind(n.Operator, l.kind, r.kind)
	if !ok || l.num == nil || r.num == nil {
		return nil, c.q.fault(n, "%q cannot join a %s and a %s", n.Operator, l.kind, r.kind)
	}
	a, b := l.num, r.num
	return &operand{node: n, kind: k, num: func(f *ct.Flow, c *Context) (int64, bool) {
		x, okX := a(f, c)
		y, okY := b(f, c)
		if !okX || !okY {
			return 0, false
		}
		return fn(x, y)
	}}, nil
}

// resultKind keeps units apart: durations add to durations and scale by
// numbers; a duration over a duration is a number.
func resultKind(op string, l, r kind) (kind, bool) {
	number, duration := kindNumber, kindDuration
	switch {
	case l == number && r == number:
		return number, true
	case l == duration && r == duration:
		if op == "/" {
			return number, true
		}
		return duration, op == "+" || op == "-"
	case l == duration && r == number:
		return duration, op == "*" || op == "/"
	case l == number && r == duration:
		return duration, op == "*"
	}
	return 0, false
}

var arithmetics = map[string]func(a, b int64) (int64, bool){
	"+": func(a, b int64) (int64, bool) { s := a + b; return s, (s > a) == (b > 0) },
	"-": func(a, b int64) (int64, bool) { d := a - b; return d, (d < a) == (b > 0) },
	"*": multiply,
	"/": func(a, b int64) (int64, bool) {
		if b == 0 || a == math.MinInt64 && b == -1 {
			return 0, false
		}
		return a / b, true
	},
}

func multiply(a, b int64) (int64, bool) {
	if a == math.MinInt64 || b == math.MinInt64 {
		return 0, false
	}
	hi, lo := bits.Mul64(uint64(max(a, -a)), uint64(max(b, -b)))
	if hi != 0 || lo > math.MaxInt64 {
		return 0, false
	}
	if (a < 0) != (b < 0) {
		return -int64(lo), true
	}
	return int64(lo), true
}

// bitand compiles bitand(number, number).
func (c *compiler) bitand(n ast.Node, name string, args []ast.Node) (*operand, error) {
	if name != "bitand" || len(args) != 2 {
		return nil, c.q.fault(n, "the only functions are has(field) and bitand(number, number)")
	}
	l, err := c.operand(args[0])
	if err != nil {
		return nil, err
	}
	r, err := c.operand(args[1])
	if err != nil {
		return nil, err
	}
	if l.kind != kindNumber || r.kind != kindNumber {
		return nil, c.q.fault(n, "bitand takes two numbers")
	}
	a, b := l.num, r.num
	return &operand{node: n, kind: kindNumber, num: func(f *ct.Flow, c *Context) (int64, bool) {
		x, okX := a(f, c)
		y, okY := b(f, c)
		return x & y, okX && okY
	}}, nil
}
