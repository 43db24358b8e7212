package tune

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Role is what a machine does; it decides floors and habits.
type Role string

// Roles.
const (
	RoleAuto       Role = ""
	RoleServer     Role = "server"
	RoleGateway    Role = "gateway"
	RoleDocker     Role = "docker"
	RoleKubernetes Role = "kubernetes-node"
	RoleDNS        Role = "dns"
	RoleBalancer   Role = "load-balancer"
	RoleGame       Role = "game"
)

// Roles lists the roles by name.
var Roles = []Role{RoleServer, RoleGateway, RoleDocker, RoleKubernetes, RoleDNS, RoleBalancer, RoleGame}

// ParseRole reads a role; "auto" and "" let the plan find out.
func ParseRole(name string) (Role, error) {
	if name == "auto" || name == "" {
		return RoleAuto, nil
	}
	if r := Role(name); slices.Contains(Roles, r) {
		return r, nil
	}
	return "", fmt.Errorf("unknown role %q: one of auto, %s", name, joinRoles())
}

func joinRoles() string {
	names := make([]string, len(Roles))
	for i, r := range Roles {
		names[i] = string(r)
	}
	return strings.Join(names, ", ")
}

// title names a machine of the role, in a sentence.
func (r Role) title() string {
	switch r {
	case RoleDocker:
		return "a Docker host"
	case RoleKubernetes:
		return "a Kubernetes node"
	case RoleDNS:
		return "a DNS server"
	case RoleBalancer:
		return "a load balancer"
	case RoleGame:
		return "a game server"
	}
	return "a " + string(r)
}

// roleOf settles the role. Where NAT cannot be ruled out the machine counts as
// a gateway, whose entries must not be lost.
func roleOf(s *ct.Snapshot, asked Role) (Role, string) {
	if asked != RoleAuto {
		return asked, "as asked"
	}
	rules := strings.ToLower(strings.Join(append(slices.Clone(s.Tracking.NATRules), s.Tracking.Users...), "\n"))
	switch {
	case strings.Contains(rules, "kube-"):
		return RoleKubernetes, "the rules are kube-proxy's"
	case strings.Contains(rules, "docker"):
		return RoleDocker, "the rules are Docker's"
	case s.Tracking.NAT == ct.Yes:
		return RoleGateway, "the rules translate addresses"
	case s.Tracking.NAT == ct.Unknown:
		return RoleGateway, "whether the rules translate addresses could not be told, so the careful case is taken"
	case dnsShare(s) > 0.5:
		return RoleDNS, "most entries go to port 53"
	}
	return RoleServer, "no rule translates addresses"
}

func dnsShare(s *ct.Snapshot) float64 {
	if s.Census == nil {
		return 0
	}
	for _, h := range s.Census.Ports {
		if h.Port == 53 && h.Proto == ct.UDP {
			return s.Census.Share(h.Entries)
		}
	}
	return 0
}

// translates reports whether entries of this role may carry a translation that
// nothing can bring back.
func (r Role) translates() bool {
	return r == RoleGateway || r == RoleDocker || r == RoleKubernetes
}
