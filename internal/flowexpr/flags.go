package flowexpr

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Flags are the selecting flags of conntrack(8) as they were written, with
// prefixes for addresses, ranges for ports and commas for alternatives. Each
// one that is set narrows the selection.
type Flags struct {
	Family              string // -f: ipv4 or ipv6
	Proto               string // -p
	Src, Dst            string // -s, -d
	ReplySrc, ReplyDst  string // -r, -q
	SPort, DPort        string // --sport, --dport
	ReplySPort          string // --reply-port-src
	ReplyDPort          string // --reply-port-dst
	State               string // --state
	Mark                string // -m: value[/mask]
	Zone                string // -w
	OrigZone, ReplyZone string // --orig-zone, --reply-zone
	Status              string // -u
	Label               string // -l, by number
	// SrcNAT, DstNAT and AnyNAT hold an address, or AnyAddress.
	SrcNAT, DstNAT, AnyNAT string // -n, -g, -j
	Where                  string // --where
}

// AnyAddress is the value of a NAT flag without an address.
const AnyAddress = "any"

// FlagError is a fault in the value of a flag.
type FlagError struct {
	Flag string // with its dashes
	Err  error
}

// Error names the flag.
func (e *FlagError) Error() string { return e.Flag + ": " + e.Err.Error() }

// Unwrap returns the fault, an [*Error] if it lies in an expression.
func (e *FlagError) Unwrap() error { return e.Err }

// Compile turns the flags into one selection: each flag is translated to an
// expression, so that both ways to say a thing mean the same.
func (o *Flags) Compile() (*Filter, error) {
	all := new(Filter)
	for _, r := range o.rules() {
		if r.value == "" {
			continue
		}
		text, err := r.translate(r.value)
		if err != nil {
			return nil, &FlagError{r.flag, err}
		}
		f, err := Compile(text)
		if err != nil {
			return nil, &FlagError{r.flag, err}
		}
		all = and(all, f)
	}
	return all, nil
}

type rule struct {
	flag, value string
	translate   func(string) (string, error)
}

func (o *Flags) rules() []rule {
	return []rule{
		{"--family", o.Family, oneOf("family", "ipv4", "ipv6")},
		{"--proto", o.Proto, protoList},
		{"--src", o.Src, addrList("src")},
		{"--dst", o.Dst, addrList("dst")},
		{"--reply-src", o.ReplySrc, addrList("reply_src")},
		{"--reply-dst", o.ReplyDst, addrList("reply_dst")},
		{"--sport", o.SPort, rangeList("sport", 65535)},
		{"--dport", o.DPort, rangeList("dport", 65535)},
		{"--reply-port-src", o.ReplySPort, rangeList("reply_sport", 65535)},
		{"--reply-port-dst", o.ReplyDPort, rangeList("reply_dport", 65535)},
		{"--state", o.State, stateList},
		{"--mark", o.Mark, markText},
		{"--zone", o.Zone, rangeList("zone", 65535)},
		{"--orig-zone", o.OrigZone, rangeList("orig_zone", 65535)},
		{"--reply-zone", o.ReplyZone, rangeList("reply_zone", 65535)},
		{"--status", o.Status, statusList},
		{"--label", o.Label, labelList},
		{"--src-nat", o.SrcNAT, natText("src_nat", "reply_dst")},
		{"--dst-nat", o.DstNAT, natText("dst_nat", "reply_src")},
		{"--any-nat", o.AnyNAT, anyNAT},
		{"--where", o.Where, func(s string) (string, error) { return s, nil }},
	}
}

func oneOf(field string, values ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		for _, v := range values {
			if s == v {
				return field + " == " + strconv.Quote(s), nil
			}
		}
		return "", &badText{s, "value here; it is " + strings.Join(values, " or ")}
	}
}

// list joins comma-separated items, each checked and written as a literal.
func list(field, s string, item func(string) (string, error)) (string, error) {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		lit, err := item(strings.TrimSpace(part))
		if err != nil {
			return "", err
		}
		out = append(out, lit)
	}
	return field + " in [" + strings.Join(out, ", ") + "]", nil
}

func addrList(field string) func(string) (string, error) {
	return func(s string) (string, error) {
		return list(field, s, func(a string) (string, error) {
			p, err := ParsePrefix(a)
			if err != nil {
				return "", err
			}
			if p.IsSingleIP() {
				return p.Addr().String(), nil
			}
			return p.String(), nil
		})
	}
}

// rangeList reads numbers and ranges lo-hi or lo:hi up to limit.
func rangeList(field string, limit uint64) func(string) (string, error) {
	return func(s string) (string, error) {
		return list(field, s, func(r string) (string, error) {
			lo, hi, ranged := strings.Cut(r, "-")
			if !ranged {
				lo, hi, ranged = strings.Cut(r, ":")
			}
			a, err := strconv.ParseUint(lo, 10, 64)
			b := a
			if err == nil && ranged {
				b, err = strconv.ParseUint(hi, 10, 64)
			}
			if err != nil || a > b || b > limit {
				return "", &badText{r, fmt.Sprintf("number or range LOW-HIGH up to %d", limit)}
			}
			if !ranged {
				return strconv.FormatUint(a, 10), nil
			}
			return fmt.Sprintf("%d..%d", a, b), nil
		})
	}
}

func protoList(s string) (string, error) {
	return list("proto", s, func(p string) (string, error) {
		v, ok := ct.ParseProto(strings.ToLower(p))
		if !ok {
			return "", &badText{p, "protocol"}
		}
		return strconv.Quote(v.String()), nil
	})
}

func stateList(s string) (string, error) {
	return list("state", s, func(name string) (string, error) {
		if _, ok := parseStates(name); !ok {
			return "", &badText{name, "state, as SYN_SENT or ESTABLISHED"}
		}
		return strconv.Quote(strings.ToUpper(name)), nil
	})
}

func markText(s string) (string, error) {
	m, err := ParseMark(s)
	if err != nil {
		return "", err
	}
	return m.expression(), nil
}

// statusList demands all bits; a bit after ! must be clear, and UNREPLIED
// stands for !SEEN_REPLY.
func statusList(s string) (string, error) {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		name, not := strings.CutPrefix(strings.ToUpper(strings.TrimSpace(part)), "!")
		if name == "UNREPLIED" {
			name, not = "SEEN_REPLY", !not
		}
		if _, ok := ct.ParseStatus(name); !ok {
			return "", &badText{part, "status bit, as ASSURED, SEEN_REPLY or OFFLOAD"}
		}
		term := strconv.Quote(name) + " in status"
		if not {
			term = "!(" + term + ")"
		}
		out = append(out, term)
	}
	return strings.Join(out, " && "), nil
}

func labelList(s string) (string, error) {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(part), 10, 7)
		if err != nil {
			return "", &badText{part, "label, a number from 0 to 127"}
		}
		out = append(out, fmt.Sprintf("%d in labels", n))
	}
	return strings.Join(out, " && "), nil
}

func natText(bit, field string) func(string) (string, error) {
	return func(s string) (string, error) {
		if s == AnyAddress {
			return bit, nil
		}
		in, err := addrList(field)(s)
		return bit + " && " + in, err
	}
}

func anyNAT(s string) (string, error) {
	if s == AnyAddress {
		return "(src_nat || dst_nat)", nil
	}
	src, err := natText("src_nat", "reply_dst")(s)
	if err != nil {
		return "", err
	}
	dst, err := natText("dst_nat", "reply_src")(s)
	return "(" + src + ") || (" + dst + ")", err
}
