package guardd

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/guard"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestProbationSparesTheLiving: through a masquerading gateway, connections in
// use, among them those whose entries look days old to a naive eye, live
// through a probation of everything that has been silent; what is silent goes,
// and where losing it would break something it stays unless that is asked for.
func TestProbationSparesTheLiving(t *testing.T) {
	lab.Require(t, "conntrack")
	lab.SharedLimits(t) // before there is traffic, which would go on while it waits
	g := lab.Gateway(t)
	const bulk, chat, lossy, stalled = 9001, 9002, 9003, 9004
	g.Outside.ServeTCP(bulk, lab.Discard)
	g.Outside.ServeTCP(chat, lab.Echo)
	g.Outside.ServeTCP(lossy, lab.Discard)
	open, received := make(chan struct{}), make(chan int64, 1)
	g.Outside.ServeTCP(stalled, func(c net.Conn) {
		<-open // until then the window fills and closes
		n, _ := io.Copy(io.Discard, c)
		received <- n
	})
	connect := func(port uint16, n int) []net.Conn {
		conns, err := g.Inside.Connect(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), port), g.Inside.Sources4, n)
		if err != nil {
			t.Fatal(err)
		}
		return conns
	}
	bulkConns, chatConns, lossyConns, stalledConn := connect(bulk, 3), connect(chat, 5), connect(lossy, 2), connect(stalled, 1)[0]
	g.Gateway.Throttle(100)
	g.Outside.Lose(20, lossy)
	upload := lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Upload(ctx, bulkConns) })
	losing := lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Upload(ctx, lossyConns) })
	talk := lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Chat(ctx, chatConns, 300*time.Millisecond) })
	written := make(chan int64, 1)
	go func() {
		n, _ := stalledConn.Write(make([]byte, 8<<20))
		_ = stalledConn.Close()
		written <- int64(n)
	}()
	g.Gateway.Fill(
		lab.Class{Count: 400, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, TimeoutSeconds: 100_000,
			Sources: netip.MustParsePrefix("10.77.0.0/16"), Targets: netip.MustParsePrefix("198.18.5.0/24"), SNAT: netip.MustParseAddr("203.0.113.254")},
		lab.Class{Count: 300, State: ct.TCPSynSent, TimeoutSeconds: 40, Sources: netip.MustParsePrefix("10.78.0.0/16"), Targets: netip.MustParsePrefix("198.18.6.0/24")},
	)
	time.Sleep(3 * time.Second)
	b := &bed{t: t, state: t.TempDir() + "/state", run: t.TempDir() + "/run"}
	thin := func(fragile bool) guard.Action {
		return guard.Action{Kind: guard.KindThin, Why: "of the test", Thin: &guard.Thin{Classes: guard.Silent | guard.HalfOpen,
			MinIdle: 30 * time.Second, Seconds: 2, Limit: 10_000, Fragile: fragile}}
	}
	c := begin(t, script{Netns: g.Gateway.Name, State: b.state, Run: b.run, Enforce: true, Actions: []guard.Action{thin(false), thin(true)}})
	c.wants("script over")
	r := c.results()
	if len(r) != 2 || r[0].err != "" || r[0].Changed != 300 || r[0].Survived != 0 {
		t.Errorf("without fragile ones: %+v", r)
	}
	if len(r) == 2 && (r[1].err != "" || r[1].Changed != 400 || r[1].Survived != 0) {
		t.Errorf("with fragile ones: %+v", r[1])
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
	close(open)
	up, lost, said := upload.Stop(), losing.Stop(), talk.Stop()
	if up.Broken+lost.Broken+said.Broken > 0 || up.Bytes == 0 || said.Messages < 20 {
		t.Errorf("bulk %+v, lossy %+v, interactive %+v", up, lost, said)
	}
	select {
	case n := <-received:
		if w := <-written; n != w {
			t.Errorf("the stalled connection delivered %d of %d bytes", n, w)
		}
	case <-time.After(30 * time.Second):
		t.Error("the stalled connection did not come back to life")
	}
}

// TestPoliciesOfOthersForbidProbation: where rules of somebody else give
// entries timeouts, no idle time is known, and our own table is no such rule.
func TestPoliciesOfOthersForbidProbation(t *testing.T) {
	b := newBed(t, "conntrack")
	thin := guard.Action{Kind: guard.KindThin, Why: "of the test", Thin: &guard.Thin{Classes: guard.Silent, MinIdle: 30 * time.Second, Seconds: 1, Limit: 10}}
	fill := func() {
		b.pair.Server.Fill(lab.Class{Count: 10, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, TimeoutSeconds: 400_000})
	}
	fill()
	s := b.script(guard.Action{Kind: guard.KindTimeouts, Why: "of the test", Timeouts: &guard.Timeouts{}}, thin)
	s.Timeouts = map[string]int32{"udp_timeout": 15}
	c := begin(t, s)
	c.wants("script over")
	if r := c.results(); len(r) != 2 || r[1].Changed != 10 {
		t.Errorf("with our own table: %+v", r)
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
	b.pair.Server.Exec("conntrack", "-F")
	fill()
	b.pair.Server.NFT(`table inet theirs {
		ct timeout slow {
			protocol tcp;
			l3proto ip;
			policy = { established : 3600 };
		}
		chain c {
			type filter hook prerouting priority 0;
			ct timeout set "slow";
		}
	}`)
	s.Actions = []guard.Action{thin}
	c = begin(t, s)
	c.wants("script over")
	if r := c.results(); len(r) != 1 || !strings.Contains(r[0].err, "idle times cannot be told") || r[0].Changed != 0 {
		t.Errorf("with the rules of others: %+v", r)
	}
	if n := b.pair.Server.Count(); n < 10 {
		t.Errorf("%d entries are left", n)
	}
}

// TestEndedConnectionsGoAtOnce: what both sides have ended has a second left,
// whatever its age, and nothing else has.
func TestEndedConnectionsGoAtOnce(t *testing.T) {
	b := newBed(t, "conntrack")
	seen := ct.StatusSeenReply | ct.StatusAssured
	at := func(n byte) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, n}), 32) }
	class := func(n int, target byte, s ct.State) lab.Class {
		return lab.Class{Count: n, Targets: at(target), State: s, Status: seen}
	}
	translated := class(7, 2, ct.TCPTimeWait)
	translated.SNAT = netip.MustParseAddr("192.0.2.1")
	marked := class(3, 3, ct.TCPTimeWait)
	marked.Mark = 5
	b.pair.Server.Fill(class(100, 1, ct.TCPTimeWait), translated, marked, class(50, 4, ct.TCPEstablished),
		class(5, 5, ct.TCPCloseWait), class(5, 6, ct.TCPFinWait))
	c := begin(t, b.script(guard.Action{Kind: guard.KindThin, Why: "a test", Thin: &guard.Thin{Over: true, Seconds: 1, Limit: 1000}}))
	c.wants("1 s for at most 1000 entries of connections that both sides have ended, because a test: 100 chosen, 100 given the second")
	time.Sleep(1500 * time.Millisecond)
	for target, want := range map[byte]int{1: 0, 2: 7, 3: 3, 4: 50, 5: 5, 6: 5} {
		if n := len(b.pair.Server.ConntrackList("-d", at(target).Addr().String())); n != want {
			t.Errorf("%s: %d entries, want %d", at(target), n, want)
		}
	}
	if err := c.term(); err != nil {
		t.Error(err)
	}
}
