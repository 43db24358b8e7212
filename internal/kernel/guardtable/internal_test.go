package guardtable

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/lab"
)

func connect(t *testing.T, h *lab.Host) *socket {
	t.Helper()
	var s *socket
	if err := netns.Do(h.Path(), func() (err error) { s, err = dial(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// TestRefusalNamesThePart sends a transaction whose middle the kernel refuses.
func TestRefusalNamesThePart(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "refusal")
	s := connect(t, h)
	for _, try := range []bool{false, true} {
		p := parts{&batch{}, "half"}
		p.newTable(0)
		p.newChain("there", nil)
		p.newRule("elsewhere", rule(nil).accept(), "nothing")
		p.newChain("after", nil)
		var r *RefusedError
		err := s.commit(p.batch, try)
		if !errors.As(err, &r) || r.What != "the rule of chain elsewhere for nothing" || !errors.Is(err, unix.ENOENT) {
			t.Errorf("try %v: %v", try, err)
		}
		if out := h.Exec("nft", "list", "ruleset"); out != "" {
			t.Errorf("try %v: half of it stayed:\n%s", try, out)
		}
	}
	p := parts{&batch{}, "tried"}
	p.newTable(0)
	if err := s.commit(p.batch, true); err != nil {
		t.Errorf("try: %v", err)
	}
	if out := h.Exec("nft", "list", "ruleset"); out != "" {
		t.Errorf("trying left\n%s", out)
	}
	// In words, where the kernel has any.
	p = parts{&batch{}, "words"}
	p.newTable(0)
	p.add(unix.NFT_MSG_NEWCHAIN, create, attrs(nil).text(unix.NFTA_CHAIN_TABLE, "words"), "a chain without a name")
	if err := s.commit(p.batch, false); err == nil || !strings.Contains(err.Error(), "refused a chain without a name") {
		t.Errorf("%v", err)
	}
}

// TestAnswerLost changes the table after it has become unknown what it holds.
func TestAnswerLost(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "lost")
	g, err := Open(h.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	var set ct.Timeouts
	set.Set(ct.TimeoutUDP, 17)
	l := guard.Limit{Seconds: 60, Sources: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")}}
	if err := errors.Join(g.SetTimeouts(set), g.Limit(l)); err != nil {
		t.Fatal(err)
	}
	for _, done := range []bool{true, false} {
		// As if the kernel had done it, or had not, and the answer was lost.
		g.unsure = true
		if done {
			p := parts{&batch{}, Name}
			want := g.want
			want.limit = nil
			g.now.plan(p, want)
			if err := g.sock.commit(p.batch, false); err != nil {
				t.Fatal(err)
			}
		}
		l.Sources[0] = netip.MustParsePrefix("10.1.2.4/32")
		if err := g.Limit(l); err != nil {
			t.Fatal(err)
		}
		out := h.Exec("nft", "list", "ruleset")
		if !strings.Contains(out, "unreplied : 17") || !strings.Contains(out, "{ 10.1.2.4 ") || strings.Contains(out, "10.1.2.3") {
			t.Errorf("done %v:\n%s", done, out)
		}
		if err := g.Intact(); err != nil {
			t.Errorf("done %v: %v", done, err)
		}
	}
}

// TestNoRoomForTheAnswer leaves the socket room for hardly one answer, while
// the kernel has many to give.
func TestNoRoomForTheAnswer(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "room")
	s := connect(t, h)
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		p := parts{&batch{}, "room"}
		for range 30 {
			p.newChain("none", nil)
		}
		if err := s.commit(p.batch, false); !errors.Is(err, unix.ENOENT) && !errors.Is(err, errLost) {
			t.Fatalf("%v", err)
		}
	}
	p := parts{&batch{}, "room"}
	p.newTable(0)
	if err := s.commit(p.batch, false); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestWithoutRights(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "rights")
	s := connect(t, h)
	p := parts{&batch{}, Name}
	p.newTable(0)
	// What nfnetlink answers to a socket without CAP_NET_ADMIN.
	err := explain(&RefusedError{wholeBatch, unix.EPERM, ""})
	if !errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrTaken) {
		t.Errorf("%v", err)
	}
	if err := explain(s.commit(p.batch, true)); err != nil {
		t.Errorf("%v", err)
	}
}

func TestMark(t *testing.T) {
	if err := ended(mark()); !errors.Is(err, ErrTaken) {
		t.Errorf("my own mark: %v", err)
	}
	ns, err := pidNamespace()
	if err != nil {
		t.Fatal(err)
	}
	for name, taken := range map[string]bool{
		"owner_":    true,
		"owner_x":   true,
		"owner_1_1": true,
		fmt.Sprintf("owner_%d_%d_%d", ns+1, os.Getpid(), 1):  true,  // of a container
		fmt.Sprintf("owner_%d_%d_%d", ns, os.Getpid(), 1):    false, // the number is used again
		fmt.Sprintf("owner_%d_%d_%d", ns, 2147483647, 12345): false,
		fmt.Sprintf("owner_%d_%d_%d", ns, -1, 12345):         true,
	} {
		if err := ended(name); errors.Is(err, ErrTaken) != taken || !taken && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzAnswers gives the readers of the kernel's answers anything.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		"2400000002000001030000000000000000000000" + "2400000000000a000300000000000000",
		"3c00000002000003030000000000000" + "0" + "feffffff" + "140000000f0a0500030000000000000014000100" + "6e6f20737563680000",
		"140000000300020001000000000000000000000",
	} {
		b, _ := hex.DecodeString(s[:len(s)&^1])
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := messages(b, func(m message) {
			if words, err := m.verdict(); err == nil && words != "" && m.flags&unix.NLM_F_ACK_TLVS == 0 {
				t.Errorf("words %q from nowhere", words)
			}
			a := m.attrs()
			a.number(tableHandle)
			_ = a.string(unix.NFTA_CHAIN_NAME)
			counterPackets(a)
			for range a.all {
			}
		})
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
	})
}

// TestWrongCount has the trial take for wrong what a kernel that counts right
// does: it lets up to 64 flows that have ended stand in a clock tick.
func TestWrongCount(t *testing.T) {
	lab.Require(t)
	h := lab.NewHost(t, "wrong")
	g, err := Open(h.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if !g.Counts() {
		t.Skip("this kernel does not count right")
	}
	before := h.Exec("nft", "list", "ruleset")
	if got := g.tryCount(10); got != no {
		t.Errorf("at most 10: answer %d", got)
	}
	if got := g.tryCount(trialLimit); got != yes {
		t.Errorf("at most %d: answer %d", trialLimit, got)
	}
	if after := h.Exec("nft", "list", "ruleset"); after != before {
		t.Errorf("the trial left\n%s", after)
	}
}

// FuzzMark gives the reader of marks names of chains that anybody may have
// given.
func FuzzMark(f *testing.F) {
	f.Add(mark())
	f.Add("owner_1_2_3")
	f.Add("owner_4026531836_99999999999999999999_-1")
	f.Fuzz(func(t *testing.T, name string) {
		if err := ended(name); err == nil && !strings.HasPrefix(name, markPrefix) {
			t.Errorf("%q passed for a mark", name)
		}
	})
}
