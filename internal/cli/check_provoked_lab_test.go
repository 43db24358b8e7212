package cli

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// provoked are findings that one setting or one mix of entries brings about on
// the running kernel. Before it the same machine must not raise them.
var provoked = []struct {
	code    string
	provoke func(*testing.T, *lab.Pair)
}{
	{"established-below-keepalive", setTo("net.netfilter.nf_conntrack_tcp_timeout_established", "600")},
	{"max-retrans-zero", setTo("net.netfilter.nf_conntrack_tcp_max_retrans", "0")},
	{"log-invalid-on", setTo("net.netfilter.nf_conntrack_log_invalid", "255")},
	{"timeout-invalid", setTo("net.netfilter.nf_conntrack_udp_timeout", "0")},
	{"flood-icmp", filled(lab.Class{Count: 70000, Proto: ct.ICMP, Status: ct.StatusSeenReply})},
	{"flood-udp", filled(lab.Class{Count: 70000, Proto: ct.UDP})},
	{"short-connection-churn", filled(lab.Class{Count: 70000, State: ct.TCPTimeWait, Status: ct.StatusSeenReply | ct.StatusAssured})},
	{"port-exhaustion", func(_ *testing.T, p *lab.Pair) {
		p.Server.NFT("table ip nat {\n chain out {\n type nat hook postrouting priority srcnat;\n masquerade\n }\n}\n")
		p.Server.Fill(lab.Class{Count: 60000, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured,
			Sources: netip.MustParsePrefix("10.1.0.9/32"), Targets: netip.MustParsePrefix("198.51.100.9/32"), SNAT: p.Server.Addr4})
	}},
	{"half-closed-mass", filled(lab.Class{Count: 70000, State: ct.TCPCloseWait, Status: ct.StatusSeenReply | ct.StatusAssured})},
	{"one-destination", filled(lab.Class{Count: 70000, Proto: ct.UDP, Status: ct.StatusSeenReply, Port: 8125,
		Targets: netip.MustParsePrefix("198.51.100.9/32")})},
	{"expired-linger", func(_ *testing.T, p *lab.Pair) {
		p.Server.Fill(lab.Class{Count: 5000, Proto: ct.UDP, TimeoutSeconds: 1})
		time.Sleep(1500 * time.Millisecond) // a quick check would find them alive
	}},
	{"notrack-candidate", func(_ *testing.T, p *lab.Pair) {
		p.Server.Fill(lab.Class{Count: 500, Proto: ct.UDP, Status: ct.StatusSeenReply, Port: 53, Targets: netip.PrefixFrom(p.Server.Addr4, 32)})
	}},
	{"entries-pinned", pin},
	{"insert-race", race},
	{"syn-backlog-overflow", overflow},
}

func setTo(key, value string) func(*testing.T, *lab.Pair) {
	return func(_ *testing.T, p *lab.Pair) { p.Server.SetSysctl(key, value) }
}

func filled(classes ...lab.Class) func(*testing.T, *lab.Pair) {
	return func(_ *testing.T, p *lab.Pair) { p.Server.Fill(classes...) }
}

// pin holds dead entries: a listener that asks for reliable events and reads
// none.
func pin(t *testing.T, p *lab.Pair) {
	t.Helper()
	var fd int
	err := p.Server.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_BROADCAST_ERROR, 1); err != nil {
			return err
		}
		const destroyGroup = 1 << 2 // NFNLGRP_CONNTRACK_DESTROY
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: destroyGroup})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	p.Server.Fill(lab.Class{Count: 3000, Proto: ct.UDP})
	if _, err := p.Server.TryExec("conntrack", "-D", "-p", "udp"); err != nil {
		t.Logf("conntrack -D: %v", err) // it fails where the event is not delivered
	}
}

// race has connections begin with two SYNs under way at once: the first is held
// before it is confirmed until TCP has sent it again, and each is sent to a port
// of its own, so that the second to be confirmed cannot be merged. The second ones
// go on one after the other, during the check.
func race(t *testing.T, p *lab.Pair) {
	t.Helper()
	const pairs = 300
	p.Server.NFT("table ip raced {\n chain pre {\n type nat hook prerouting priority dstnat\n" +
		" tcp dport 5353 dnat to " + p.Server.Addr4.String() + ":8000-8999 fully-random\n }\n" +
		// A reset would end the entry of the first.
		" chain out {\n type filter hook output priority -300\n tcp flags rst drop\n }\n}\n")
	if err := p.Server.TryNFT("table ip held {\n chain in {\n type filter hook input priority -150\n tcp dport 8000-8999 queue num 0\n }\n}\n"); err != nil {
		p.Server.Exec("iptables-legacy", "-t", "mangle", "-A", "INPUT", "-p", "tcp", "--dport", "8000:8999", "-j", "NFQUEUE", "--queue-num", "0")
	}
	q, err := lab.OpenQueue(p.Server)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait(); q.Close() })
	for range pairs {
		wg.Go(func() {
			_ = p.Client.Do(func() error {
				c, err := new(net.Dialer).DialContext(ctx, "tcp4", netip.AddrPortFrom(p.Server.Addr4, 5353).String())
				if err == nil {
					c.Close()
				}
				return nil
			})
		})
	}
	ids, err := q.Wait(2 * pairs)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		for n, id := range ids {
			if ctx.Err() != nil || q.Accept(id) != nil {
				return
			}
			if n >= pairs {
				time.Sleep(20 * time.Millisecond)
			}
		}
	})
}

// overflow connects to a listener that accepts nobody, during the check.
func overflow(t *testing.T, p *lab.Pair) {
	t.Helper()
	p.Server.SetSysctl("net.core.somaxconn", "1")
	var l net.Listener
	err := p.Server.Do(func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(p.Server.Addr4, 8080).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for ctx.Err() == nil {
				_ = p.Client.Do(func() error {
					c, err := (&net.Dialer{Timeout: 300 * time.Millisecond}).DialContext(ctx, "tcp4", l.Addr().String())
					if err == nil {
						defer c.Close()
						time.Sleep(50 * time.Millisecond)
					}
					return nil
				})
			}
		}()
	}
}

func TestCheckRaisesWhatIsProvoked(t *testing.T) {
	lab.Require(t, "ip", "nft", "conntrack")
	lab.SharedLimits(t)
	for _, c := range provoked {
		t.Run(c.code, func(t *testing.T) {
			if c.code == "insert-race" && !kernelVersion(t).AtLeast(6, 12) {
				t.Skip("earlier kernels (6.1) give a packet that comes out of a queue the entry that was confirmed meanwhile")
			}
			p := lab.Server(t)
			args := []string{"--netns", p.Server.Path(), "--observe", "1s"}
			// What the log remembers of other tests has no figures.
			if f := runCheck(t, args...).finding(c.code); f != nil && f.Figures != nil {
				t.Fatalf("raised before it was provoked: %s", f.Title)
			}
			c.provoke(t, p)
			a := runCheck(t, args...)
			if f := a.finding(c.code); f == nil || f.Figures == nil && c.code == "syn-backlog-overflow" {
				t.Errorf("not raised; found %q", a.codes())
			}
		})
	}
}

// The host has room and a container's table has not.
func TestCheckFindsAnotherNamespaceFull(t *testing.T) {
	lab.Require(t, "ip", "nft")
	lab.SharedLimits(t)
	h := lab.NewHost(t, "container")
	h.Track()
	h.Start(exec.Command("sleep", "60"))
	h.Fill(lab.Class{Count: 150000, Proto: ct.UDP})
	args := []string{"--netns", "all", "--observe", "0"}
	named := func(a *answer) bool {
		for _, f := range a.Findings {
			if f.Code == "other-namespace-full" && f.Figures["count"].(float64) >= 150000 {
				return true
			}
		}
		return false
	}
	if named(runCheck(t, args...)) {
		t.Error("a namespace at 57 % is called full")
	}
	h.Fill(lab.Class{Count: 70000, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured, Sources: netip.MustParsePrefix("10.4.0.0/15")})
	if !named(runCheck(t, args...)) {
		t.Error("a namespace at 84 % is not named")
	}
}

// Limits that do not fit each other or what is in use.
func TestCheckJudgesLimits(t *testing.T) {
	lab.Require(t, "ip", "nft")
	limits := lab.ExclusiveLimits(t)
	h := lab.NewHost(t, "server")
	h.Track()
	args := []string{"--netns", h.Path(), "--observe", "0"}
	for _, c := range []struct {
		maxEntries int
		raised     bool
	}{{65536, false}, {5000, true}} {
		limits.SetMax(c.maxEntries)
		a := runCheck(t, args...)
		if got := a.finding("buckets-too-many") != nil; got != c.raised {
			t.Errorf("max %d, %d buckets: raised %v", c.maxEntries, limits.Buckets(), got)
		}
	}
}
