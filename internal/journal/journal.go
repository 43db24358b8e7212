package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/internal/kernel/disk"
)

// Names below the journal's directory.
const (
	fileName = "journal.jsonl"
	lockName = "lock"
	sideDir  = "entries"
)

// Errors on which callers decide.
var (
	ErrNewer   = errors.New("the journal was written by a later version of ctwarden")
	ErrUnknown = errors.New("no such operation in the journal")
	ErrFinal   = errors.New("the operation is already finished")
)

// Journal is a journal on disk. It holds no lock and no descriptor between
// calls, so that one process may keep it for weeks while others write.
type Journal struct {
	fs  disk.FS
	dir string
	opt Options
}

// Options of a journal. The zero value but for Now is usable.
type Options struct {
	Now func() time.Time
	// MaxBytes bounds the file, 1 MiB if 0. Beyond it, finished operations are
	// dropped, oldest first; open ones stay whatever it costs.
	MaxBytes int64
	// LockWait is how long to wait for another process, 10 s if 0.
	LockWait time.Duration
	// Warn hears of damage that was found and healed; may be nil.
	Warn func(string)
}

// New returns the journal of a directory. It touches nothing yet.
func New(fsys disk.FS, dir string, o Options) *Journal {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 20
	}
	if o.LockWait == 0 {
		o.LockWait = 10 * time.Second
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	return &Journal{fs: fsys, dir: dir, opt: o}
}

// Dir returns the journal's directory.
func (j *Journal) Dir() string { return j.dir }

func (j *Journal) path() string { return filepath.Join(j.dir, fileName) }

// Read returns what the journal says now, without lock and without changing
// anything. A journal that does not exist is empty.
func (j *Journal) Read() (*Log, error) {
	data, err := j.fs.ReadFile(j.path())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read journal %q: %w", j.path(), err)
	}
	return Parse(data), nil
}

// Do runs f while no other process can write the journal. It makes the
// directory and heals a half-written end first. disk.ErrLocked is returned if
// the lock could not be had in time.
func (j *Journal) Do(ctx context.Context, f func(*Tx) error) (err error) {
	if err := j.fs.MkdirAll(j.dir, 0o700); err != nil {
		return fmt.Errorf("make state directory %q: %w", j.dir, err)
	}
	lock, err := j.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	tx, err := j.begin()
	if err != nil {
		return err
	}
	return errors.Join(f(tx), tx.close())
}

func (j *Journal) lock(ctx context.Context) (io.Closer, error) {
	path := filepath.Join(j.dir, lockName)
	ctx, cancel := context.WithTimeout(ctx, j.opt.LockWait)
	defer cancel()
	for {
		l, err := j.fs.Lock(path)
		if err == nil || !errors.Is(err, disk.ErrLocked) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (j *Journal) begin() (*Tx, error) {
	log, err := j.Read()
	if err != nil {
		return nil, err
	}
	if log.Newer > 0 {
		return nil, fmt.Errorf("%q: %w", j.path(), ErrNewer)
	}
	tx := &Tx{j: j, log: log, size: log.good}
	if log.Damaged > 0 {
		j.opt.Warn(fmt.Sprintf("journal %q: %d damaged lines passed over", j.path(), log.Damaged))
	}
	if err := tx.heal(); err != nil {
		// What needs no record can be done all the same: a trial is taken back
		// on a disk that has become read-only, too.
		j.opt.Warn(err.Error())
		tx.broken = err
	}
	return tx, nil
}

// Begin records an operation about to start; see [Tx.Begin].
func (j *Journal) Begin(ctx context.Context, o Op) (id string, err error) {
	err = j.Do(ctx, func(tx *Tx) error {
		id, err = tx.Begin(o)
		return err
	})
	return id, err
}

// Mark records a step; see [Tx.Mark].
func (j *Journal) Mark(ctx context.Context, id string, c Change) error {
	return j.Do(ctx, func(tx *Tx) error { return tx.Mark(id, c) })
}

// Tx writes the journal while the lock is held. Each call is durable when it
// returns without error.
type Tx struct {
	j      *Journal
	log    *Log
	f      disk.File
	size   int64
	isNew  bool
	broken error
}

// Log returns what the journal says, this transaction's own records included.
func (tx *Tx) Log() *Log { return tx.log }

// NewID returns an id that no operation has: date and time, and a number where
// that is not enough.
func (tx *Tx) NewID() string {
	base := tx.j.opt.Now().UTC().Format("20060102-150405")
	id := base
	for n := 2; tx.log.byID[id] != nil; n++ {
		id = base + "-" + strconv.Itoa(n)
	}
	return id
}

// Begin records an operation before its first deed. ID, if empty, and Time are
// set; every part starts as planned. On an error nothing must be done.
func (tx *Tx) Begin(o Op) (id string, err error) {
	if o.ID == "" {
		o.ID = tx.NewID()
	}
	o.Time = tx.j.opt.Now().UTC()
	o.State, o.Changed = Planned, o.Time
	o.Settings, o.Data = slices.Clone(o.Settings), maps.Clone(o.Data)
	if o.Entries != nil {
		e := *o.Entries
		e.Counts = maps.Clone(e.Counts)
		o.Entries = &e
	}
	for i := range o.Settings {
		o.Settings[i].State = Planned
	}
	return o.ID, tx.append(&record{Time: o.Time, ID: o.ID, Op: &o})
}

// Mark records a step of an operation. One that is final is not moved again:
// ErrFinal.
func (tx *Tx) Mark(id string, c Change) error {
	o := tx.log.Op(id)
	if o == nil {
		return fmt.Errorf("%q: %w", id, ErrUnknown)
	}
	if o.State.Final() {
		return fmt.Errorf("%q is %s: %w", id, o.State, ErrFinal)
	}
	return tx.append(&record{Time: tx.j.opt.Now().UTC(), ID: id, Change: &c})
}

// Note adds to the data of an operation, in whatever state it is.
func (tx *Tx) Note(id string, data map[string]string) error {
	o := tx.log.Op(id)
	if o == nil {
		return fmt.Errorf("%q: %w", id, ErrUnknown)
	}
	return tx.append(&record{Time: tx.j.opt.Now().UTC(), ID: id, Change: &Change{State: o.State, NoteOnly: true, Data: data}})
}

func (tx *Tx) append(r *record) error {
	if tx.broken != nil {
		return tx.broken
	}
	b, err := encode(r)
	if err != nil {
		return fmt.Errorf("encode journal record: %w", err)
	}
	if err := tx.write(b); err != nil {
		return fmt.Errorf("write journal %q: %w", tx.j.path(), err)
	}
	tx.log.add(r)
	return nil
}

// write makes one record durable, or takes back what was written of it.
func (tx *Tx) write(b []byte) error {
	if err := tx.open(); err != nil {
		return err
	}
	if _, err := tx.f.Write(b); err != nil {
		if cut := tx.f.Truncate(tx.size); cut != nil {
			tx.broken = errors.Join(err, cut) // the next transaction heals it
		}
		return err
	}
	if err := tx.f.Sync(); err != nil {
		tx.broken = err // what is on the disk now cannot be known
		return err
	}
	if tx.isNew {
		if err := tx.j.fs.SyncDir(tx.j.dir); err != nil {
			tx.broken = err
			return err
		}
		tx.isNew = false
	}
	tx.size += int64(len(b))
	return nil
}

func (tx *Tx) open() error {
	if tx.f != nil {
		return nil
	}
	// An empty file may be one whose name never became durable.
	tx.isNew = tx.size == 0
	f, err := tx.j.fs.Append(tx.j.path(), 0o600)
	if err != nil {
		return err
	}
	tx.f = f
	return nil
}

// heal cuts off a half-written end, or ends a whole line that lacks its end.
func (tx *Tx) heal() error {
	switch {
	case tx.log.TornBytes > 0:
		if err := tx.open(); err != nil {
			return err
		}
		err := errors.Join(tx.f.Truncate(tx.size), tx.f.Sync())
		if err != nil {
			return fmt.Errorf("cut the half-written end of journal %q: %w", tx.j.path(), err)
		}
		tx.j.opt.Warn(fmt.Sprintf("journal %q: a half-written record of %d bytes was cut off", tx.j.path(), tx.log.TornBytes))
		tx.log.TornBytes = 0
	case tx.log.missingNewline:
		if err := tx.write([]byte{'\n'}); err != nil {
			return fmt.Errorf("end the last line of journal %q: %w", tx.j.path(), err)
		}
		tx.log.missingNewline = false
	}
	return nil
}

func (tx *Tx) close() error {
	if tx.f == nil {
		return nil
	}
	if err := tx.f.Close(); err != nil {
		return err
	}
	if tx.size > tx.j.opt.MaxBytes && tx.broken == nil {
		tx.shorten()
	}
	return nil
}

// shorten compacts a journal that has grown too long. What was recorded is
// durable already, so a failure is only told.
func (tx *Tx) shorten() {
	if err := tx.compact(); err != nil {
		tx.j.opt.Warn(fmt.Sprintf("journal %q could not be shortened: %v", tx.j.path(), err))
	}
}

// compact rewrites the journal with every open operation and the newest
// finished ones that fit in half the limit, each as one record. Settings that
// are kept can still be taken back: they have half of the rest for themselves.
func (tx *Tx) compact() error {
	var keep [][]byte
	var size int64
	dropped := map[string]bool{}
	for _, o := range slices.Backward(tx.log.Ops) {
		b, err := encode(&record{Time: o.Changed, ID: o.ID, Op: o})
		if err != nil {
			return err
		}
		limit := tx.j.opt.MaxBytes / 2
		if len(o.Settings) > 0 && !o.State.Final() {
			limit += limit / 2
		}
		if !o.State.Open() && size+int64(len(b)) > limit {
			dropped[o.ID] = true
			continue
		}
		size += int64(len(b))
		keep = append(keep, b)
	}
	slices.Reverse(keep)
	if err := disk.WriteFile(tx.j.fs, tx.j.path(), slices.Concat(keep...), 0o600); err != nil {
		return err
	}
	return tx.dropSideFiles(dropped)
}

func (tx *Tx) dropSideFiles(dropped map[string]bool) error {
	dir := filepath.Join(tx.j.dir, sideDir)
	names, err := tx.j.fs.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, name := range names {
		if dropped[strings.TrimSuffix(name, sideSuffix)] {
			err = errors.Join(err, tx.j.fs.Remove(filepath.Join(dir, name)))
		}
	}
	return err
}
