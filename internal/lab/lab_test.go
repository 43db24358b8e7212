package lab

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestServerTracksBothFamilies(t *testing.T) {
	Require(t)
	p := Server(t)
	for _, addr := range []netip.Addr{p.Server.Addr4, p.Server.Addr6} {
		exchange(t, p.Client, p.Server, addr, netip.Addr{})
	}
	if got := p.Server.Count(); got != 2 {
		t.Errorf("count = %d after two connections, want 2", got)
	}
	if got := p.Client.Count(); got != 0 {
		t.Errorf("the client tracks %d connections, want 0: nothing there asks for it", got)
	}
}

func TestEveryClientAddressIsUsable(t *testing.T) {
	Require(t)
	p := Server(t)
	for _, src := range []netip.Addr{Nth(p.Client.Sources4, 0x1234), Nth(p.Client.Sources6, 0xffff)} {
		addr := p.Server.Addr4
		if src.Is6() {
			addr = p.Server.Addr6
		}
		exchange(t, p.Client, p.Server, addr, src)
	}
}

func TestGatewayMasquerades(t *testing.T) {
	Require(t, "conntrack")
	r := Gateway(t)
	for _, c := range []struct{ dst, src netip.Addr }{
		{Nth(r.Outside.Sources4, 77), netip.MustParseAddr("10.0.3.7")},
		{Nth(r.Outside.Sources6, 77), Nth(r.Inside.Sources6, 7)},
	} {
		remote := exchange(t, r.Inside, r.Outside, c.dst, c.src)
		if remote == c.src {
			t.Errorf("the outside server saw the inside address %s", remote)
		}
	}
	list := r.Gateway.Exec("conntrack", "-L", "-p", "tcp")
	if !strings.Contains(list, "src=10.0.3.7 dst=198.18.0.77") {
		t.Errorf("the gateway does not show the inside client:\n%s", list)
	}
}

// exchange connects, sends a byte each way, closes, and returns the address
// that the server saw.
func exchange(t *testing.T, client, server *Host, addr, src netip.Addr) netip.Addr {
	t.Helper()
	var ln net.Listener
	err := server.Do(func() (err error) {
		ln, err = net.Listen("tcp", ":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			accepted <- c
		}
		close(accepted)
	}()
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	var conn net.Conn
	err = client.Do(func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second}
		if src.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
		}
		conn, err = d.Dial("tcp", netip.AddrPortFrom(addr, port).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer := <-accepted
	if peer == nil {
		t.Fatal("nothing was accepted")
	}
	defer peer.Close()
	return netip.MustParseAddrPort(peer.RemoteAddr().String()).Addr().Unmap()
}

func TestLimitsAreChangedAndRestored(t *testing.T) {
	Require(t)
	var before limitValues
	t.Run("change", func(t *testing.T) {
		l := ExclusiveLimits(t)
		before = l.read()
		l.SetMax(100_000)
		if got := l.SetBuckets(1000); got != 1024 {
			t.Errorf("buckets = %d after asking for 1000, want 1024", got)
		}
		if got := l.Max(); got != 100_000 {
			t.Errorf("max = %d, want 100000", got)
		}
	})
	t.Run("restored", func(t *testing.T) {
		SharedLimits(t)
		now, err := readLimits()
		if err != nil {
			t.Fatal(err)
		}
		if now != before {
			t.Errorf("limits are %+v, were %+v", now, before)
		}
	})
}

func TestNth(t *testing.T) {
	for _, c := range []struct {
		prefix string
		n      uint32
		want   string
	}{
		{"10.1.0.0/16", 0, "10.1.0.0"},
		{"10.1.0.0/16", 256, "10.1.1.0"},
		{"10.2.0.0/15", 0x1ffff, "10.3.255.255"},
		{"fd01::/64", 0x10001, "fd01::1:1"},
	} {
		if got := Nth(netip.MustParsePrefix(c.prefix), c.n).String(); got != c.want {
			t.Errorf("Nth(%s, %d) = %s, want %s", c.prefix, c.n, got, c.want)
		}
	}
}

func TestOwnerOf(t *testing.T) {
	if o, ok := ownerOf("ctwlab-12-345-6-many-clients"); !ok || o != (owner{12, 345}) {
		t.Errorf("owner %+v, %v", o, ok)
	}
	for _, name := range []string{"", "ctwlab-", "ctwlab-1-2-3", "ctwlab-x-2-3-a", "ctwlab-0-2-3-a", "mine", "ctwlab--1-2-3-a"} {
		if o, ok := ownerOf(name); ok {
			t.Errorf("ownerOf(%q) = %+v, want none", name, o)
		}
	}
}

func TestLimitsWithinAPart(t *testing.T) {
	Require(t)
	l := ExclusiveLimits(t)
	before := l.Max()
	t.Run("part", func(t *testing.T) {
		part := l.Within(t)
		part.SetMax(before + 1000)
		if got := l.Max(); got != before+1000 {
			t.Errorf("max is %d, want %d", got, before+1000)
		}
	})
	if got := l.Max(); got != before {
		t.Errorf("after the part max is %d, want %d", got, before)
	}
}
