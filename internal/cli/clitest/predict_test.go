package clitest

import (
	"context"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/observe"
	"github.com/ctwarden/ctwarden/internal/tune"
)

// TestPredictionsHold: the occupancy that a plan predicts from a few seconds
// of each workload is what the kernel then shows, within a tenth.
func TestPredictionsHold(t *testing.T) {
	lab.Require(t)
	if testing.Short() {
		t.Skip("takes minutes")
	}
	lab.ExclusiveLimits(t)
	const per = 300
	load := lab.Load{Packets: 60_000, PerSecond: per, Duration: 117 * time.Second}
	// The garbage collector's pace goes by the entries of all namespaces: with
	// enough long-lived ones a pass comes every 60 s. The work begins after one.
	const elsewhere = 60_000
	neighbour := lab.NewHost(t, "neighbour")
	neighbour.Fill(lab.Class{Count: elsewhere, Proto: ct.TCP, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	awaitPass(t, neighbour)
	awaitPass(t, neighbour)
	type work func(ctx context.Context, p *lab.Pair) error
	for _, w := range []struct {
		name    string
		timeout ct.TimeoutKey
		run     work
	}{
		{"short TCP connections", ct.TimeoutTCPTimeWait, func(ctx context.Context, p *lab.Pair) error {
			_, err := p.Client.TCPChurn(ctx, netip.AddrPortFrom(p.Server.Addr4, 7), p.Client.Sources4, load)
			return err
		}},
		{"questions to a resolver", ct.TimeoutUDP, func(ctx context.Context, p *lab.Pair) error {
			_, err := p.Client.DNSChurn(ctx, netip.AddrPortFrom(p.Server.Addr4, 53), p.Client.Sources4, load)
			return err
		}},
		{"SYNs without an end", ct.TimeoutTCPSynRecv, func(ctx context.Context, p *lab.Pair) error {
			_, err := p.Client.SYNFlood(ctx, netip.AddrPortFrom(p.Server.Addr4, 7), p.Client.Spoof4, load)
			return err
		}},
		{"pings", ct.TimeoutICMP, func(ctx context.Context, p *lab.Pair) error {
			_, err := p.Client.Ping(ctx, p.Server.Addr4, p.Client.Sources4, load)
			return err
		}},
		{"UDP that nobody answers", ct.TimeoutUDP, func(ctx context.Context, p *lab.Pair) error {
			_, err := p.Client.UDPFlood(ctx, netip.AddrPortFrom(p.Server.Addr4, 9), p.Client.Sources4, 32, load)
			return err
		}},
	} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			p := lab.Server(t)
			p.Server.ServeDNS(53)
			p.Server.ServeTCP(7, lab.Echo)
			p.Server.SetSysctl("net.ipv4.icmp_ratelimit", "0")
			p.Server.SetSysctl(tune.TimeoutSetting(w.timeout), "20")
			job := lab.Go(t, func(ctx context.Context) (struct{}, error) { return struct{}{}, w.run(ctx, p) })
			time.Sleep(4 * time.Second)
			s, err := observe.Machine(t.Context(), observe.Options{Netns: p.Server.Name, Observe: 6 * time.Second, Full: true})
			if err != nil {
				t.Fatal(err)
			}
			plan, err := tune.New(s, tune.Options{For: tune.RoleServer, OtherEntries: elsewhere})
			if err != nil {
				t.Fatal(err)
			}
			d := plan.Demand
			if math.Abs(d.NewPerSecond-per) > 0.1*per {
				t.Errorf("it sees %.0f new a second, offered are %d", d.NewPerSecond, per)
			}
			// What the plan doubles for the peak of a day stays the same here.
			predicted := d.PeakBefore / tune.PeakFactor
			highest := 0
			for end := time.Now().Add(104 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
				highest = max(highest, p.Server.Count())
			}
			job.Stop()
			t.Logf("predicted %.0f (%.0f/s, lag %.1f s), highest %d: %+.1f %%", predicted, d.NewPerSecond, d.LagBeforeSeconds,
				highest, 100*(predicted/float64(highest)-1))
			if math.Abs(predicted-float64(highest)) > 0.1*float64(highest) {
				t.Errorf("predicted %.0f, highest %d", predicted, highest)
			}
		})
	}
}

// awaitPass waits for a pass of the garbage collector: entries whose second is
// over go on counting until then.
func awaitPass(t *testing.T, h *lab.Host) {
	t.Helper()
	before := h.Count()
	h.Fill(lab.Class{Count: 50, Proto: ct.UDP, TimeoutSeconds: 1})
	within(t, 3*time.Minute, "a pass of the garbage collector", func() bool { return h.Count() < before+25 })
}
