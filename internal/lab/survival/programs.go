package survival

import (
	"net/netip"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// What real programs ask for while the attack lasts: little, for two processors
// carry everything.
const (
	dnsPort        = 5300
	wrkConnections = 4
	wrkPause       = 200 * time.Millisecond
	digsPerSecond  = 4
)

// programs are wrk, which opens a connection for every page, and dig.
type programs struct {
	lasting time.Duration
	all     sync.WaitGroup
	web     lab.Web
	err     error
	dig     users // a list of attempts
}

// startPrograms lets them ask for a time, dig from source(i).
func startPrograms(f *field, lasting time.Duration, source func(i int) netip.Addr) *programs {
	p := &programs{lasting: lasting}
	p.all.Go(func() { p.web, p.err = f.client.WrkPaced(f.at(webPort), wrkConnections, wrkPause, patience, lasting) })
	p.all.Go(func() {
		start := time.Now()
		for i := range int(lasting/time.Second) * digsPerSecond {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / digsPerSecond)))
			p.all.Go(func() { p.dig.add(dig(f, source(i))) })
		}
	})
	return p
}

// dig asks once. Its time is that of the whole program, start and end included.
func dig(f *field, source netip.Addr) attempt {
	to := f.at(dnsPort)
	cmd := exec.Command("dig", "@"+to.Addr().String(), "-p", strconv.Itoa(int(to.Port())), "-b", source.String(),
		"+tries=1", "+time="+strconv.Itoa(int(patience/time.Second)), "+noall", "+comments", "www.example.org")
	a := attempt{at: time.Now()}
	err := f.client.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	a.took, a.ok = time.Since(a.at), err == nil
	return a
}

// stop waits until both have ended and says what they saw.
func (p *programs) stop() (web, names tally, err error) {
	p.all.Wait()
	// A connection that waits for its handshake is no error to wrk: what it would
	// have asked meanwhile counts.
	due := wrkConnections * (int(p.lasting/(wrkPause+p.web.P50)) - 1)
	web = tally{Asked: max(due, p.web.Requests+p.web.Errors), OK: p.web.Requests, P50: milliseconds(p.web.P50), P99: milliseconds(p.web.P99)}
	return web, count(p.dig.list, time.Time{}, time.Now().Add(time.Hour)), p.err
}
