package scene

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/lab"
)

// Growth is (e): a server with ever more clients, each of which keeps its
// connection and uses it. Nobody is to blame; the table is too small.
func Growth(t testing.TB) *Scene {
	t.Helper()
	limits := full(t)
	p := lab.Server(t)
	const most = 3000 // two file descriptors for each connection
	limits.SetMax(most)
	s := &Scene{t: t, Host: p.Server, Limits: limits, Target: netip.AddrPortFrom(p.Server.Addr4, 443)}
	p.Server.ServeTCP(443, lab.Echo)
	early, err := p.Client.Connect(t.Context(), s.Target, p.Client.Sources4, most-100)
	if err != nil {
		t.Fatalf("scene: %v", err)
	}
	talk := lab.Go(t, func(ctx context.Context) (lab.Moved, error) { return lab.Chat(ctx, early, 2*time.Second) })
	grow := lab.Go(t, func(ctx context.Context) (Tally, error) {
		return growOn(ctx, p.Client, s.Target, len(early))
	})
	s.stop = func() Tally {
		talk.Stop()
		g := grow.Stop()
		return Tally{Begun: len(early) + g.Begun, Done: len(early) + g.Done}
	}
	s.awaitRefusals()
	return s
}

// growOn opens some fifty more connections a second, the table allowing, and
// keeps each in use.
func growOn(ctx context.Context, client *lab.Host, target netip.AddrPort, first int) (Tally, error) {
	var tally Tally
	var mu sync.Mutex
	var talking sync.WaitGroup
	defer talking.Wait()
	for i := first; ctx.Err() == nil && tally.Begun < 3000; i++ {
		tally.Begun++
		talking.Go(func() {
			c, err := client.Dial(ctx, target, lab.Nth(client.Sources4, uint32(i)), time.Second)
			if err != nil {
				return // refused: the table is full
			}
			mu.Lock()
			tally.Done++
			mu.Unlock()
			_, _ = lab.Chat(ctx, []net.Conn{c}, 2*time.Second)
			c.Close()
		})
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	talking.Wait()
	return tally, nil
}
