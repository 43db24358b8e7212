package survival

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// attack runs until its context ends.
type attack func(context.Context, *field) (Reached, error)

// Scenario is one kind of attack, or of peace.
type Scenario struct {
	// Name is stable: "3-handshakes-1000".
	Name, Title string
	// Gateway has the table of a masquerading gateway attacked, instead of a
	// server's.
	Gateway bool
	// Buckets, if not 0, is the size of the hash table; otherwise it is Max.
	Buckets int
	// SYN says that the attack is a flood of SYNs at a server, which SYNPROXY is
	// made for.
	SYN bool
	// Peaceful has no attack at all.
	Peaceful bool
	// Setup changes the field before the services start.
	Setup func(*field)
	// Prefill fills the table before the defence starts.
	Prefill func(*field)
	Attack  attack
	// From is the prefix that somebody who knows the attackers would delete.
	From func(*field) string
}

func fromBots(f *field) string { return f.bots.String() }

// Scenarios are all there are.
var Scenarios = []*Scenario{
	{Name: "1-syn-flood", Title: "spoofed SYN flood", SYN: true, Attack: synFlood, From: fromBots},
	{Name: "2-syn-flood-many-buckets", Title: "spoofed SYN flood, far too many buckets", SYN: true, Buckets: 262_144, Attack: synFlood, From: fromBots},
	{Name: "3-handshakes-10", Title: "handshakes left idle, 10 sources", Attack: handshakes(10), From: fromBots},
	{Name: "3-handshakes-1000", Title: "handshakes left idle, 1,000 sources", Attack: handshakes(1000), From: fromBots},
	{Name: "3-handshakes-60000", Title: "handshakes left idle, 60,000 sources", Attack: handshakes(60_000), From: fromBots},
	{Name: "3-gateway-10", Title: "the same at a gateway, 10 sources", Gateway: true, Attack: handshakes(10), From: fromBots},
	{Name: "3-gateway-1000", Title: "the same at a gateway, 1,000 sources", Gateway: true, Attack: handshakes(1000), From: fromBots},
	{Name: "3-gateway-60000", Title: "the same at a gateway, 60,000 sources", Gateway: true, Attack: handshakes(60_000), From: fromBots},
	{Name: "4-handshakes-and-syn-flood", Title: "handshakes left idle, 1,000 sources, under a SYN flood", SYN: true,
		Attack: both(handshakes(1000), synFloodFrom(netip.MustParsePrefix("10.3.0.0/16"))), From: fromBots},
	{Name: "5-udp-replied", Title: "UDP flood that is answered", Attack: udpReplied, From: fromBots},
	{Name: "5-udp-unreplied", Title: "UDP flood that is not answered", Setup: deafToUDP, Attack: udpUnreplied, From: fromBots},
	{Name: "5-icmp", Title: "ping flood", Attack: pings, From: fromBots},
	{Name: "6-scan-outwards", Title: "an inside host scans outwards", Gateway: true, Attack: scan,
		From: func(*field) string { return scanner.String() }},
	{Name: "8-churn", Title: "short connections, all legitimate", Attack: churn},
	{Name: "9-same-nat", Title: "attackers and users behind one address", Setup: oneAddress, Attack: sameAddress,
		From: func(*field) string { return shared.String() }},
	{Name: "10-full-at-the-start", Title: "table already full, then handshakes, 1,000 sources", Prefill: fillUp, Attack: handshakesAfter(1000), From: fromBots},
	{Name: "11-peace", Title: "nothing but peace at 60 % fill", Peaceful: true, Prefill: fillInPeace},
	{Name: "12-forged", Title: "SYN flood forged from the gateway, the resolver and the administrator", SYN: true, Attack: forged,
		From: func(*field) string { return adminAway.String() }},
	{Name: "13-two-proxies", Title: "all users and one of 10,000 attackers behind two proxies", Setup: twoProxies, Attack: throughProxies, From: fromBots},
	{Name: "14-default-drop", Title: "idle outbound connections behind default drop, handshakes, 1,000 sources", Setup: defaultDrop, Attack: handshakes(1000), From: fromBots},
	{Name: "15-like-users", Title: "attackers who send requests like users, 1,000 sources", Attack: likeUsers, From: fromBots},
}

// Find returns a scenario by its name.
func Find(name string) (*Scenario, error) {
	for _, s := range Scenarios {
		if s.Name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no scenario %q", name)
}

func synFlood(ctx context.Context, f *field) (Reached, error) {
	return sent(f.client.SYNFlood(ctx, f.at(webPort), f.bots, load(f.p.Packets)))
}

func synFloodFrom(sources netip.Prefix) attack {
	return func(ctx context.Context, f *field) (Reached, error) {
		return sent(f.client.SYNFlood(ctx, f.at(webPort), sources, load(f.p.Packets)))
	}
}

func handshakes(sources int) attack { return handshakesFrom(sources, 0) }

// handshakesAfter repeats none of the connections that fillUp has made.
func handshakesAfter(sources int) attack { return handshakesFrom(sources, 1<<20) }

func handshakesFrom(sources, begin int) attack {
	return func(ctx context.Context, f *field) (Reached, error) {
		l := load(f.p.Handshakes)
		l.First = begin
		return shaken(f.client.Connections(ctx, lab.Bots{Sources: f.botSources(sources), Targets: f.botTargets(trapPort)}, l))
	}
}

// udpReplied goes round more flows than the table holds, again and again, since
// the third packet after two seconds makes a flow assured; in every round an
// eighth of the flows is new.
func udpReplied(ctx context.Context, f *field) (r Reached, err error) {
	round := lab.Load{PerSecond: f.p.Packets, Packets: f.p.Max * 5 / 4}
	for ctx.Err() == nil && err == nil {
		var one Reached
		one, err = sent(f.client.UDPFlood(ctx, f.at(udpPort), f.bots, 32, round))
		one.Seconds += r.Seconds
		r = r.plus(one)
		round.First += round.Packets / 8
	}
	return r, err
}

// deafToUDP has the server drop what comes to a port after it was tracked: an
// answer of any kind would make an entry replied.
func deafToUDP(f *field) {
	f.guarded.NFT(`table inet deaf {
	chain prerouting { type filter hook prerouting priority 0; }
	chain output { type filter hook output priority 0; icmp type destination-unreachable drop; }
}`)
}

func udpUnreplied(ctx context.Context, f *field) (Reached, error) {
	return sent(f.client.UDPFlood(ctx, f.at(9), f.bots, 32, load(f.p.Packets)))
}

func pings(ctx context.Context, f *field) (Reached, error) {
	return sent(f.client.Ping(ctx, f.server.Addr4, f.bots, load(f.p.Packets)))
}

var scanner = netip.MustParseAddr("10.0.77.77")

func scan(ctx context.Context, f *field) (Reached, error) {
	ports := []uint16{22, 23, 80, 443, 445, 3389, 5900, 8080}
	return sent(f.client.Scan(ctx, scanner, f.server.Spoof4, ports, load(f.p.Packets)))
}

func churn(ctx context.Context, f *field) (Reached, error) {
	c, err := f.client.TCPChurn(ctx, f.at(echoPort), netip.MustParsePrefix("10.1.192.0/19"), load(f.p.Exchanges))
	return Reached{Asked: c.Asked, Completed: c.Answered, Seconds: c.Elapsed.Seconds(), began: c.Began}, err
}

var shared = netip.MustParseAddr("10.1.128.7")

func oneAddress(f *field) {
	f.user = func(int) netip.Addr { return shared }
	f.held = netip.PrefixFrom(shared, 32)
	f.client.Mute(trapPort)
}

func sameAddress(ctx context.Context, f *field) (Reached, error) {
	return shaken(f.client.Connections(ctx, lab.Bots{Sources: []netip.Addr{shared}, Targets: f.botTargets(trapPort)}, load(f.p.Handshakes)))
}

// fillUp leaves room for what is held, and fills that too once it is held.
func fillUp(f *field) {
	bots := lab.Bots{Sources: f.botSources(1000), Targets: f.botTargets(trapPort)}
	deadline := time.Now().Add(time.Minute)
	for begin := 0; f.guarded.Count() < f.limits.Max() && time.Now().Before(deadline); {
		// Never more than fits, or those refused would be sent again for long.
		n := min(f.limits.Max()-f.guarded.Count()+64, 20_000)
		if _, err := f.client.Connections(context.Background(), bots, lab.Load{Packets: n, First: begin}); err != nil {
			f.t.Fatalf("survival: fill the table: %v", err)
		}
		begin += n
	}
}

// fillInPeace makes a table as busy servers have it: mostly established, some
// closing, some UDP.
func fillInPeace(f *field) {
	// What the users leave behind, two minutes in TIME_WAIT, comes on top: the
	// table is to be at 60 % of the limit asked for, whatever a defence or the
	// control have made of it, and stay there.
	lasting := min(f.p.Peace+f.p.Attack, 2*time.Minute)
	n := max(f.p.Max*6/10-int(lasting.Seconds())*f.p.Users, f.p.Max/10)
	seen := ct.StatusSeenReply | ct.StatusAssured
	f.guarded.Fill(
		lab.Class{Count: n * 7 / 10, State: ct.TCPEstablished, Status: seen, TimeoutSeconds: 430_000, Sources: netip.MustParsePrefix("10.2.0.0/16")},
		lab.Class{Count: n * 2 / 10, State: ct.TCPTimeWait, Status: seen, TimeoutSeconds: 3600, Sources: netip.MustParsePrefix("10.3.0.0/16")},
		lab.Class{Count: n / 10, Proto: ct.UDP, Status: seen, TimeoutSeconds: 3600, Sources: netip.MustParsePrefix("10.3.0.0/16")})
}

// forged names the neighbour, which is the gateway, and addresses of the
// administrator and the resolver.
func forged(ctx context.Context, f *field) (Reached, error) {
	near := netip.PrefixFrom(f.client.Addr4, 32)
	away := netip.PrefixFrom(adminAway, 30).Masked()
	half := f.p
	half.Packets /= 2
	flood := func(from netip.Prefix) attack {
		return func(ctx context.Context, f *field) (Reached, error) {
			return sent(f.client.SYNFlood(ctx, f.at(webPort), from, load(half.Packets)))
		}
	}
	return both(flood(near), flood(away))(ctx, f)
}

var proxies = []netip.Addr{netip.MustParseAddr("10.1.128.1"), netip.MustParseAddr("10.1.128.2")}

func twoProxies(f *field) {
	f.user = func(i int) netip.Addr { return proxies[i%2] }
	f.held = netip.PrefixFrom(proxies[0], 32)
	f.client.Mute(trapPort)
}

func throughProxies(ctx context.Context, f *field) (Reached, error) {
	sources := f.botSources(10_000)
	sources[0] = proxies[0]
	return shaken(f.client.Connections(ctx, lab.Bots{Sources: sources, Targets: f.botTargets(trapPort)}, load(f.p.Handshakes)))
}

// defaultDrop lets in what belongs to a connection, and services, and nothing
// else.
func defaultDrop(f *field) {
	f.outwards = true
	f.guarded.NFT(fmt.Sprintf(`table inet strict {
	chain input { type filter hook input priority 10; policy drop;
		ct state established,related accept
		iif lo accept
		ip protocol icmp accept
		meta l4proto ipv6-icmp accept
		tcp dport { %d, %d, %d, %d, %d } tcp flags & (fin|syn|rst|ack) == syn ct state new accept
		udp dport { %d, %d } accept
	}
}`, sshPort, webPort, echoPort, bulkPort, trapPort, udpPort, dnsPort))
}

func likeUsers(ctx context.Context, f *field) (Reached, error) {
	return shaken(f.client.Connections(ctx, lab.Bots{Sources: f.botSources(1000), Targets: f.botTargets(trapPort), Say: []byte("GET / HTTP/1.1\r\n\r\n")}, load(f.p.Handshakes)))
}
