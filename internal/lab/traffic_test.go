package lab

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestLongTransfersMove(t *testing.T) {
	Require(t, "conntrack")
	p := Server(t)
	throttled := p.Server.Throttle(100)
	p.Server.ServeTCP(80, Flow)
	p.Server.ServeTCP(81, Discard)
	p.Server.ServeTCP(82, Flow)
	p.Server.ServeTCP(83, Echo)
	connect := func(port uint16, n int, options ...SocketOption) []net.Conn {
		conns, err := p.Client.Connect(t.Context(), netip.AddrPortFrom(p.Server.Addr4, port), p.Client.Sources4, n, options...)
		if err != nil {
			t.Fatal(err)
		}
		return conns
	}
	down := Go(t, func(ctx context.Context) (Moved, error) { return Drain(ctx, connect(80, 2)) })
	up := Go(t, func(ctx context.Context) (Moved, error) { return Upload(ctx, connect(81, 2)) })
	connect(82, 2, SmallWindow) // never read: the window closes
	talk := Go(t, func(ctx context.Context) (Moved, error) { return Chat(ctx, connect(83, 5), 50*time.Millisecond) })
	time.Sleep(time.Second)
	// An unanswered probe of a closed window restores the state's own timeout
	// until the next answer, so a single look may miss it.
	unacknowledged, closed := 0, 0
	for range 20 {
		for _, left := range secondsLeft(t, p.Server.ConntrackList("-p", "tcp", "--dport", "82")) {
			if left <= 300 {
				closed++
			}
		}
		for _, left := range secondsLeft(t, p.Server.ConntrackList("-p", "tcp", "--dport", "80")) {
			if left <= 300 {
				unacknowledged++
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	d, u, c := down.Stop(), up.Stop(), talk.Stop()
	if d.Bytes < 1<<20 || u.Bytes < 1<<20 || c.Messages < 20 || d.Broken+u.Broken+c.Broken > 0 {
		t.Errorf("downloads %+v, uploads %+v, talks %+v", d, u, c)
	}
	if throttled && unacknowledged < 10 {
		t.Errorf("a throttled download showed at most 300 s in %d of 40 looks", unacknowledged)
	}
	if closed == 0 {
		t.Error("no flow with a closed window ever showed 300 s or less")
	}
}

// secondsLeft reads the third column of conntrack -L.
func secondsLeft(t *testing.T, list []string) []int {
	t.Helper()
	var all []int
	for _, line := range list {
		n, err := strconv.Atoi(strings.Fields(line)[2])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

func TestLossyTransferStillMoves(t *testing.T) {
	Require(t)
	p := Server(t)
	p.Client.Lose(10, 80)
	p.Server.ServeTCP(80, Flow)
	conns, err := p.Client.Connect(t.Context(), netip.AddrPortFrom(p.Server.Addr4, 80), p.Client.Sources4, 3)
	if err != nil {
		t.Fatal(err)
	}
	down := Go(t, func(ctx context.Context) (Moved, error) { return Drain(ctx, conns) })
	time.Sleep(1500 * time.Millisecond)
	if m := down.Stop(); m.Bytes == 0 {
		t.Errorf("nothing came through: %+v", m)
	}
	if out := p.Server.Exec("nstat", "-asz", "TcpRetransSegs"); !strings.Contains(out, "TcpRetransSegs") || strings.Contains(out, "TcpRetransSegs                  0 ") {
		t.Errorf("nothing was sent again:\n%s", out)
	}
}

func TestNginxAndWrk(t *testing.T) {
	Require(t, "nginx", "wrk", "ss")
	p := Server(t)
	p.Server.Nginx(80, true)
	got, err := p.Client.Wrk(netip.AddrPortFrom(p.Server.Addr4, 80), 10, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got.Requests < 10 || got.Errors > 0 {
		t.Errorf("%+v", got)
	}
	if n := p.Server.Count(); n < 10 || n > 30 {
		t.Errorf("%d entries for 10 kept connections", n)
	}
}

func TestParseWrk(t *testing.T) {
	out := "Running 1s test\n  Latency Distribution\n     50%  636.00us\n     99%    1.06ms\n  Socket errors: connect 1, read 2, write 3, timeout 4\n  815 requests in 2.00s, 12.44MB read\n"
	if got, err := parseWrk(out); err != nil || got != (Web{Requests: 815, Errors: 10, Timeouts: 4, P50: 636 * time.Microsecond, P99: 1060 * time.Microsecond}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "x requests in 1s", "Socket errors: connect", "50% fast"} {
		if got, err := parseWrk(bad); err == nil {
			t.Errorf("parseWrk(%q) = %+v", bad, got)
		}
	}
}
