package workload

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// FieldError is what is wrong with one field of a workload file.
type FieldError struct {
	Line  int    // 0 if unknown
	Path  string // such as classes[0].arrivals.rate
	Class string // the class's name
	Text  string // what is wrong, and what is allowed
}

// Error names line, field and what is allowed.
func (e *FieldError) Error() string {
	name := e.Path
	if e.Class != "" {
		name = strings.Replace(name, "]", "] ("+e.Class+")", 1)
	}
	if e.Line > 0 {
		return fmt.Sprintf("line %d: %s: %s", e.Line, name, e.Text)
	}
	return name + ": " + e.Text
}

// mostErrors is how many errors of a file are told.
const mostErrors = 20

// withLines looks up where the fields stand, or what should hold them.
func withLines(data []byte, fields []*FieldError) (errs []error) {
	file, err := parser.ParseBytes(data, 0)
	for i, e := range fields {
		if i == mostErrors {
			return append(errs, fmt.Errorf("and %d more", len(fields)-i))
		}
		for path := "$." + e.Path; err == nil && e.Line == 0 && path != "$"; path = path[:strings.LastIndexByte(path, '.')] {
			e.Line = lineOf(file, path)
		}
		errs = append(errs, e)
	}
	return errs
}

func lineOf(file *ast.File, path string) int {
	p, err := yaml.PathString(path)
	if err != nil {
		return 0
	}
	node, err := p.FilterFile(file)
	if err != nil || node == nil || node.GetToken() == nil {
		return 0
	}
	return node.GetToken().Position.Line
}

var (
	placed = regexp.MustCompile(`\[\d+:\d+\]`)
	quoted = regexp.MustCompile(`"([^"]+)"`)
)

// located says where a value stands that could not be read: the decoder does not
// tell for values that have a syntax of their own.
func located(data []byte, err error) error {
	text := harmless(yaml.FormatError(err, false, true))
	if m := quoted.FindStringSubmatch(text); m != nil && !placed.MatchString(text) {
		for i, line := range strings.Split(string(data), "\n") {
			if strings.Contains(line, m[1]) {
				return fmt.Errorf("line %d: %s: %s", i+1, harmless(strings.TrimSpace(line)), plain(text))
			}
		}
	}
	return fmt.Errorf("%s", text)
}

// harmless leaves out what a terminal would act on: the file is not known to be
// text.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' {
			return r
		}
		return '\uFFFD'
	}, s)
}

// plain replaces the words of a library by what is allowed.
func plain(text string) string {
	if rest, ok := strings.CutPrefix(text, "netip.ParsePrefix("); ok {
		value, why, _ := strings.Cut(rest, "): ")
		return fmt.Sprintf("%s is not a prefix such as 10.0.0.0/16 or 2001:db8::1/128: %s", value, why)
	}
	return text
}
