package tune

import (
	"testing"

	"github.com/ctwarden/ctwarden/ct"
)

// TestRoles: what a machine does decides which timeouts may be shortened, and
// how far.
func TestRoles(t *testing.T) {
	const none = ""
	full := func() *ct.Snapshot {
		s := withCensus(machine("6.18.44"),
			class(ct.TCP, ct.TCPTimeWait, true, true, 60_000),
			class(ct.TCP, ct.TCPSynRecv, false, true, 50_000),
			class(ct.UDP, 0, false, true, 60_000),
			class(ct.UDP, 0, true, true, 60_000))
		s.Timeouts.Set(ct.TimeoutUDPStream, 180)
		return s
	}
	for _, tt := range []struct {
		role                             Role
		timeWait, synRecv, udp, streamed string
	}{
		{RoleServer, "30", "30", none, "120"},
		{RoleGateway, none, none, none, "120"},
		{RoleDocker, "30", "30", none, "120"},
		{RoleKubernetes, "30", "30", none, "120"},
		{RoleDNS, "30", "30", "15", "30"},
		{RoleBalancer, "30", "30", none, none},
		{RoleGame, "30", "30", none, none},
	} {
		t.Run(string(tt.role), func(t *testing.T) {
			p, err := New(full(), Options{For: tt.role})
			if err != nil {
				t.Fatal(err)
			}
			for k, want := range map[ct.TimeoutKey]string{ct.TimeoutTCPTimeWait: tt.timeWait, ct.TimeoutTCPSynRecv: tt.synRecv,
				ct.TimeoutUDP: tt.udp, ct.TimeoutUDPStream: tt.streamed} {
				got := none
				if it := item(p, TimeoutSetting(k)); it != nil {
					got = it.To
				}
				if got != want {
					t.Errorf("%s: %q, want %q", k, got, want)
				}
			}
		})
	}
}

// TestRoleIsFoundOut: auto takes the careful case where it cannot tell.
func TestRoleIsFoundOut(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(s *ct.Snapshot)
		want Role
	}{
		{"no translation", func(*ct.Snapshot) {}, RoleServer},
		{"masquerading", func(s *ct.Snapshot) { s.Tracking.NAT = ct.Yes }, RoleGateway},
		{"unread rules", func(s *ct.Snapshot) { s.Tracking.NAT = ct.Unknown }, RoleGateway},
		{"Docker", func(s *ct.Snapshot) {
			s.Tracking.NAT, s.Tracking.NATRules = ct.Yes, []string{"iptables nat DOCKER: DNAT"}
		}, RoleDocker},
		{"kube-proxy", func(s *ct.Snapshot) { s.Tracking.NATRules = []string{"iptables nat KUBE-SERVICES: DNAT"} }, RoleKubernetes},
		{"resolver", func(s *ct.Snapshot) {
			withCensus(s, class(ct.UDP, 0, false, true, 1000))
			s.Census.Ports = []ct.Heavy{{Proto: ct.UDP, Port: 53, Entries: 900}}
		}, RoleDNS},
	} {
		s := machine("6.18.44")
		tt.set(s)
		if p, err := New(s, Options{}); err != nil || p.Role != tt.want || p.RoleWhy == "" {
			t.Errorf("%s: %v (%s), %v; want %s", tt.name, p.Role, p.RoleWhy, err, tt.want)
		}
	}
	for _, r := range append([]Role{RoleAuto, "auto"}, Roles...) {
		if _, err := ParseRole(string(r)); err != nil {
			t.Error(err)
		}
	}
	if _, err := ParseRole("toaster"); err == nil {
		t.Error("a toaster is a role")
	}
}
