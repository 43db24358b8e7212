package advice

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const head = `# The advice on trial

The commands that people paste when the table is full, run as they are found,
beside what ` + "`ctwarden plan`" + ` does on the same machine under the same load.

Made by ` + "`make advice`" + ` (as root, on a machine with nothing else to do, for it
takes long), in guests with virtual time under Debian's kernel 6.1. The machine is
a small one: limits and loads are a %dth of the usual, in brackets what that
stands for; times are whole.
A scene runs for %s, then somebody answers it; %s later comes the second
step, if there is one; then new legitimate exchanges are counted for %s while the
load goes on. Before it begins, %d connections that stay silent and %d that speak
every five seconds are opened; at the end each is tried, half of them from the
server's side.

## The ways

**stock**: nobody does anything. max and buckets are %d (262,144).

**pasted**, with max and buckets divided by %d:

%s

**pasted, then "reverted"**: one page's own trial, whose second step sets the
values that it takes to be the old ones. close_wait was 60, not 120.

%s

**plan**: what ` + "`ctwarden apply --keep-idle 24h`" + ` does, seeing the load as it is.
**plan, then reverted**: ` + "`ctwarden revert`" + ` after it.

## The figures

Service is the share of new exchanges that succeeded end to end. Memory is that of
the entries at the peak, and of a full table, at what the slabs of entries and
extensions grew by for each entry under the first way, in a fresh guest. Refused
are packets that the full table dropped after the answer.

A guest's clock follows its host's: on a busy host a generator falls behind its
rate, and a client, which waits a quarter of a second, may give up. The entries at
the peak show what arrived; service below 100 %% with nothing refused is impatience.
`

const tail = `
## Reading them

- The size of the machine is divided, the clock is not: a limit of %d is to 150
  SYNs a second what 262,144 is to 9,600.
- Where most entries are disposable the kernel's early drop makes room by itself,
  and the message in the log costs nobody anything. Where they are assured, no
  timeout reaches those that exist: only room does.
- A shorter established timeout costs nothing that is seen at once. On the quiet day
  every second connection is lost to it, those on which the server spoke first: the
  gateway no longer knew whose they were.
- A limit that is lowered under a table that has outgrown it refuses everybody at
  once. ` + "`ctwarden revert`" + ` holds it until the table has drained.
- More room only buys time against hosts that complete their handshakes: see
  how long in the plan's own table of floods. What ends that is to take entries from
  those who hold them (` + "`ctwarden evict`" + `), not a number.
- Not here: gateways whose conntrack extensions cost more (accounting, timestamps),
  kernels 5.15 to 6.0, where long chains refuse flows of themselves, and growth by real
  clients, which to the table is like idle handshakes.
`

// Page renders outcomes as the document about them.
func Page(list []Outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, head, Scale, span(Whole.Fill), span(Whole.Later), span(Whole.Measure), heldConnections, heldConnections,
		stockMax/Scale, Scale, code(pasted), code(tried+"\n# after the trial\n"+reverted))
	var missing []string
	for _, s := range Scenes() {
		table := s.table(list)
		b.WriteString(table)
		if table == "" {
			missing = append(missing, s.Name)
		}
	}
	if len(missing) > 0 {
		fmt.Fprintf(&b, "\nNot run for this page: %s.\n", strings.Join(missing, ", "))
	}
	fmt.Fprintf(&b, tail, stockMax/Scale)
	return b.String()
}

func code(text string) string { return "```\n" + text + "\n```" }

func span(d time.Duration) string { return fmt.Sprintf("%.0f s", d.Seconds()) }

// table is one scene's; "" if it was not run.
func (s *Scene) table(list []Outcome) string {
	rows := slices.DeleteFunc(slices.Clone(list), func(o Outcome) bool { return o.Scene != s.Name })
	if len(rows) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n### %s\n\n%s.\n\n", capital(s.Name), capital(s.What))
	b.WriteString("| way | service | refused | entries at the peak | memory then | when full | idle broken | active broken |\n")
	b.WriteString("|---|---:|---:|---:|---:|---:|---:|---:|\n")
	price := rows[0].EntryBytes
	for _, o := range rows {
		b.WriteString(o.row(price))
	}
	b.WriteString("\n")
	for _, o := range rows {
		if strings.HasPrefix(o.Column, "plan") && len(o.Did) > 0 {
			fmt.Fprintf(&b, "%s set %s.\n\n", o.Column, strings.Join(o.Did, ", "))
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// row prices entries at so many bytes each; 0 is unknown.
func (o *Outcome) row(price int64) string {
	service, then, full := "–", "–", "–"
	if o.Asked > 0 {
		service = fmt.Sprintf("%.1f %% of %d", 100*float64(o.Answered)/float64(o.Asked), o.Asked)
	}
	if price > 0 {
		then, full = mib(int64(o.Peak)*price), mib(int64(o.Max)*price)
	}
	return fmt.Sprintf("| %s | %s | %d | %d of %d | %s | %s | %d of %d | %d of %d |\n", o.Column, service, o.Refused, o.Peak, o.Max,
		then, full, o.IdleBroken, o.Idle, o.ActiveBroken, o.Active)
}

func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
