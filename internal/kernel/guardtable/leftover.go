package guardtable

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/kernel/netns"
	"github.com/ctwarden/ctwarden/internal/kernel/procfs"
)

// Remove removes what a guard that ended has left in a namespace, on kernels
// before 5.12, and reports whether there was something. It returns ErrTaken
// where the table belongs to a guard that runs or to somebody else. It loads
// no module.
func Remove(ref string) (found bool, err error) {
	mods, err := procfs.FS{}.Modules()
	if err != nil {
		return false, err
	}
	if !mods.Monolithic() && !mods.State("nf_tables", "nft_do_chain").Present() {
		return false, nil
	}
	var s *socket
	if err := netns.Do(ref, func() (err error) { s, err = dial(); return err }); err != nil {
		return false, err
	}
	defer s.close()
	handle, err := s.leftover()
	if err != nil || handle == 0 {
		return false, err
	}
	p := parts{&batch{}, Name}
	p.deleteTable(handle)
	if err := s.commit(p.batch, false); err != nil {
		return true, fmt.Errorf("remove table inet %s: %w", Name, err)
	}
	return true, nil
}

// markPrefix begins the name of the chain that tells whose a persistent table
// is.
const markPrefix = "owner_"

// mark names the chain that marks a table as made by this process: by its PID
// namespace, its PID there, and when it started.
func mark() string {
	ns, _ := pidNamespace()
	start, _ := started(os.Getpid())
	return fmt.Sprintf("%s%d_%d_%d", markPrefix, ns, os.Getpid(), start)
}

// leftover returns the handle of a table that a process which has ended made,
// 0 where there is no table of our name, or ErrTaken.
func (s *socket) leftover() (handle uint64, err error) {
	is, err := s.look(Name)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return 0, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil {
		return 0, err
	}
	if is.owner != 0 {
		return 0, fmt.Errorf("%w: its owner runs", ErrTaken)
	}
	var chains []string
	err = s.ask(unix.NFT_MSG_GETCHAIN, inet, unix.NLM_F_DUMP, nil, func(a attrs) {
		if name := a.string(unix.NFTA_CHAIN_NAME); a.string(unix.NFTA_CHAIN_TABLE) == Name && strings.HasPrefix(name, markPrefix) {
			chains = append(chains, name)
		}
	})
	if err != nil {
		return 0, err
	}
	if len(chains) != 1 {
		return 0, fmt.Errorf("%w: no guard has made it", ErrTaken)
	}
	if err := ended(chains[0]); err != nil {
		return 0, err
	}
	return is.handle, nil
}

// ended returns nil where the process that a mark tells of has ended.
func ended(name string) error {
	var ns, start uint64
	var pid int
	if n, err := fmt.Sscanf(name, markPrefix+"%d_%d_%d", &ns, &pid, &start); n != 3 || err != nil || pid < 1 {
		return fmt.Errorf("%w: no guard has made it", ErrTaken)
	}
	here, err := pidNamespace()
	if err != nil {
		return err
	}
	if here != ns {
		return fmt.Errorf("%w: a guard of another PID namespace made it; if that has ended, nft delete table inet %s", ErrTaken, Name)
	}
	now, err := started(pid)
	if err == nil && now == start {
		return fmt.Errorf("%w: the guard with PID %d runs", ErrTaken, pid)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

func pidNamespace() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: "/proc/self/ns/pid", Err: err}
	}
	return st.Ino, nil
}

// started returns when a process started, in clock ticks since the machine
// did: field 22 of /proc/PID/stat. One that has ended and waits for its parent
// does not exist; its sockets are closed.
func started(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may contain anything.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	const at = 22 - 3
	if len(f) <= at {
		return 0, fmt.Errorf("/proc/%d/stat: %w", pid, ErrMalformed)
	}
	if f[0][0] == 'Z' || f[0][0] == 'X' {
		return 0, os.ErrNotExist
	}
	return strconv.ParseUint(string(f[at]), 10, 64)
}
