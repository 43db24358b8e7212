package observe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/logsrc"
	"github.com/ctwarden/ctwarden/internal/klog"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// The tests below show, on each kernel, what check takes for granted of its
// version. They run after TestGuestLoadsNoModule, which loads the modules.

func TestGuestDefaults(t *testing.T) {
	lab.SharedLimits(t)
	h := lab.NewHost(t, "defaults")
	s := machine(t, Options{Netns: h.Path()})
	want := ct.DefaultTimeouts(s.Version)
	for k := range ct.NumTimeouts {
		is, live := s.Timeouts.Get(k)
		def, known := want.Get(k)
		switch {
		case live && !known:
			t.Errorf("%v is %d s, and said to be absent", k, is)
		case live && is != def:
			t.Errorf("%v is %d s, said to be %d", k, is, def)
		case !live && known && !strings.HasPrefix(k.String(), "dccp") && !strings.HasPrefix(k.String(), "gre"):
			t.Errorf("%v is absent, said to be %d s", k, def)
		}
	}
	// Buckets and limit: one for one since 5.15, one for four before.
	host := machine(t, Options{})
	most, buckets := host.Limits.Max.Or(0), host.Limits.Buckets.Or(0)
	if factor := map[bool]int64{true: 1, false: 4}[s.Version.AtLeast(5, 15)]; most != factor*buckets || buckets == 0 {
		t.Errorf("max %d, buckets %d, want a factor of %d", most, buckets, factor)
	}
	// Only the first namespace writes the limits: 5.12, and late 5.10.
	err := h.Do(func() error { return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_max", []byte("70000"), 0) })
	if err == nil {
		t.Error("the limit could be written in a namespace")
	}
	// No limit at all can be chosen until 7.0 or one of the next.
	err = os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_max", []byte("0"), 0)
	if restored := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_max", strconv.AppendInt(nil, most, 10), 0); restored != nil {
		t.Fatal(restored)
	}
	if refused := errors.Is(err, unix.EINVAL); refused != s.Version.AtLeast(7, 0) {
		t.Errorf("max = 0: %v", err)
	}
	for name, since := range map[ct.CounterSet]bool{ct.CounterClashResolve: s.Version.AtLeast(5, 10), ct.CounterChainTooLong: s.Version.AtLeast(5, 15)} {
		if has := s.Counters.Has&name != 0; has != since {
			t.Errorf("counter %d offered: %v", name, has)
		}
	}
}

// TestGuestChainLimit fills few buckets: from 5.15 on inserts into long chains
// are refused, from 6.1 on at 50 links and more.
func TestGuestChainLimit(t *testing.T) {
	v := machine(t, Options{}).Version
	limits := lab.ExclusiveLimits(t)
	limits.SetMax(100000)
	limits.SetBuckets(1024)
	for _, c := range []struct {
		entries int // two links each
		refused bool
	}{{6000, v.AtLeast(5, 15) && !v.AtLeast(6, 1)}, {60000, v.AtLeast(5, 15)}} {
		h := lab.NewHost(t, "chains")
		err := h.TryFill(lab.Class{Count: c.entries, Proto: ct.UDP})
		s := machine(t, Options{Netns: h.Path()})
		if got := s.Counters.ChainTooLong > 0; got != c.refused || (err != nil) != c.refused {
			t.Errorf("%d entries in 1,024 buckets: %d refused, want some: %v (%v)", c.entries, s.Counters.ChainTooLong, c.refused, err)
		}
		h.Exec("conntrack", "-F")
	}
}

// TestGuestFullTable refuses datagrams that this machine sends to itself: the
// program sees EPERM, the counter drop counts each, the log names the namespace
// from 6.17 on, and printed and suppressed lines together are all of them from
// 6.17 on, and no more before.
func TestGuestFullTable(t *testing.T) {
	v := machine(t, Options{}).Version
	limits := lab.ExclusiveLimits(t)
	h := lab.NewHost(t, "full")
	h.IP("link set lo up")
	h.Track()
	h.NFT("table inet out {\n chain out { type filter hook output priority 0; ct state new counter; }\n}")
	h.Fill(lab.Class{Count: 600, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	started := time.Now()
	if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_max", []byte("600"), 0); err != nil {
		t.Fatal(err)
	}
	defer limits.SetMax(limits.Max() * 100)
	refused := 0
	send := func(first, n int) {
		err := h.Do(func() error {
			c, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer c.Close()
			for i := range n {
				_, err := c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: first + i})
				if errors.Is(err, unix.EPERM) {
					refused++
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	send(2000, 500)
	time.Sleep(6 * time.Second) // the limiter's interval ends
	send(3000, 1)
	s := machine(t, Options{Netns: h.Path()})
	if refused != 501 || int(s.Counters.Drop) != refused {
		t.Errorf("%d of 501 sends failed with EPERM, drop is %d", refused, s.Counters.Drop)
	}
	c := klog.NewCollector(klog.Options{Now: time.Now(), Version: v})
	if blind := logsrc.Machine(context.Background(), c, logsrc.Options{Now: time.Now(), Since: started}); len(blind) > 0 {
		t.Errorf("not seen: %+v", blind)
	}
	var said []string
	for _, e := range c.Report().Episodes {
		said = append(said, fmt.Sprintf("%+v", e))
		if e.Kind != klog.TableFull || e.End.Before(started.Add(-time.Second)) {
			continue
		}
		named := e.NetnsInode == s.Netns.Inode && e.NetnsInode != 0
		exact := int(e.RefusedMax) == refused
		if named != v.AtLeast(6, 17) || e.Era == klog.EraUnknown || v.AtLeast(6, 17) && !exact || int(e.RefusedMax) > refused || int(e.RefusedMin) > refused || e.Lines < 2 {
			t.Errorf("%d refused, the log says %+v", refused, e)
		}
		return
	}
	t.Errorf("no episode of this namespace among %q", said)
}
