package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/kernel/netns"
)

// The limits are one number for the whole machine and can only be written in
// the initial namespace, so one lock guards them for every process.
const (
	lockPath = "/run/lock/ctwarden-lab.lock"
	// turnPath is held by whoever waits for the lock, so that a stream of
	// shared holders cannot keep an exclusive one waiting for ever.
	turnPath    = "/run/lock/ctwarden-lab.turn"
	journalPath = "/run/lock/ctwarden-lab.journal"
	bucketsPath = "/proc/sys/net/netfilter/nf_conntrack_buckets"

	lockPatience = 20 * time.Minute
)

// Limits is the right to change the global limits, held until the test ends.
type Limits struct {
	t        testing.TB
	original limitValues
	changed  bool
}

type limitValues struct {
	Max     int `json:"max"`
	Buckets int `json:"buckets"`
}

// journal is what a killed run leaves for the next one.
type journal struct {
	owner
	BootID string `json:"boot_id"`
	limitValues
}

// SharedLimits holds the global limits still until the test ends: nobody else
// changes them, others may hold them too.
func SharedLimits(t testing.TB) {
	t.Helper()
	lock(t, unix.LOCK_SH)
}

// ExclusiveLimits waits until nobody else relies on the global limits and
// returns the right to change them. They are restored when the test ends, or
// by the next run if the process is killed. Take it before the namespaces are
// made: they then go away before the limits come down.
func ExclusiveLimits(t testing.TB) *Limits {
	t.Helper()
	lock(t, unix.LOCK_EX)
	now, err := readLimits()
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	l := &Limits{t: t, original: now}
	t.Cleanup(l.restore)
	return l
}

// Within is the same right for a part of the test that holds it. What the part
// changes is put back when the part ends.
func (l *Limits) Within(t testing.TB) *Limits {
	t.Helper()
	part := &Limits{t: t, original: l.read()}
	t.Cleanup(part.restore)
	return part
}

// Max is the number of entries that each namespace may hold.
func (l *Limits) Max() int {
	l.t.Helper()
	return l.read().Max
}

// Buckets is the size of the hash table.
func (l *Limits) Buckets() int {
	l.t.Helper()
	return l.read().Buckets
}

func (l *Limits) read() limitValues {
	l.t.Helper()
	v, err := readLimits()
	if err != nil {
		l.t.Fatalf("lab: %v", err)
	}
	return v
}

// SetMax writes nf_conntrack_max. It refuses a value that a namespace of the
// laboratory, or the machine's own, already fills to five sixths: the kernel
// would then refuse connections that no test meant.
func (l *Limits) SetMax(n int) {
	l.t.Helper()
	if err := l.set(maxPath, n); err != nil {
		l.t.Fatalf("lab: set max to %d: %v", n, err)
	}
}

// SetBuckets writes nf_conntrack_buckets and returns the value that the kernel
// made of it: it rounds up to whole pages, 512 buckets each.
func (l *Limits) SetBuckets(n int) int {
	l.t.Helper()
	if err := l.set(bucketsPath, n); err != nil {
		l.t.Fatalf("lab: set buckets to %d: %v", n, err)
	}
	return l.Buckets()
}

func (l *Limits) set(path string, n int) error {
	if n <= 0 {
		return errors.New("not a positive number; zero would mean no limit")
	}
	if !l.changed {
		if err := writeJournal(l.original); err != nil {
			return err
		}
		l.changed = true
	}
	if path == maxPath {
		if err := awaitRoomBelow(n); err != nil {
			return err
		}
	}
	return writeNumber(path, n)
}

func (l *Limits) restore() {
	if !l.changed {
		return
	}
	if err := restoreLimits(l.original); err != nil {
		l.t.Errorf("lab: %v", err)
	}
}

// restoreLimits writes the limits back, in the order in which the table is
// never short of buckets, and forgets the journal.
func restoreLimits(want limitValues) error {
	now, err := readLimits()
	if err != nil {
		return err
	}
	type write struct {
		path string
		n    int
	}
	order := []write{{bucketsPath, want.Buckets}, {maxPath, want.Max}}
	if want.Max < now.Max {
		if err := roomBelow(want.Max); err != nil {
			return fmt.Errorf("restore max: %w", err)
		}
		order[0], order[1] = order[1], order[0]
	}
	for _, w := range order {
		if err := writeNumber(w.path, w.n); err != nil {
			return fmt.Errorf("restore limits: %w", err)
		}
	}
	return os.Remove(journalPath)
}

// recoverLimits restores what a killed run has changed. Without a journal, and
// while the run that wrote it lives, there is nothing to do.
func recoverLimits() error {
	j, err := readJournal()
	if err != nil || j == nil || j.alive() {
		return err
	}
	release, err := acquire(unix.LOCK_EX, time.Now().Add(lockPatience))
	if err != nil {
		return err
	}
	defer release()
	return recoverLocked()
}

// recoverLocked is recoverLimits for who holds the lock alone: whoever wrote a
// journal that is still there is then gone.
func recoverLocked() error {
	j, err := readJournal()
	if err != nil || j == nil {
		return err
	}
	if j.BootID != bootID() {
		return os.Remove(journalPath)
	}
	return restoreLimits(j.limitValues)
}

var held sync.Map // name of a test → mode of the lock that it holds

func lock(t testing.TB, mode int) {
	t.Helper()
	if holdsLimits(t.Name()) {
		t.Fatal("lab: this test holds the limits already; taking them twice would wait for ever")
	}
	held.Store(t.Name(), mode)
	asked := time.Now()
	release, err := acquire(mode, asked.Add(lockPatience))
	if err != nil {
		held.Delete(t.Name())
		t.Fatalf("lab: %v", err)
	}
	if waited := time.Since(asked); waited > time.Second {
		t.Logf("lab: waited %v for others to let go of the limits", waited.Round(time.Second))
	}
	t.Cleanup(func() {
		removeHostsOf(t) // whose entries the next holder's limits might not fit
		release()
		held.Delete(t.Name())
	})
}

// holdsLimits reports whether a test, or one that it is part of, has the lock.
func holdsLimits(name string) bool {
	for {
		if _, ok := held.Load(name); ok {
			return true
		}
		parent, _, ok := cutLast(name, "/")
		if !ok {
			return false
		}
		name = parent
	}
}

// acquire takes the lock, after putting right what a killed holder left.
func acquire(mode int, deadline time.Time) (release func(), err error) {
	if err := os.MkdirAll(filepath.Dir(lockPath), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the lock: %w", err)
	}
	turn, err := flock(turnPath, unix.LOCK_EX, deadline)
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	for {
		f, err := flock(lockPath, mode, deadline)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(journalPath); errors.Is(err, fs.ErrNotExist) {
			return func() { f.Close() }, nil
		}
		if mode == unix.LOCK_EX {
			if err := recoverLocked(); err != nil {
				f.Close()
				return nil, err
			}
			return func() { f.Close() }, nil
		}
		f.Close()
		if err := recoverAlone(deadline); err != nil {
			return nil, err
		}
	}
}

func recoverAlone(deadline time.Time) error {
	f, err := flock(lockPath, unix.LOCK_EX, deadline)
	if err != nil {
		return err
	}
	defer f.Close()
	return recoverLocked()
}

// flock opens a file and locks it. It asks again and again rather than wait in
// the kernel, where no deadline would reach it.
func flock(path string, mode int, deadline time.Time) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), mode|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func writeJournal(v limitValues) error {
	b, err := json.Marshal(journal{owner: self(), BootID: bootID(), limitValues: v})
	if err != nil {
		return fmt.Errorf("journal of the limits: %w", err)
	}
	f, err := os.OpenFile(journalPath+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("journal of the limits: %w", err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("journal of the limits: %w", err)
	}
	return os.Rename(journalPath+".new", journalPath)
}

func readJournal() (*journal, error) {
	b, err := os.ReadFile(journalPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal of the limits: %w", err)
	}
	j := new(journal)
	if err := json.Unmarshal(b, j); err != nil {
		return nil, fmt.Errorf("journal of the limits %s: %w", journalPath, err)
	}
	if j.Max <= 0 || j.Buckets <= 0 {
		return nil, fmt.Errorf("journal of the limits %s: max %d and buckets %d make no sense", journalPath, j.Max, j.Buckets)
	}
	return j, nil
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// awaitRoomBelow waits a while for others to remove namespaces too full for a
// max of n.
func awaitRoomBelow(n int) error {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if err := roomBelow(n); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// roomBelow fails if a namespace of the laboratory, or the initial one, holds
// so many entries that a max of n would leave it less than a fifth of room.
// Others that fill a table of their own meanwhile hold the lock.
func roomBelow(n int) error {
	names, err := namespaceNames()
	if err != nil {
		return err
	}
	for _, name := range append(names, "") {
		if _, ours := ownerOf(name); !ours && name != "" {
			continue
		}
		count, err := countOf(name)
		if err == nil && count > n*5/6 {
			return fmt.Errorf("namespace %q holds %d entries", name, count)
		}
	}
	return nil
}

// countOf reads the count of a named namespace, of this one if name is "".
func countOf(name string) (count int, err error) {
	const path = "/proc/sys/net/netfilter/nf_conntrack_count"
	if name == "" {
		return readNumber(path)
	}
	err = netns.Do(filepath.Join(netnsDir, name), func() (err error) {
		count, err = readNumber(path)
		return err
	})
	return count, err
}

func readLimits() (v limitValues, err error) {
	if v.Max, err = readNumber(maxPath); err != nil {
		return v, err
	}
	v.Buckets, err = readNumber(bucketsPath)
	return v, err
}

func readNumber(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// writeNumber leaves a value alone that is right already: writing the number
// of buckets would rehash the table.
func writeNumber(path string, n int) error {
	if now, err := readNumber(path); err == nil && now == n {
		return nil
	}
	return os.WriteFile(path, []byte(strconv.Itoa(n)), 0)
}
