package survival

import (
	"os"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

// slack is what chance and a loaded machine may take from a share of some
// hundred connections.
const slack = 0.02

// TestScaled plays a small part of the matrix and holds the guard to what must
// be true at any rate, on any machine: nobody is worse off with it than
// without, and nothing of it stays.
func TestScaled(t *testing.T) {
	p := Scaled()
	names := []string{"1-syn-flood", "3-handshakes-1000", "3-gateway-1000", "10-full-at-the-start"}
	if vm.InGuest() {
		lab.Require(t, "conntrack")
		// Under emulation everything is slow, most of all the generators.
		p.Plain, p.Packets, p.Handshakes, p.Attack = true, 3000, 600, 20*time.Second
		p.Users, p.Active, p.Idle, p.Streams, p.Bulk, p.Beats = 10, 6, 20, 2, 1, 6
		names = []string{"1-syn-flood", "3-handshakes-1000", "3-gateway-1000"}
	} else {
		lab.Require(t, "conntrack", "nginx", "wrk", "dig", "ssh", "/usr/sbin/sshd")
	}
	limits := lab.ExclusiveLimits(t)
	for _, name := range names {
		s, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			var stock, guarded Result
			t.Run("stock", func(t *testing.T) { stock = one(t, limits, s, Stock, p, 1) })
			t.Run("guard", func(t *testing.T) {
				guarded = one(t, limits, s, Guard, p, 1)
				judge(t, stock, guarded)
			})
		})
	}
	t.Run("11-peace", func(t *testing.T) {
		s, _ := Find("11-peace")
		if r := one(t, limits, s, Guard, p, 1); r.Actions > 0 {
			t.Errorf("the guard acted %d times in peace", r.Actions)
		}
	})
}

func judge(t *testing.T, stock, guarded Result) {
	t.Helper()
	if got, least := guarded.New.share(), stock.New.share()-slack; got < least {
		t.Errorf("%.1f %% of the new connections succeeded with the guard, %.1f %% without", 100*got, 100*stock.New.share())
	}
	if a := guarded.Active; a.Alive < a.Held {
		t.Errorf("%d of %d active connections were cut", a.Held-a.Alive, a.Held)
	}
	if got, least := guarded.idle(), stock.idle(); got.Alive < least.Alive {
		t.Errorf("%d of %d silent connections live with the guard, %d without", got.Alive, got.Held, least.Alive)
	}
	if got, least := guarded.Logins, stock.Logins; got.Alive < least.Alive {
		t.Errorf("%d of %d logins succeeded with the guard, %d without", got.Alive, got.Held, least.Alive)
	}
	if got, least := guarded.Beats, stock.Beats; got.Alive < least.Alive {
		t.Errorf("%d of %d connections with a heartbeat live with the guard, %d without", got.Alive, got.Held, least.Alive)
	}
	if !guarded.Session {
		t.Error("the administrator's session was cut")
	}
	if !guarded.Undone {
		t.Errorf("left behind: %v", guarded.UndoFails)
	}
}

// TestKernels plays the same on kernels that people run: only what succeeds,
// what lives and what stays is judged, since rates and latencies mean nothing
// under emulation.
func TestKernels(t *testing.T) {
	if os.Getenv("CTWARDEN_LONG") == "" {
		t.Skip("long: make survival-kernels")
	}
	for _, series := range []string{"6.1", "6.12"} {
		t.Run(series, func(t *testing.T) { vm.Need(t, series).Run(t, guestOptions(t, "^TestScaled$")) })
	}
}

// guestOptions are for a guest that runs tests of this package with the binary
// of this machine.
func guestOptions(t *testing.T, run string) vm.Options {
	binary := *wantBinary
	if binary == "" {
		binary = Build(t)
	}
	return vm.Options{Package: "./internal/lab/survival", Run: run,
		Args:      []string{"-survival.binary=/ctwarden", "-survival.log"},
		Files:     map[string]string{"/ctwarden": binary},
		Modules:   vm.NetfilterModules,
		Load:      []string{"nf_conntrack", "nf_conntrack_netlink", "nf_nat", "veth"},
		Programs:  []string{"ip", "nft", "conntrack", "sh", "grep", "ss"},
		MemoryMiB: 2048, Timeout: 15 * time.Minute}
}
