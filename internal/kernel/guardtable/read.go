package guardtable

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Intact returns nil where our table is as we left it, ErrGone where it is no
// more, or ErrChanged.
func (t *Table) Intact() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sock == nil {
		return ErrClosed
	}
	return t.intact()
}

func (t *Table) intact() error {
	is, err := t.sock.look(Name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return ErrGone
	case err != nil:
		return fmt.Errorf("read table inet %s: %w", Name, err)
	case is.handle != t.handle:
		return fmt.Errorf("%w: another stands in its place", ErrGone)
	case !t.persistent && is.owner != t.port:
		return fmt.Errorf("%w: it has another owner", ErrChanged)
	case !t.persistent:
		return nil
	}
	now, err := t.sock.fingerprint(Name)
	if err == nil && now != t.print {
		err = ErrChanged
	}
	return err
}

// Dropped returns how many packets our rules have dropped since Open.
func (t *Table) Dropped() (packets uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sock == nil {
		return 0, ErrClosed
	}
	n, err := t.counter(counterName)
	if errors.Is(err, unix.ENOENT) {
		err = ErrGone
	}
	if err != nil {
		return 0, fmt.Errorf("read the counter of dropped packets: %w", err)
	}
	return t.dropped + n, nil
}

func (t *Table) counter(name string) (packets uint64, err error) {
	body := parts{table: Name}.object(name, objCounter)
	err = t.sock.ask(unix.NFT_MSG_GETOBJ, inet, 0, body, func(a attrs) { packets = counterPackets(a) })
	return packets, err
}

// facts are what the kernel says of a table.
type facts struct {
	handle uint64
	owner  uint32 // the socket's address, 0 for none
}

// look reads a table; the error is unix.ENOENT where there is none.
func (s *socket) look(table string) (f facts, err error) {
	body := attrs(nil).text(unix.NFTA_TABLE_NAME, table)
	answered := false
	err = s.ask(unix.NFT_MSG_GETTABLE, inet, 0, body, func(a attrs) {
		answered = true
		f.handle, _ = a.number(tableHandle)
		owner, _ := a.number(tableOwner)
		f.owner = uint32(owner)
	})
	if err == nil && (!answered || f.handle == 0) {
		err = ErrMalformed
	}
	return f, err
}

// fingerprint writes down all parts of a table by name and handle, those of
// which have one that changes with them.
func (s *socket) fingerprint(table string) (string, error) {
	var list []string
	for _, kind := range []struct {
		msg                 uint16
		of                  uint16 // the attribute that names the table
		name, handle, other uint16
	}{
		{unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_POLICY},
		{unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_HANDLE, 0},
		{unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME, setHandle, unix.NFTA_SET_FLAGS},
		{unix.NFT_MSG_GETOBJ, unix.NFTA_OBJ_TABLE, unix.NFTA_OBJ_NAME, objHandle, unix.NFTA_OBJ_TYPE},
	} {
		body := attrs(nil).text(kind.of, table)
		err := s.ask(kind.msg, inet, unix.NLM_F_DUMP, body, func(a attrs) {
			if a.string(kind.of) == table {
				list = append(list, fmt.Sprintf("%d %s %x %x", kind.msg, a.string(kind.name), a.get(kind.handle), a.get(kind.other)))
			}
		})
		if err != nil {
			return "", fmt.Errorf("read table inet %s: %w", table, err)
		}
	}
	slices.Sort(list)
	return strings.Join(list, "\n"), nil
}

const (
	setHandle = 16 // NFTA_SET_HANDLE
	objHandle = 6  // NFTA_OBJ_HANDLE
)
