package survival

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// Ports of the services.
const (
	webPort  = 80
	trapPort = 443 // where bots connect: nothing is ever accepted
	echoPort = 7
	bulkPort = 19
	idlePort = 7000
	udpPort  = 53
)

// field is where a run happens.
type field struct {
	t      testing.TB
	p      Params
	limits *lab.Limits
	// guarded is the host whose table is attacked. client has the users, and
	// mostly the attackers; server has the services.
	guarded, client, server *lab.Host
	// user is the address from which the i-th new connection comes, held the
	// prefix of the held ones.
	user func(i int) netip.Addr
	held netip.Prefix
	// bots is a prefix of addresses that answers are silently lost from, botTo
	// where they connect.
	bots  netip.Prefix
	botTo []netip.Addr
	// inbound connections of the idle are made by the guarded host itself,
	// outwards, behind rules that refuse what is not established.
	outwards bool
}

var (
	manyUsers  = netip.MustParsePrefix("10.1.0.0/17")
	fewUsers   = netip.MustParsePrefix("10.1.128.0/24")
	insideBots = netip.MustParsePrefix("10.64.0.0/15")
	adminAway  = netip.MustParseAddr("10.1.250.1")
	adminOpen  = netip.MustParseAddr("10.1.250.2")
	insideAway = netip.MustParseAddr("10.0.250.1")
	insideOpen = netip.MustParseAddr("10.0.250.2")
)

// prepare makes the namespaces and services of a scenario.
func prepare(t testing.TB, s *Scenario, p Params, limits *lab.Limits) *field {
	t.Helper()
	f := &field{t: t, p: p, limits: limits}
	if s.Gateway {
		r := lab.Gateway(t)
		f.guarded, f.client, f.server = r.Gateway, r.Inside, r.Outside
		r.Gateway.IP(fmt.Sprintf("route add %s via %s", insideBots, r.Inside.Addr4))
		f.bots, f.held = insideBots, netip.MustParsePrefix("10.0.0.0/24")
		f.user = spreadOver(netip.MustParsePrefix("10.0.0.0/16"), 200)
		for i := range 16 {
			f.botTo = append(f.botTo, lab.Nth(r.Outside.Sources4, uint32(256+i)))
		}
	} else {
		l := lab.Server(t)
		f.guarded, f.client, f.server = l.Server, l.Client, l.Server
		f.bots, f.held = l.Client.Spoof4, fewUsers
		f.user = spreadOver(manyUsers, 1<<15)
		f.botTo = []netip.Addr{l.Server.Addr4}
	}
	if p.Accounting {
		f.guarded.SetSysctl("net.netfilter.nf_conntrack_acct", "1")
	}
	if s.Setup != nil {
		s.Setup(f)
	}
	if p.Plain {
		f.server.ServeTCP(webPort, lab.Echo)
	} else {
		f.server.Nginx(webPort, false)
	}
	f.server.ServeTCP(echoPort, lab.Echo)
	f.server.ServeTCP(bulkPort, lab.Flow)
	f.server.ServeUDP(udpPort)
	f.server.ServeDNS(dnsPort)
	f.server.Hold(trapPort, 600_000)
	return f
}

// spreadOver scatters users over n addresses of a prefix.
func spreadOver(prefix netip.Prefix, n int) func(int) netip.Addr {
	return func(i int) netip.Addr { return lab.Nth(prefix, uint32(i*7919%n)) }
}

func (f *field) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(f.server.Addr4, port) }

// botSources are n addresses of bots.
func (f *field) botSources(n int) (list []netip.Addr) {
	for i := range n {
		list = append(list, lab.Nth(f.bots, uint32(i)))
	}
	return list
}

func (f *field) botTargets(port uint16) (list []netip.AddrPort) {
	for _, a := range f.botTo {
		list = append(list, netip.AddrPortFrom(a, port))
	}
	return list
}

// load is an attack of a rate that its context ends.
func load(perSecond int) lab.Load {
	return lab.Load{Packets: 1 << 30, PerSecond: perSecond}
}

// Reached is what an attack came to.
type Reached struct {
	Packets   int     `json:"packets,omitempty"`
	Completed int     `json:"completed,omitempty"` // handshakes, or exchanges
	Asked     int     `json:"asked,omitempty"`     // exchanges begun
	Seconds   float64 `json:"seconds"`
	// began is when the first packet was sent.
	began time.Time
}

func (r Reached) plus(o Reached) Reached {
	r.Packets += o.Packets
	r.Completed += o.Completed
	r.Asked += o.Asked
	r.Seconds = max(r.Seconds, o.Seconds)
	if r.began.IsZero() || !o.began.IsZero() && o.began.Before(r.began) {
		r.began = o.began
	}
	return r
}

func sent(s lab.Sent, err error) (Reached, error) {
	return Reached{Packets: s.Packets, Seconds: s.Elapsed.Seconds(), began: s.Began}, err
}

func shaken(s lab.Shaken, err error) (Reached, error) {
	return Reached{Packets: s.SYNs, Completed: s.Completed, Seconds: s.Elapsed.Seconds(), began: s.Began}, err
}

// both runs two attacks together.
func both(a, b attack) attack {
	return func(ctx context.Context, f *field) (Reached, error) {
		type outcome struct {
			r   Reached
			err error
		}
		other := make(chan outcome)
		go func() {
			r, err := b(ctx, f)
			other <- outcome{r, err}
		}()
		r, err := a(ctx, f)
		o := <-other
		if err == nil {
			err = o.err
		}
		return r.plus(o.r), err
	}
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
