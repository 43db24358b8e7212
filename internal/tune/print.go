package tune

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Formats lists the faces of a plan.
var Formats = []string{"text", "json", "sysctl", "shell", "ansible"}

// Print writes the plan in one of [Formats].
func (p *Plan) Print(w io.Writer, format string) error {
	switch format {
	case "json":
		return p.JSON(w)
	case "text", "sysctl", "shell", "ansible":
	default:
		return fmt.Errorf("unknown format %q: one of %s", format, strings.Join(Formats, ", "))
	}
	bw := bufio.NewWriter(w)
	switch format {
	case "text":
		p.text(bw)
	case "sysctl":
		bw.WriteString(SysctlFile(p.Items, p.title()))
	case "shell":
		p.shell(bw)
	case "ansible":
		p.ansible(bw)
	}
	return bw.Flush()
}

// JSON writes the plan so that [ReadPlan] reads it back.
func (p *Plan) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(p)
}

// maxPlanBytes bounds a plan that is read.
const maxPlanBytes = 4 << 20

// ReadPlan reads the JSON form of a plan.
func ReadPlan(r io.Reader) (*Plan, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxPlanBytes))
	if err != nil {
		return nil, err
	}
	var p Plan
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("this is not a plan: %w", err)
	}
	if p.Schema != PlanSchema {
		return nil, fmt.Errorf("this is a document of schema %q, not %q", p.Schema, PlanSchema)
	}
	for _, it := range p.Items {
		if err := checkValue(it.Key, it.To); err != nil {
			return nil, err
		}
	}
	return &p, nil
}

func (p *Plan) title() string {
	return fmt.Sprintf("for %s, kernel %s, as %s", oneLine(p.Host), oneLine(p.Kernel), p.Role.title())
}

// oneLine keeps a name of the machine from breaking out of a comment.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

func (p *Plan) text(w *bufio.Writer) {
	p.textChanges(w)
	if len(p.Optional) > 0 {
		fmt.Fprintln(w, "\nOffered, not applied:")
		for _, it := range p.Optional {
			fmt.Fprintf(w, "  %s: %s -> %s\n", it.Key, orUnknown(it.From), it.To)
			textItem(w, it)
		}
	}
	p.textRules(w)
	p.textWarnings(w)
	p.textKept(w)
	if len(p.Items) > 0 {
		fmt.Fprintln(w, "\nTry it: ctwarden apply            (takes it back after ten minutes unless you confirm)")
	}
}

// Brief writes what a person must know who is about to apply the plan: the
// changes, what they are good for, and what to mind.
func (p *Plan) Brief(w io.Writer) error {
	bw := bufio.NewWriter(w)
	p.textChanges(bw)
	p.textWarnings(bw)
	return bw.Flush()
}

func (p *Plan) textChanges(w *bufio.Writer) {
	switch n := len(p.Items); n {
	case 0:
		fmt.Fprintf(w, "Nothing to change %s (%s).\n", p.title(), p.RoleWhy)
	case 1:
		fmt.Fprintf(w, "1 change %s (%s).\n", p.title(), p.RoleWhy)
	default:
		fmt.Fprintf(w, "%d changes %s (%s).\n", n, p.title(), p.RoleWhy)
	}
	p.textDemand(w)
	for i, it := range p.Items {
		fmt.Fprintf(w, "\n%d. %s: %s -> %s\n", i+1, it.Key, orUnknown(it.From), it.To)
		textItem(w, it)
	}
	p.textSurvival(w)
}

func (p *Plan) textWarnings(w *bufio.Writer) {
	if len(p.Warnings)+len(p.Actors) > 0 {
		fmt.Fprintln(w, "\nMind:")
	}
	for _, s := range append(slices.Clone(p.Warnings), p.Actors...) {
		fmt.Fprintf(w, "  - %s\n", s)
	}
}

// textKept names what stays, one paragraph a reason.
func (p *Plan) textKept(w *bufio.Writer) {
	var reasons []string
	keys := map[string][]string{}
	for _, k := range p.Kept {
		if keys[k.Why] == nil {
			reasons = append(reasons, k.Why)
		}
		keys[k.Why] = append(keys[k.Why], strings.TrimPrefix(k.Key, Prefix)+" "+k.Value)
	}
	if len(reasons) > 0 {
		fmt.Fprintln(w, "\nLeft as it is:")
	}
	for _, why := range reasons {
		fmt.Fprintf(w, "  - %s\n", why)
		const width = 78
		line := "     "
		for i, k := range keys[why] {
			if i < len(keys[why])-1 {
				k += ","
			}
			if len(line)+1+len(k) > width {
				fmt.Fprintln(w, line)
				line = "     "
			}
			line += " " + k
		}
		fmt.Fprintln(w, line)
	}
}

func textItem(w *bufio.Writer, it Item) {
	field := func(name, text string) {
		if text != "" {
			fmt.Fprintf(w, "   %-8s %s\n", name, text)
		}
	}
	field("why", it.Why)
	field("acts on", it.ActsOn)
	field("risk", it.Risk)
	if it.MemoryBytes > 0 {
		field("memory", "up to "+byteSize(it.MemoryBytes)+" more")
	}
	if it.Global {
		field("scope", "the whole host, all namespaces")
	}
	for _, c := range it.Claims {
		verb := "also set by"
		if c.Wins {
			verb = "overridden by"
		}
		field("owner", fmt.Sprintf("%s %s in %s %s", verb, c.Who, c.Where, c.Value))
		field("", c.Advice)
	}
}

func (p *Plan) textDemand(w *bufio.Writer) {
	d := &p.Demand
	fmt.Fprintf(w, "Load: %d entries; %.0f new a second (%s", d.Count, d.NewPerSecond, d.NewFrom)
	if d.RefusedPerSecond > 0 {
		fmt.Fprintf(w, ", %.0f of them refused", d.RefusedPerSecond)
	}
	fmt.Fprintf(w, "), planned for %.0f.\n", d.PeakNewPerSecond)
	fmt.Fprintf(w, "Peak: %.0f entries with the timeouts of now, %.0f after, %.0f if it comes all at once;\n      an entry takes %d bytes (%s).\n",
		d.PeakBefore, d.PeakAfter, d.BurstAfter, d.BytesPerEntry, d.BytesFrom)
}

func (p *Plan) textSurvival(w *bufio.Writer) {
	if len(p.Survival) == 0 {
		return
	}
	fmt.Fprintf(w, "\nA flood of %.0f a second, before and after:\n", p.Survival[0].RatePerSecond)
	for _, s := range p.Survival {
		fmt.Fprintf(w, "  %-46s %-34s %s\n", s.Flood, s.Before, s.After)
	}
}

// String says how a flood ends.
func (s Stand) String() string {
	switch {
	case s.Unlimited:
		return "no limit but memory"
	case s.FullAfterSeconds == nil:
		return fmt.Sprintf("never full (%s)", percent(s.FillPeak))
	}
	return fmt.Sprintf("full in %.0f s, then admits %s", *s.FullAfterSeconds, odds(s.Admitted))
}

// textRules names the rules of the firewall, which are not ours to change.
func (p *Plan) textRules(w *bufio.Writer) {
	if len(p.Rules) > 0 {
		fmt.Fprintln(w, "\nRules of the firewall, for whoever keeps them:")
	}
	for _, r := range p.Rules {
		more := ""
		if r.More > 0 {
			more = fmt.Sprintf(" (and %d more like it)", r.More)
		}
		fmt.Fprintf(w, "  %s: %s%s\n", r.Where, r.Rule, more)
		for _, f := range [][2]string{{"why", r.Why}, {"kernel", r.Kernel}, {"instead", r.Instead}, {"risk", r.Risk}} {
			fmt.Fprintf(w, "   %-8s %s\n", f[0], f[1])
		}
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "?"
	}
	return s
}

// SysctlFile is the content of a sysctl.d file that sets the items, in their
// order; title says what it was made for.
func SysctlFile(items []Item, title string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by ctwarden %s.\n", oneLine(title))
	b.WriteString("# The keys exist only once nf_conntrack is loaded: see modules-load.d.\n")
	for _, it := range items {
		if it.Key == KeyHashsize {
			fmt.Fprintf(&b, "# options nf_conntrack hashsize=%s belongs in modprobe.d: this kernel has no sysctl for it.\n", it.To)
			continue
		}
		fmt.Fprintf(&b, "%s = %s\n", it.Key, it.To)
	}
	return b.String()
}

func (p *Plan) shell(w *bufio.Writer) {
	fmt.Fprintf(w, "#!/bin/sh\n# ctwarden plan %s.\n# Until the next boot only. ctwarden apply does the same on trial, with an undo.\nset -eu\nmodprobe nf_conntrack 2>/dev/null || :\n", p.title())
	for _, it := range p.Items {
		fmt.Fprintf(w, "\n# %s\n%s\n", oneLine(it.Why), shellSet(it.Key, it.To))
	}
	fmt.Fprintln(w, "\n# To go back (never lower max below what is in the table; see nf_conntrack_count):")
	for i := len(p.Items) - 1; i >= 0; i-- {
		if it := p.Items[i]; it.From != "" {
			fmt.Fprintf(w, "# %s\n", shellSet(it.Key, it.From))
		}
	}
}

func shellSet(key, value string) string {
	if key == KeyHashsize {
		return "echo " + value + " >" + KeyHashsize
	}
	return "sysctl -w " + key + "=" + value
}

// ansible writes tasks that need no collection beyond ansible.builtin. The
// files are those that confirm writes.
func (p *Plan) ansible(w *bufio.Writer) {
	fmt.Fprintf(w, "# Tasks of ctwarden plan %s: include them in a play.\n", p.title())
	ansibleFile(w, "Load nf_conntrack before sysctl.d is applied at boot", ModulesLoadPath, modulesLoadText)
	fmt.Fprint(w, `
- name: Load nf_conntrack now
  ansible.builtin.command: modprobe nf_conntrack
  changed_when: false
  failed_when: false # part of the kernel itself on some
`)
	for _, it := range p.Items {
		if it.Key != KeyHashsize {
			continue
		}
		ansibleFile(w, "Size of the hash table at every boot", ModprobePath, "options nf_conntrack hashsize="+it.To+"\n")
		fmt.Fprintf(w, "\n- name: Size of the hash table now\n  ansible.builtin.shell: echo %s >%s\n  changed_when: false\n", it.To, KeyHashsize)
	}
	var b strings.Builder
	for _, it := range p.Items {
		if it.Key != KeyHashsize {
			fmt.Fprintf(&b, "# %s\n%s = %s\n", oneLine(it.Why), it.Key, it.To)
		}
	}
	if b.Len() == 0 {
		return
	}
	ansibleFile(w, "Settings of connection tracking at every boot", SysctlPath, b.String())
	fmt.Fprintf(w, `  register: ctwarden_settings

- name: Settings of connection tracking now
  ansible.builtin.command: sysctl -p %s
  when: ctwarden_settings is changed
`, SysctlPath)
}

// ansibleFile writes a task that makes a file. Nothing in it is a template.
func ansibleFile(w *bufio.Writer, name, path, content string) {
	fmt.Fprintf(w, "\n- name: %s\n  ansible.builtin.copy:\n    dest: %s\n    mode: \"0644\"\n    content: |\n", name, path)
	for line := range strings.Lines(strings.NewReplacer("{{", "{ {", "{%", "{ %", "{#", "{ #").Replace(content)) {
		fmt.Fprintf(w, "      %s\n", strings.TrimRight(line, "\n"))
	}
}
