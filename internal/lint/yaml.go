package lint

import (
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// readYAML reads playbooks and cloud-init: mappings that name a setting and its
// value, and every text, which may be a command or the content of a file. What
// cannot be parsed, as templates often cannot, is read as lines.
func readYAML(s Source) (acts []act) {
	r := &reader{file: s.Path, kind: kindYAML}
	f, err := parse(s.Data)
	if err != nil {
		n := 0
		for line := range strings.Lines(string(s.Data)) {
			if n++; n > maxLines {
				break
			}
			r.line(n, strings.TrimRight(line, "\r\n"))
		}
		return r.acts
	}
	for _, d := range f.Docs {
		if d.Body != nil {
			ast.Walk(yamlVisitor{r}, d.Body)
		}
	}
	return r.acts
}

type yamlVisitor struct{ r *reader }

// Visit implements ast.Visitor.
func (v yamlVisitor) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.MappingNode:
		v.r.mapping(n)
	case *ast.MappingValueNode:
		v.r.pair(n)
	case *ast.LiteralNode:
		v.r.block(n.Value.Token.Position.Line, n.Value.Value)
		return nil
	case *ast.StringNode:
		v.r.block(n.Token.Position.Line, n.Value)
	}
	return v
}

// mapping reads the arguments of Ansible's sysctl and modprobe modules.
func (r *reader) mapping(n *ast.MappingNode) {
	var name, value, params string
	line, valueLine, state := 0, 0, "present"
	for _, p := range n.Values {
		text := scalar(p.Value)
		switch scalar(p.Key) {
		case "name", "key":
			name, line = text, p.Key.GetToken().Position.Line
		case "value":
			value, valueLine = text, p.Key.GetToken().Position.Line
		case "params":
			params = text
		case "state":
			state = text
		}
	}
	switch {
	case state == "absent":
	case strings.HasPrefix(dotted(name), "net.") && value != "":
		r.add(valueLine, set, dotted(name), value, name+" = "+value)
	case (name == "nf_conntrack" || name == "ip_conntrack") && params != "":
		r.modprobe(line, "options "+name+" "+params)
	case name == "nf_conntrack" || name == "ip_conntrack":
		r.add(line, load, name, "", name)
	}
}

// pair reads "net.netfilter.nf_conntrack_max: 262144", as maps of settings have
// it.
func (r *reader) pair(n *ast.MappingValueNode) {
	key := scalar(n.Key)
	if value := scalar(n.Value); strings.HasPrefix(dotted(key), "net.") && value != "" {
		r.add(n.Key.GetToken().Position.Line, set, dotted(key), value, key+" = "+value)
	}
}

func scalar(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value
	}
	return ""
}

// block reads a text of one or more lines as a script.
func (r *reader) block(line int, text string) {
	for l := range strings.Lines(text) {
		r.line(line, strings.TrimRight(l, "\r\n"))
		line++
	}
}

// parse shields the program from a parser that is given anything.
func parse(data []byte) (f *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			f, err = nil, errYAML
		}
	}()
	return parser.ParseBytes(data, 0)
}
