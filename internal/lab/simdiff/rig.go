package simdiff

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/sim"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

// Rig is a tracking namespace between two packet sockets.
type Rig struct {
	t       testing.TB
	tracker *lab.Host
	wires   [2]*wire // the clients' cable and the servers'
	conn    *ctnl.Conn
	epoch   time.Time
	round   uint32 // makes the marks of different chunks differ
	nat     bool
}

// rules mark every forwarded packet: the class is the state as of ct state,
// plus 8 in the reply direction.
const rules = `table inet simdiff {
	chain mark4 {
		ct state invalid ip dscp set 1 accept
		ct state untracked ip dscp set 2 accept
		ct direction reply ct state new ip dscp set 11 accept
		ct direction reply ct state established ip dscp set 12 accept
		ct direction reply ct state related ip dscp set 13 accept
		ct state new ip dscp set 3 accept
		ct state established ip dscp set 4 accept
		ct state related ip dscp set 5 accept
	}
	chain mark6 {
		ct state invalid ip6 dscp set 1 accept
		ct state untracked ip6 dscp set 2 accept
		ct direction reply ct state new ip6 dscp set 11 accept
		ct direction reply ct state established ip6 dscp set 12 accept
		ct direction reply ct state related ip6 dscp set 13 accept
		ct state new ip6 dscp set 3 accept
		ct state established ip6 dscp set 4 accept
		ct state related ip6 dscp set 5 accept
	}
	chain forward {
		type filter hook forward priority 0; policy accept;
		meta nfproto ipv4 goto mark4
		meta nfproto ipv6 goto mark6
	}
}
`

// natRules translate. What comes from the servers and belongs to no translated
// flow is for the gateway itself, which does not answer.
const natRules = `table inet simdiffnat {
	chain input { type filter hook input priority 0; iifname "sv0" drop; }
	chain postrouting { type nat hook postrouting priority srcnat; oifname "sv0" masquerade; }
}
`

// NewRig lays the cables. The test must hold the global limits still, see
// [lab.SharedLimits]. With masquerade, what leaves towards the servers is
// translated.
func NewRig(t testing.TB, masquerade bool) *Rig {
	t.Helper()
	r := layCables(t)
	r.nat = masquerade
	text := rules
	if masquerade {
		text += natRules
	}
	r.tracker.NFT(text)
	return r
}

// layCables makes a rig without rules.
func layCables(t testing.TB) *Rig {
	t.Helper()
	r := &Rig{t: t, tracker: lab.NewHost(t, "simtrack"), epoch: time.Now()}
	peer := lab.NewHost(t, "simpeer")
	peer.SetSysctl("net.ipv6.conf.default.disable_ipv6", "1")
	h := r.tracker
	h.IP("link add cl0 type veth peer name cl0 netns "+peer.Name, "link add sv0 type veth peer name sv0 netns "+peer.Name,
		"address add 10.254.0.1/24 dev cl0", "address add 172.31.0.1/24 dev sv0",
		"address add fd1a::1/64 dev cl0 nodad", "address add fd1b::1/64 dev sv0 nodad",
		"link set cl0 up", "link set sv0 up")
	peer.IP("link set cl0 up", "link set sv0 up")
	// Nobody has the hardware address that answers go to: the peer's stack
	// does not look at them, only the packet sockets do.
	h.IP("neighbour replace 10.254.0.2 lladdr 02:00:00:00:00:0a dev cl0 nud permanent",
		"neighbour replace 172.31.0.2 lladdr 02:00:00:00:00:0b dev sv0 nud permanent",
		"neighbour replace fd1a::2 lladdr 02:00:00:00:00:0a dev cl0 nud permanent",
		"neighbour replace fd1b::2 lladdr 02:00:00:00:00:0b dev sv0 nud permanent",
		"route add "+simtest.Clients4.String()+" via 10.254.0.2", "route add "+simtest.Servers4.String()+" via 172.31.0.2",
		"route add "+simtest.Clients6.String()+" via fd1a::2", "route add "+simtest.Servers6.String()+" via fd1b::2")
	h.SetSysctl("net.ipv4.ip_forward", "1")
	h.SetSysctl("net.ipv6.conf.all.forwarding", "1")
	for _, dev := range []string{"cl0", "sv0"} {
		h.SetSysctl("net.ipv4.conf."+dev+".rp_filter", "0")
	}
	for i, dev := range []string{"cl0", "sv0"} {
		w, err := openWire(peer, dev, macOf(t, h, dev))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.close)
		r.wires[i] = w
	}
	conn, err := ctnl.Dial(ctnl.Options{Netns: h.Name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r.conn = conn
	return r
}

func macOf(t testing.TB, h *lab.Host, dev string) (mac net.HardwareAddr) {
	err := h.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err == nil {
			mac = ifi.HardwareAddr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

// setTimeouts writes the timeouts into the namespace.
func (r *Rig) setTimeouts(to ct.Timeouts) {
	for k := range ct.NumTimeouts {
		s, ok := to.Get(k)
		if !ok || k.String() == "" {
			continue
		}
		err := r.tracker.Do(func() error {
			return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_"+k.String(), fmt.Append(nil, s), 0)
		})
		// Branches of stable kernels add and remove keys.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.t.Fatal(err)
		}
	}
}

func (r *Rig) setKnobs(k sim.Knobs) {
	set := func(name string, v int) { r.tracker.SetSysctl("net.netfilter.nf_conntrack_"+name, fmt.Sprint(v)) }
	set("tcp_loose", b2i(k.TCPLoose))
	set("tcp_be_liberal", b2i(k.TCPBeLiberal))
	if r.has("tcp_ignore_invalid_rst") {
		set("tcp_ignore_invalid_rst", b2i(k.TCPIgnoreInvalidRST))
	}
	set("tcp_max_retrans", int(k.TCPMaxRetrans))
	set("checksum", b2i(k.Checksum))
	set("acct", b2i(k.Acct))
}

// has reports whether the kernel has a setting.
func (r *Rig) has(name string) bool {
	return r.tracker.Do(func() error {
		_, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_" + name)
		return err
	}) == nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// empty removes all entries of the namespace.
func (r *Rig) empty() {
	r.t.Helper()
	if out, err := r.tracker.TryExec("conntrack", "-F"); err != nil {
		r.t.Fatalf("simdiff: empty the table: %v: %s", err, strings.TrimSpace(out))
	}
}

// counters reads the namespace's counters.
func (r *Rig) counters() (c ct.Counters) {
	r.t.Helper()
	cpus, err := r.conn.Stats()
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range cpus {
		c.Add(cpus[i].Counters)
	}
	return c
}

// now is the time of the run, for the model.
func (r *Rig) now() sim.Time { return sim.Time(time.Since(r.epoch)) + 1e9 }
