package sysctl

import (
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

func TestConntrackOfOldAndNewKernels(t *testing.T) {
	for _, prefix := range []string{modern, classic} {
		tr := tree(t, map[string]string{
			prefix + "max": "65536", prefix + "count": "12", prefix + "buckets": "16384",
			prefix + "tcp_timeout_established": "432000", prefix + "tcp_loose": "3",
			prefix + "udp_timeout": "-1", "net.ipv4.tcp_keepalive_time": "7200",
			"net.core.message_cost": "5",
		})
		s, err := tr.Conntrack()
		if err != nil {
			t.Fatal(err)
		}
		if s.Limits.Max != ct.Known(65536) || s.Limits.Count != ct.Known(12) || s.Limits.MaxWritable != ct.Yes {
			t.Errorf("limits %+v", s.Limits)
		}
		if n, ok := s.Timeouts.Get(ct.TimeoutTCPEstablished); n != 432000 || !ok {
			t.Errorf("established %d %v", n, ok)
		}
		if n, ok := s.Timeouts.Get(ct.TimeoutUDP); n != -1 || !ok {
			t.Errorf("a negative timeout reads %d %v", n, ok)
		}
		if s.Knobs.TCPLoose != ct.Known(3) || s.Knobs.TCPKeepaliveTime != ct.Known(7200) || s.Knobs.MessageBurst.Known {
			t.Errorf("knobs %+v", s.Knobs)
		}
	}
}

func TestTodaysNameWins(t *testing.T) {
	s, err := Interpret(map[string]string{Max: "1", classicMax: "2", modernMax: "3"})
	if s.Limits.Max != ct.Known(1) || err != nil {
		t.Errorf("max %v, %v", s.Limits.Max, err)
	}
}

func TestOutOfRangeIsTold(t *testing.T) {
	s, err := Interpret(map[string]string{
		modern + "udp_timeout": "4294967296", modern + "icmp_timeout": "thirty",
		modern + "from_the_future": "?", Max: "-1",
	})
	if err == nil || strings.Contains(err.Error(), "future") {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{"udp_timeout", "icmp_timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %s", err, want)
		}
	}
	if s.Limits.Max != ct.Known(-1) {
		t.Errorf("max %v", s.Limits.Max)
	}
}
