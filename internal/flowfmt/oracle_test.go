package flowfmt

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestAgainstConntrack compares with what conntrack(8) itself prints.
func TestAgainstConntrack(t *testing.T) {
	lab.Require(t, "conntrack")
	for _, acct := range []string{"0", "1"} {
		t.Run("acct="+acct, func(t *testing.T) {
			h := lab.NewHost(t, "fmt")
			h.SetSysctl("net.netfilter.nf_conntrack_acct", acct)
			h.SetSysctl("net.netfilter.nf_conntrack_timestamp", acct)
			h.Track()
			h.NFT(lab.EveryKindRules)
			conn, err := ctnl.Dial(ctnl.Options{Netns: h.Name})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			b := conn.NewBatch()
			b.Refused = func(e *ctnl.EntryError) { t.Errorf("not created: %v", e) }
			flows := lab.EveryKind()
			for i := range flows {
				if err := b.Create(&flows[i]); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Flush(); err != nil {
				t.Fatal(err)
			}
			compare(t, h, conn, len(flows)-b.Failed())
		})
	}
}

func compare(t *testing.T, h *lab.Host, conn *ctnl.Conn, want int) {
	before := time.Now()
	theirs := append(lines(h.Exec("conntrack", "-L", "-f", "ipv4", "-o", "extended")),
		lines(h.Exec("conntrack", "-L", "-f", "ipv6", "-o", "extended"))...)
	var ours []string
	c := &Context{NowNanos: time.Now().UnixNano()}
	_, err := conn.Dump(context.Background(), ctnl.Query{}, func(f *ct.Flow) error {
		ours = append(ours, strings.TrimSuffix(string(c.AppendConntrack(nil, f)), "\n"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(ours) != want || len(theirs) != want {
		t.Errorf("%d entries made, %d ours, %d theirs", want, len(ours), len(theirs))
	}
	most := 1 + int(time.Since(before)/time.Second) // they read first
	left := map[string]string{}
	for _, l := range theirs {
		left[stable(l)] = l
	}
	for _, l := range ours {
		their, ok := left[stable(l)]
		if !ok {
			t.Errorf("only ours:   %s", l)
		} else if d := seconds(l) - seconds(their); d > 0 || d < -most {
			t.Errorf("timeouts differ:\n%s\n%s", l, their)
		}
		delete(left, stable(l))
	}
	for _, l := range left {
		t.Errorf("only theirs: %s", l)
	}
}

func lines(s string) []string {
	return slices.DeleteFunc(strings.Split(s, "\n"), func(l string) bool { return l == "" })
}

var (
	timeoutField = regexp.MustCompile(`^(\S+ +\d+ \S+ +\d+ )(\d+)( )`)
	deltaField   = regexp.MustCompile(`delta-time=\d+`)
)

// stable is a line without what a second changes.
func stable(l string) string {
	return deltaField.ReplaceAllString(timeoutField.ReplaceAllString(l, "${1}T${3}"), "delta-time=N")
}

func seconds(l string) int {
	m := timeoutField.FindStringSubmatch(l)
	if m == nil {
		panic(fmt.Sprintf("no timeout in %q", l))
	}
	n, _ := strconv.Atoi(m[2])
	return n
}
