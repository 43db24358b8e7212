// Package protect finds out which entries of a namespace must be spared by
// whatever shortens or removes entries: those of SSH servers and of whoever is
// logged in, of the machine itself, of its gateways and nameservers.
package protect

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"slices"

	"github.com/ctwarden/ctwarden/internal/evict"
	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
	"github.com/ctwarden/ctwarden/internal/kernel/sockdiag"
)

// Own returns the addresses of a namespace, without loopback ones.
func Own(ref string) (map[netip.Addr]bool, error) {
	self := make(map[netip.Addr]bool)
	err := netns.Do(ref, func() error {
		addrs, err := procfs.FS{}.Addresses()
		for _, a := range addrs {
			self[a] = true
		}
		return err
	})
	return self, err
}

// Fill completes a guard for a namespace whose sockets are in x and whose own
// addresses are self. sshConnection is the variable of that name, "" for none.
func Fill(g *evict.Guard, ref string, x *sockdiag.Index, self map[netip.Addr]bool, sshConnection string) error {
	x.AddSSH(sshConnection)
	g.IsSSH = x.SSH
	g.SSHPeers = addrSet(x.SSHPeers())
	if ref != "" {
		// Who is logged in on the host may pass through this namespace.
		if host, err := sockdiag.Open(""); err == nil {
			for _, a := range host.SSHPeers() {
				g.SSHPeers[a] = true
			}
		}
	}
	g.Self = self
	return netns.Do(ref, func() error {
		gateways, err := procfs.FS{}.Gateways()
		if err != nil {
			return err
		}
		g.Gateways = addrSet(gateways)
		nameservers, err := procfs.FS{}.Nameservers(ref)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // without a resolv.conf(5) there is none but this machine
		}
		g.Nameservers = addrSet(nameservers)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // then the resolver asks this machine: resolv.conf(5)
		}
		return err
	})
}

// Addresses are all addresses that a guard goes by, each once.
func Addresses(g *evict.Guard) []netip.Addr {
	all := make(map[netip.Addr]bool)
	for _, set := range []map[netip.Addr]bool{g.SSHPeers, g.Self, g.Gateways, g.Nameservers} {
		maps.Copy(all, set)
	}
	return slices.SortedFunc(maps.Keys(all), netip.Addr.Compare)
}

func addrSet(list []netip.Addr) map[netip.Addr]bool {
	set := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		if !a.IsLoopback() {
			set[a] = true
		}
	}
	return set
}
