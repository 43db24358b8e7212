package sockdiag

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// OpenSSH builds an index that knows the connections of SSH servers and nothing
// else. It looks into the processes of such servers only, so it is cheap on a
// machine with many sockets and may be built again and again.
func OpenSSH(ref string) (*Index, error) {
	socks, err := List(ref)
	if err != nil {
		return nil, err
	}
	procs, err := sshProcesses("/proc")
	if err != nil {
		return nil, err
	}
	return NewIndex(sshSockets(socks, procs), procs), nil
}

// sshSockets keeps the sockets from which findSSH can learn.
func sshSockets(socks []Socket, procs map[uint32]Process) []Socket {
	ports := make(map[uint16]bool)
	for _, s := range socks {
		if _, held := procs[s.Inode]; held && s.Proto == ct.TCP && s.State == Listen {
			ports[s.Local.Port()] = true
		}
	}
	kept := socks[:0]
	for _, s := range socks {
		if _, held := procs[s.Inode]; held || s.Proto == ct.TCP && ports[s.Local.Port()] {
			kept = append(kept, s)
		}
	}
	return kept
}

func sshProcesses(proc string) (map[uint32]Process, error) {
	names, err := readNames(proc)
	if err != nil {
		return nil, err
	}
	found := make(map[uint32]Process)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, name)
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err == nil && isSSHServer(strings.TrimSpace(string(comm))) {
			addProcess(found, dir, pid)
		}
	}
	return found, nil
}
