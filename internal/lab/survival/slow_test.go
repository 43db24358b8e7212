package survival

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

// Slow accumulation: one bot in three seconds for three quarters of an hour,
// twice as many as the table holds, and a user every ten seconds.
const (
	slowMax   = 448 // of which the held ones take a fifth
	slowEvery = 3 * time.Second
	slowFor   = 45 * time.Minute
	slowUser  = 10 * time.Second
)

// TestSlow plays scenario 7 in virtual time on Debian's 6.1.
func TestSlow(t *testing.T) {
	if vm.InGuest() {
		playSlow(t)
		return
	}
	if os.Getenv("CTWARDEN_LONG") == "" {
		t.Skip("long: make survival-kernels")
	}
	k := vm.Need(t, "6.1")
	o := guestOptions(t, "^TestSlow$")
	o.VirtualTime, o.Timeout = true, 40*time.Minute
	k.Run(t, o)
}

func playSlow(t *testing.T) {
	lab.Require(t, "conntrack")
	p := Scaled()
	p.Plain, p.Max, p.Binary = true, slowMax, *wantBinary
	p.Active, p.Idle, p.Streams, p.Bulk, p.Beats = 4, 80, 2, 0, 0
	var stock, guarded slowly
	t.Run("stock", func(t *testing.T) { stock = accumulate(t, Stock, p) })
	t.Run("guard", func(t *testing.T) { guarded = accumulate(t, Guard, p) })
	if guarded.ok < stock.ok {
		t.Errorf("%d users were served with the guard, %d without", guarded.ok, stock.ok)
	}
	if guarded.idle.Alive < stock.idle.Alive {
		t.Errorf("%d of %d silent connections live with the guard, %d without", guarded.idle.Alive, guarded.idle.Held, stock.idle.Alive)
	}
}

type slowly struct {
	asked, ok int
	idle      alive
}

func accumulate(t *testing.T, d Defence, p Params) (y slowly) {
	s := &Scenario{Name: "7-slow", Title: "slow accumulation"}
	limits := lab.ExclusiveLimits(t)
	f := prepare(t, s, p, limits)
	d.limits(f, s)
	r := Result{Max: limits.Max(), Buckets: limits.Buckets()}
	settings := f.settings()
	wall := d.start(f, s)
	h := holdAll(f, nil)
	bots := lab.Bots{Sources: f.botSources(100), Targets: []netip.AddrPort{f.at(trapPort)}}
	start := time.Now()
	for n := 0; time.Since(start) < slowFor; n++ {
		if _, err := f.client.Connections(t.Context(), bots, lab.Load{Packets: 1, First: n}); err != nil {
			t.Fatal(err)
		}
		if n%int(slowUser/slowEvery) == 0 {
			y.asked++
			if err := f.client.Do(func() error {
				at := time.Now()
				fd, err := begin(f.user(n), f.at(webPort))
				if err == nil && finish(fd, at) {
					y.ok++
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Until(start.Add(time.Duration(n+1) * slowEvery)))
	}
	h.finish(&r)
	y.idle = r.idle()
	t.Logf("%s: %d of %d users served, active %+v, idle %+v, count %d of %d", d, y.ok, y.asked, r.Active, y.idle, f.guarded.Count(), limits.Max())
	if r.Active.Alive < r.Active.Held {
		t.Errorf("active connections were cut: %+v", r.Active)
	}
	if err := wall.stop(); err != nil {
		t.Error(err)
	}
	if g := wall.guard; g != nil {
		for _, line := range g.log() {
			t.Log(line)
		}
		if left := f.left(&r, settings, g); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	return y
}
