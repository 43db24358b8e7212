package survival

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// attempt is one new connection of a user.
type attempt struct {
	at   time.Time
	took time.Duration
	ok   bool
}

// users begin new connections at a steady rate, whatever becomes of those
// before.
type users struct {
	cancel context.CancelFunc
	loop   chan error
	all    sync.WaitGroup
	mu     sync.Mutex
	list   []attempt
}

// startUsers begins so many connections a second from a host, the i-th from
// source(i).
func startUsers(h *lab.Host, perSecond int, source func(i int) netip.Addr, target netip.AddrPort) *users {
	ctx, cancel := context.WithCancel(context.Background())
	u := &users{cancel: cancel, loop: make(chan error, 1)}
	go func() {
		u.loop <- h.Do(func() error {
			start := time.Now()
			for i := 0; ctx.Err() == nil; i++ {
				due := start.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
				time.Sleep(time.Until(due))
				at := time.Now()
				fd, err := begin(source(i), target)
				if err != nil {
					u.add(attempt{at: at})
					continue
				}
				u.all.Go(func() {
					ok := finish(fd, at)
					u.add(attempt{at: at, took: time.Since(at), ok: ok})
				})
			}
			return nil
		})
	}()
	return u
}

func (u *users) add(a attempt) {
	u.mu.Lock()
	u.list = append(u.list, a)
	u.mu.Unlock()
}

// stop ends the users, waits for the last of them and returns all attempts in
// the order of their beginning.
func (u *users) stop() ([]attempt, error) {
	u.cancel()
	err := <-u.loop
	u.all.Wait()
	slices.SortFunc(u.list, func(a, b attempt) int { return a.at.Compare(b.at) })
	return u.list, err
}

// begin makes a socket on the calling thread's namespace and starts to connect
// it.
func begin(source netip.Addr, target netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	err = unix.Bind(fd, &unix.SockaddrInet4{Addr: source.As4()})
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: target.Addr().As4(), Port: int(target.Port())})
	}
	if err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// finish asks for a page, or for an echo of the question, and waits for the
// first bytes of the answer.
func finish(fd int, at time.Time) bool {
	f := os.NewFile(uintptr(fd), "user")
	defer f.Close()
	if f.SetDeadline(at.Add(patience)) != nil {
		return false
	}
	if _, err := f.WriteString("GET / HTTP/1.0\r\n\r\n"); err != nil {
		return false
	}
	var buf [512]byte
	n, err := f.Read(buf[:])
	return err == nil && n > 0
}

// tally is what users saw.
type tally struct {
	Asked int     `json:"asked"`
	OK    int     `json:"ok"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Worst float64 `json:"worst_ms"`
}

// share is the share that succeeded.
func (y tally) share() float64 {
	if y.Asked == 0 {
		return 0
	}
	return float64(y.OK) / float64(y.Asked)
}

// count sums up the attempts begun in an interval.
func count(list []attempt, from, to time.Time) (y tally) {
	var took []time.Duration
	for _, a := range list {
		if a.at.Before(from) || !a.at.Before(to) {
			continue
		}
		y.Asked++
		if a.ok {
			y.OK++
			took = append(took, a.took)
		}
	}
	if len(took) == 0 {
		return y
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()/10) / 100 }
	y.P50, y.P99, y.Worst = ms(took[len(took)/2]), ms(took[len(took)*99/100]), ms(took[len(took)-1])
	return y
}

// windows is the share of success in each second of an interval. A second in
// which the machine was too busy to begin a single connection says nothing.
func windows(list []attempt, from, to time.Time) (shares []float64) {
	for ; from.Before(to); from = from.Add(time.Second) {
		y := count(list, from, from.Add(time.Second))
		if y.Asked == 0 {
			shares = append(shares, 1)
			continue
		}
		shares = append(shares, float64(int(y.share()*1000))/1000)
	}
	return shares
}

// recovery is how many seconds after the start the last window below 99 % was
// over: 0 if there was none, negative if it never was over.
func recovery(shares []float64) int {
	last := 0
	for i, s := range shares {
		if s < 0.99 {
			last = i + 1
		}
	}
	if last == len(shares) && last > 0 {
		return -1
	}
	return last
}
