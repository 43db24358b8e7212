package flowdiff

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

func flow(src byte, id uint32, state ct.State) *ct.Flow {
	f := &ct.Flow{Orig: ct.Tuple{Src: netip.AddrFrom4([4]byte{10, 0, 0, src}), Dst: netip.MustParseAddr("192.0.2.1"), Proto: ct.TCP, SrcPort: 1, DstPort: 2},
		ID: id, State: state, Fields: ct.HasID | ct.HasProtoInfo}
	f.Reply, _ = f.Orig.Invert()
	return f
}

// read shows a reading and returns its changes in words.
func read(d *Diff, flows ...*ct.Flow) string {
	names := map[Change]string{New: "new", Updated: "updated"}
	var out []string
	d.Begin()
	for _, f := range flows {
		if c := d.See(f); c != None {
			out = append(out, fmt.Sprintf("%s %s", names[c], f.Orig.Src))
		}
	}
	d.End(func(f *ct.Flow) error {
		out = append(out, fmt.Sprintf("gone %s", f.Orig.Src))
		return nil
	})
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func TestDiff(t *testing.T) {
	d := new(Diff)
	steps := []struct {
		flows []*ct.Flow
		want  string
	}{
		{[]*ct.Flow{flow(1, 1, 1), flow(2, 2, 1)}, ""},
		{[]*ct.Flow{flow(1, 1, 1), flow(2, 2, 1)}, ""},
		{[]*ct.Flow{flow(1, 1, 3), flow(3, 3, 1)}, "gone 10.0.0.2, new 10.0.0.3, updated 10.0.0.1"},
		// The same tuple under a new id is another entry; the same id may be two.
		{[]*ct.Flow{flow(1, 9, 3), flow(3, 3, 1), flow(4, 3, 1)}, "gone 10.0.0.1, new 10.0.0.1, new 10.0.0.4"},
		{nil, "gone 10.0.0.1, gone 10.0.0.3, gone 10.0.0.4"},
		{nil, ""},
	}
	for i, s := range steps {
		if got := read(d, s.flows...); got != s.want {
			t.Errorf("reading %d: %s\nwant %s", i, got, s.want)
		}
	}
}
