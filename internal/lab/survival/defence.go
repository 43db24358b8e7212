package survival

import (
	"fmt"
	"strings"
	"time"
)

// Defence is what stands between the attack and the table.
type Defence string

// The defences.
const (
	// Stock is the kernel by itself.
	Stock Defence = "stock"
	// Advice is what people are told to set: twice the limit, a quarter of it as
	// buckets, and shorter timeouts.
	Advice Defence = "advice"
	// Delete runs "conntrack -D -s" every two seconds, by somebody who knows
	// exactly where the attack comes from.
	Delete Defence = "conntrack-D"
	// SYNProxy answers SYNs to the services with cookies before they are
	// tracked.
	SYNProxy Defence = "synproxy"
	// Guard is ctwarden, GuardFixed the same where max cannot be raised.
	Guard      Defence = "guard"
	GuardFixed Defence = "guard-fixed-max"
	// Control has the same attack and a limit that it cannot reach.
	Control Defence = "control"
)

// Defences are all there are, in the order of the published table.
var Defences = []Defence{Control, Stock, Advice, Delete, SYNProxy, Guard, GuardFixed}

func (d Defence) ours() bool { return d == Guard || d == GuardFixed }

// applies says whether a defence says anything in a scenario.
func (d Defence) applies(s *Scenario) bool {
	switch d {
	case SYNProxy:
		return s.SYN && !s.Gateway
	case Delete:
		return s.From != nil
	}
	return true
}

// unreachable is a limit that no attack here comes near.
const unreachable = 12_000_000

// limits sets the size of the table.
func (d Defence) limits(f *field, s *Scenario) {
	maximum, buckets := f.p.Max, s.Buckets
	if buckets == 0 {
		buckets = maximum
	}
	switch d {
	case Advice:
		maximum = 2 * f.p.Max
		buckets = maximum / 4
	case Control:
		maximum, buckets = unreachable, max(buckets, 1<<20)
	}
	f.limits.SetBuckets(buckets)
	f.limits.SetMax(maximum)
}

// running is a defence at work.
type running struct {
	guard *guard
	stop  func() error
}

// start puts a defence in place.
func (d Defence) start(f *field, s *Scenario) *running {
	f.t.Helper()
	r := &running{stop: func() error { return nil }}
	switch d {
	case Advice:
		for key, seconds := range map[string]int{"generic_timeout": 120, "tcp_timeout_established": 54_000,
			"tcp_timeout_close_wait": 60, "tcp_timeout_fin_wait": 60, "tcp_timeout_time_wait": 60} {
			f.guarded.SetSysctl("net.netfilter.nf_conntrack_"+key, fmt.Sprint(seconds))
		}
	case Delete:
		r.stop = deleteLoop(f, s)
	case SYNProxy:
		synproxy(f)
	case Guard, GuardFixed:
		r.guard = startGuard(f, d)
		r.stop = r.guard.stop
	}
	return r
}

func deleteLoop(f *field, s *Scenario) func() error {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(2 * time.Second):
			}
			// It fails where there is nothing to delete.
			_, _ = f.guarded.TryExec("conntrack", "-D", "-s", s.From(f))
		}
	}()
	return func() error {
		close(done)
		<-ended
		return nil
	}
}

// synproxy is the recipe of the nftables wiki.
func synproxy(f *field) {
	f.guarded.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "0")
	f.guarded.SetSysctl("net.ipv4.tcp_timestamps", "1")
	f.guarded.SetSysctl("net.ipv4.tcp_syncookies", "1")
	f.guarded.NFT(strings.ReplaceAll(`table inet sp {
	chain pre { type filter hook prerouting priority raw; tcp dport PORTS tcp flags syn / fin,syn,rst,ack notrack; }
	chain input { type filter hook input priority 0;
		tcp dport PORTS ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
		ct state invalid drop
	}
}`, "PORTS", fmt.Sprintf("{ %d, %d, %d, %d, %d, %d }", sshPort, webPort, trapPort, echoPort, bulkPort, idlePort)))
}
