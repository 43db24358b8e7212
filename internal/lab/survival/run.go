package survival

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// aged is how long some of the silent connections have been silent already.
const aged = time.Hour

// Run plays a scenario under a defence and returns what came of it. Log is what
// the guard wrote. The limits are those of the test that t is a part of.
func Run(t testing.TB, held *lab.Limits, s *Scenario, d Defence, p Params) (r Result, log []string) {
	t.Helper()
	limits := held.Within(t)
	f := prepare(t, s, p, limits)
	d.limits(f, s)
	r = Result{Time: time.Now().UTC().Format(time.RFC3339), Kernel: release(), Scenario: s.Name, Defence: d,
		Table: p.Max, Max: limits.Max(), Buckets: limits.Buckets(), Accounting: p.Accounting, Load: loadAverage()}

	var office *admin
	if !p.Plain {
		office = serveSSH(t, f.guarded, f.client, f.guarded.Addr4)
	}
	settings := f.settings()
	var wall *running
	if s.Prefill == nil || s.Peaceful {
		if s.Prefill != nil {
			s.Prefill(f)
		}
		wall = d.start(f, s)
	}
	h := holdAll(f, office)
	time.Sleep(500 * time.Millisecond)
	people := startUsers(f.client, p.Users, f.user, f.at(webPort))
	time.Sleep(p.Peace)
	h.age()
	if wall == nil { // the table is full before the defence begins
		s.Prefill(f)
	}

	before := h.timeouts()
	start := time.Now()
	if wall == nil {
		wall = d.start(f, s)
	}
	counters := f.guarded.ConntrackStats()
	spent := wall.cost()
	watch := watchPeak(f)
	logins := f.logins(office, p.Attack)
	var tools *programs
	if !p.Plain {
		tools = startPrograms(f, p.Attack, f.user)
	}
	r.Reached = f.attack(s, p.Attack)
	began := start
	if s.Prefill == nil && !r.Reached.began.IsZero() {
		began = r.Reached.began // the generator takes a while to get ready
	}
	end := time.Now()
	after := f.guarded.ConntrackStats()
	used := wall.cost()
	r.Logins, r.LoginWorst = (<-logins).tally()
	if tools != nil {
		var err error
		if r.Wrk, r.Dig, err = tools.stop(); err != nil {
			t.Errorf("survival: wrk: %v", err)
		}
	}
	r.Touched, r.Looked = h.touched(before, time.Since(start))
	list, err := people.stop()
	if err != nil {
		t.Errorf("survival: users: %v", err)
	}
	r.AttackSeconds = end.Sub(start).Seconds()
	r.Before = count(list, start.Add(-p.Peace), start)
	r.New = count(list, start, end)
	r.AfterOne = count(list, start.Add(time.Second), end)
	r.Windows = windows(list, start, end.Add(-time.Second/2))
	r.RecoverySeconds = recovery(r.Windows)
	h.finish(&r)
	r.Peak, r.PeakMax = watch()
	r.Refused, r.EarlyDrop = after["drop"]-counters["drop"], after["early_drop"]-counters["early_drop"]
	if g := wall.guard; g != nil {
		r.CPU = (used.cpu - spent.cpu).Seconds() / end.Sub(start).Seconds()
		r.RSS = float64(used.rss) / (1 << 20)
		acts := g.moments(isAction, start, end)
		if r.Actions = len(acts); r.Actions > 0 {
			r.DetectMS = milliseconds(acts[0].Sub(began))
		}
		if said := g.moments(isLevel, began, end); len(said) > 0 {
			r.LevelMS = milliseconds(said[0].Sub(began))
		}
	}
	if err := wall.stop(); err != nil {
		r.UndoFails = append(r.UndoFails, err.Error())
	}
	if wall.guard != nil {
		r.UndoFails = append(r.UndoFails, f.left(&r, settings, wall.guard)...)
		r.Undone = len(r.UndoFails) == 0
		log = wall.guard.log()
	}
	return r, log
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (w *running) cost() cost {
	if w.guard == nil {
		return cost{}
	}
	return w.guard.cost()
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// attack runs the scenario's attack for a time.
func (f *field) attack(s *Scenario, lasting time.Duration) Reached {
	if s.Attack == nil {
		time.Sleep(lasting)
		return Reached{Seconds: lasting.Seconds()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), lasting)
	defer cancel()
	r, err := s.Attack(ctx, f)
	if err != nil {
		f.t.Errorf("survival: attack: %v", err)
	}
	return r
}

// watchPeak looks at count and limit until it is asked for the highest.
func watchPeak(f *field) func() (count, limit int) {
	done, ended := make(chan struct{}), make(chan struct{})
	var count, limit int
	go func() {
		defer close(ended)
		_ = f.guarded.Do(func() error {
			for {
				count = max(count, number("/proc/sys/net/netfilter/nf_conntrack_count"))
				limit = max(limit, number("/proc/sys/net/netfilter/nf_conntrack_max"))
				select {
				case <-done:
					return nil
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}()
	return func() (int, int) {
		close(done)
		<-ended
		return count, limit
	}
}

// loadAverage is that of the last minute.
func loadAverage() float64 {
	b, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(b), " ")
	v, _ := strconv.ParseFloat(one, 64)
	return v
}

func number(file string) int {
	b, _ := os.ReadFile(file)
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// tries are logins and how long each took.
type tries struct {
	took []time.Duration
	bad  int
}

func (y tries) tally() (a alive, worst float64) {
	a = alive{Held: len(y.took) + y.bad, Alive: len(y.took)}
	for _, d := range y.took {
		worst = max(worst, d.Seconds())
	}
	return a, worst
}

// logins tries to log in three times while the attack lasts.
func (f *field) logins(office *admin, lasting time.Duration) <-chan tries {
	out := make(chan tries, 1)
	if office == nil {
		out <- tries{}
		return out
	}
	from := adminAway
	if f.client.Sources4.Contains(insideAway) {
		from = insideAway
	}
	go func() {
		var y tries
		start := time.Now()
		for _, share := range []float64{0.25, 0.55, 0.85} {
			time.Sleep(time.Until(start.Add(time.Duration(share * float64(lasting)))))
			took, err := office.login(from)
			if err != nil {
				y.bad++
				continue
			}
			y.took = append(y.took, took)
		}
		out <- y
	}()
	return out
}

// holding is everything that was open before the attack.
type holding struct {
	f       *field
	talk    *talkers
	streams *talkers
	beats   *talkers
	bulk    *readers
	quiet   *silent
	tuples  []ct.Tuple
	shell   *session
}

// holdAll opens what is held.
func holdAll(f *field, office *admin) *holding {
	f.t.Helper()
	h := &holding{f: f}
	ctx := f.t.Context()
	chat, err1 := f.client.Connect(ctx, f.at(echoPort), f.held, f.p.Active)
	bulk, err2 := f.client.Connect(ctx, f.at(bulkPort), f.held, f.p.Bulk, smallBuffer)
	streams, err3 := f.client.ConnectUDP(f.at(udpPort), f.held, f.p.Streams)
	beats, err5 := f.client.Connect(ctx, f.at(echoPort), f.held, f.p.Beats)
	var err4 error
	if f.outwards {
		away := f.client.Addr4
		h.quiet, err4 = holdSilent(f.t, f.guarded, f.client, at(away, idlePort), single(f.guarded.Addr4), f.p.Idle)
	} else {
		h.quiet, err4 = holdSilent(f.t, f.client, f.server, f.at(idlePort), f.held, f.p.Idle)
	}
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		f.t.Fatalf("survival: hold connections: %v", err)
	}
	h.tuples = h.quiet.tuples()
	h.talk = talk(chat, time.Second, false)
	h.streams = talk(streams, 250*time.Millisecond, true)
	h.beats = talk(beats, 8*time.Second, false)
	h.bulk = readSlowly(bulk)
	if office != nil {
		from := adminOpen
		if f.client.Sources4.Contains(insideOpen) {
			from = insideOpen
		}
		var err error
		if h.shell, err = office.open(from); err != nil {
			f.t.Fatalf("survival: open a session: %v", err)
		}
	}
	return h
}

// old says which of the silent connections are aged.
func old(i int) bool { return i%2 == 1 }

// age makes every other silent entry as old as if it had been silent for an
// hour: only its timeout tells.
func (h *holding) age() {
	h.f.t.Helper()
	err := h.entries(func(c *ctnl.Conn, i int, e *ct.Flow) error {
		if !old(i) {
			return nil
		}
		key, err := ctnl.KeyOf(e)
		if err != nil {
			return err
		}
		b := c.NewBatch()
		if err := b.Update(key, ctnl.Change{TimeoutSeconds: e.TimeoutSeconds - uint32(aged.Seconds())}); err != nil {
			return err
		}
		return b.Flush()
	})
	if err != nil {
		h.f.t.Fatalf("survival: age the silent: %v", err)
	}
}

// entries calls f with the entry of each silent connection that has one.
func (h *holding) entries(f func(c *ctnl.Conn, i int, e *ct.Flow) error) error {
	c, err := ctnl.Dial(ctnl.Options{Netns: h.f.guarded.Path()})
	if err != nil {
		return err
	}
	defer c.Close()
	for i, t := range h.tuples {
		var e ct.Flow
		err := c.Get(t, 0, &e)
		if errors.Is(err, ctnl.ErrNotFound) {
			continue
		}
		if err == nil {
			err = f(c, i, &e)
		}
		if err != nil {
			return fmt.Errorf("entry of %s: %w", t, err)
		}
	}
	return nil
}

// timeouts reads what remains of the silent entries' timeouts.
func (h *holding) timeouts() map[int]uint32 {
	h.f.t.Helper()
	left := make(map[int]uint32)
	err := h.entries(func(_ *ctnl.Conn, i int, e *ct.Flow) error {
		left[i] = e.TimeoutSeconds
		return nil
	})
	if err != nil {
		h.f.t.Errorf("survival: read the silent: %v", err)
	}
	return left
}

// touched counts the silent entries that do not have left what they had before
// less the time that passed, or are gone.
func (h *holding) touched(before map[int]uint32, passed time.Duration) (n, of int) {
	now := h.timeouts()
	for i, was := range before {
		left, ok := now[i]
		if !ok || float64(left)+3 < float64(was)-passed.Seconds() {
			n++
		}
	}
	return n, len(before)
}

// finish asks everything that was held whether it lives.
func (h *holding) finish(r *Result) {
	var all sync.WaitGroup
	var bulk, chat, streams alive
	all.Go(func() { bulk = h.bulk.stop() })
	all.Go(func() { chat = h.talk.stop() })
	all.Go(func() { streams = h.streams.stop() })
	all.Go(func() { r.Beats = h.beats.stop() })
	// Whoever speaks first: half the peers, or all of them where the rules of
	// the guarded host refuse what it has no entry for.
	far := func(i int) bool { return h.f.outwards || i/2%2 == 1 }
	heard := h.quiet.speak(far)
	all.Wait()
	r.Fresh, r.Aged = heard[0], heard[1]
	r.Active = chat.plus(streams).plus(bulk)
	r.Session = h.shell == nil || h.shell.works(patientLogin) == nil
}
