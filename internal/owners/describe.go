package owners

import (
	"fmt"
	"strings"
)

// Describe prints the report for a person, a setting a paragraph. Settings
// that nobody sets are left out.
func (r *Report) Describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "keys exist when sysctl runs: %s: %s\n", yesNo[r.KeysAtSysctl+1], r.KeysWhy)
	for _, s := range r.Settings {
		if len(s.Assignments) == 0 {
			continue
		}
		boot := s.AtBoot
		if boot == "" {
			boot = "the kernel's default"
		}
		fmt.Fprintf(&b, "%s: now %s, after the next boot %s\n", s.Key, orNone(s.Live), boot)
		for _, a := range s.Assignments {
			b.WriteString("  " + a.describe() + "\n")
		}
	}
	for _, a := range r.Actors {
		fmt.Fprintf(&b, "%s (%s): %s\n", a.Name, a.Seen, a.Does)
	}
	for _, u := range r.Unread {
		fmt.Fprintf(&b, "not readable: %s\n", u)
	}
	return b.String()
}

var yesNo = [3]string{"no", "unknown", "yes"}

func (a Assignment) describe() string {
	where := a.File
	if a.Line > 0 {
		where = fmt.Sprintf("%s:%d", a.File, a.Line)
	}
	value := a.Value
	if a.AtLeast {
		value = "at least " + value
	}
	s := fmt.Sprintf("%-10s %s = %s, %s, %s", a.Effect, a.Written, value, where, a.Stage)
	if a.Managed != "" {
		s += ", managed by " + a.Managed
	}
	if a.Why != "" {
		s += " (" + a.Why + ")"
	}
	return s
}

func orNone(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
