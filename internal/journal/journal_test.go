package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/kernel/disk/disktest"
)

const dir = "/state"

func fixedNow() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func onDisk(fs disk.FS) *Journal { return New(fs, dir, Options{Now: fixedNow}) }

func maxOp() Op {
	return Op{Actor: "apply", Why: "the table is nearly full", Boot: "b1", Netns: 4026531840,
		Settings: []Setting{
			{Key: "net.netfilter.nf_conntrack_buckets", Before: "65536", After: "262144"},
			{Key: "net.netfilter.nf_conntrack_max", Before: "65536", After: "524288"},
		}}
}

func TestStepsOfAnOperation(t *testing.T) {
	j := onDisk(&disktest.Mem{})
	id, err := j.Begin(t.Context(), maxOp())
	if err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		c    Change
		want State
	}{
		{Change{State: Written, Keys: []string{"net.netfilter.nf_conntrack_buckets"}}, Planned},
		{Change{State: Written}, Written},
		{Change{State: Verified}, Verified},
		{Change{State: Reverted, Keys: []string{"net.netfilter.nf_conntrack_buckets"}}, Verified},
		{Change{State: Deferred, Keys: []string{"net.netfilter.nf_conntrack_max"}, Note: "count is 400000"}, Deferred},
		{Change{State: Reverted, Keys: []string{"net.netfilter.nf_conntrack_max"}}, Reverted},
	}
	for i, s := range steps {
		if err := j.Mark(t.Context(), id, s.c); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		log, err := j.Read()
		if err != nil {
			t.Fatal(err)
		}
		if got := log.Op(id).State; got != s.want {
			t.Errorf("step %d: state %s, want %s", i, got, s.want)
		}
	}
	if err := j.Mark(t.Context(), id, Change{State: Written}); !errors.Is(err, ErrFinal) {
		t.Errorf("moving a finished operation: %v, want ErrFinal", err)
	}
	if err := j.Mark(t.Context(), "nobody", Change{State: Written}); !errors.Is(err, ErrUnknown) {
		t.Errorf("moving an unknown operation: %v, want ErrUnknown", err)
	}
}

func TestIDsDifferWithinASecond(t *testing.T) {
	j := onDisk(&disktest.Mem{})
	seen := map[string]bool{}
	for range 5 {
		id, err := j.Begin(t.Context(), maxOp())
		if err != nil || seen[id] {
			t.Fatalf("id %q, seen %v, error %v", id, seen, err)
		}
		seen[id] = true
	}
}

// TestHalfWrittenEnd cuts a journal at every byte: the records before the cut
// are all there, and after healing new ones follow them.
func TestHalfWrittenEnd(t *testing.T) {
	whole := &disktest.Mem{}
	j := onDisk(whole)
	for range 3 {
		if _, err := j.Begin(t.Context(), maxOp()); err != nil {
			t.Fatal(err)
		}
	}
	data := whole.Files()[j.path()]
	for cut := range len(data) {
		complete := strings.Count(data[:cut], "\n")
		if cut < len(data) && data[cut] == '\n' {
			complete++ // all of the record but its line end
		}
		fs := &disktest.Mem{}
		fs.Put(j.path(), data[:cut])
		var warned []string
		healed := New(fs, dir, Options{Now: fixedNow, Warn: func(s string) { warned = append(warned, s) }})
		if _, err := healed.Begin(t.Context(), maxOp()); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		log, _ := healed.Read()
		if len(log.Ops) != complete+1 || log.Damaged != 0 || log.TornBytes != 0 {
			t.Fatalf("cut at %d: %d operations, %d damaged, %d torn, want %d, 0, 0",
				cut, len(log.Ops), log.Damaged, log.TornBytes, complete+1)
		}
		if torn := len(data[:cut]) > 0 && data[cut-1] != '\n' && data[cut] != '\n'; torn != (len(warned) > 0) {
			t.Fatalf("cut at %d: warnings %q", cut, warned)
		}
	}
}

func TestDamageInTheMiddle(t *testing.T) {
	fs := &disktest.Mem{}
	j := onDisk(fs)
	var ids []string
	for range 3 {
		id, err := j.Begin(t.Context(), maxOp())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	lines := strings.SplitAfter(fs.Files()[j.path()], "\n")
	fs.Put(j.path(), lines[0]+strings.Replace(lines[1], "524288", "524289", 1)+lines[2])
	log, err := j.Read()
	if err != nil || log.Damaged != 1 || log.Op(ids[0]) == nil || log.Op(ids[1]) != nil || log.Op(ids[2]) == nil {
		t.Errorf("log %+v, error %v: want the first and the last operation and one damaged line", log, err)
	}
}

// TestEveryDeath stops the machine at every call that changes something, by
// kill and by power cut, with and without half of the dying write on disk.
// Whatever was acknowledged is there afterwards, and nothing is torn for good.
func TestEveryDeath(t *testing.T) {
	story := func(j *Journal) (acked []string) {
		ctx := context.Background()
		id, err := j.Begin(ctx, maxOp())
		if err != nil {
			return acked
		}
		acked = append(acked, id+" planned")
		for _, s := range []State{Written, Verified, Reverted} {
			if j.Mark(ctx, id, Change{State: s}) != nil {
				return acked
			}
			acked = append(acked, id+" "+string(s))
		}
		for i := range 4 { // enough to make it rewrite itself
			o := maxOp()
			o.Why = strings.Repeat("x", 400)
			id, err := j.Begin(ctx, o)
			if err != nil {
				return acked
			}
			acked = append(acked, id+" planned")
			if i < 2 {
				if j.Mark(ctx, id, Change{State: Void}) != nil {
					return acked
				}
				acked = append(acked, id+" void")
			}
		}
		return acked
	}
	open := func(fs disk.FS) *Journal { return New(fs, dir, Options{Now: fixedNow, MaxBytes: 2500}) }
	dry := &disktest.Mem{}
	story(open(dry))
	total := len(dry.Calls)
	if total < 30 || !strings.Contains(strings.Join(dry.Calls, "\n"), "rename") {
		t.Fatalf("the story has only %d steps, or does not rewrite the journal: %q", total, dry.Calls)
	}
	for at := 1; at <= total; at++ {
		for _, how := range []struct{ power, half bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
			fs := &disktest.Mem{DieAt: at, Half: how.half}
			acked := story(open(fs))
			fs.Restart(how.power)
			j := open(fs)
			if _, err := j.Begin(t.Context(), maxOp()); err != nil {
				t.Fatalf("death at %d %+v: the next run: %v", at, how, err)
			}
			log, err := j.Read()
			if err != nil || log.Damaged > 0 || log.TornBytes > 0 {
				t.Fatalf("death at %d %+v: %+v %v", at, how, log, err)
			}
			last := map[string]string{}
			for _, a := range acked {
				id, state, _ := strings.Cut(a, " ")
				last[id] = state
			}
			for id, state := range last {
				o := log.Op(id)
				if State(state).Open() && (o == nil || order(o.State) < order(State(state))) {
					t.Fatalf("death at %d %+v: %s was %s, now %+v", at, how, id, state, o)
				}
			}
		}
	}
}

func order(s State) int {
	return map[State]int{Planned: 0, Written: 1, Verified: 2, Reverted: 3, Void: 3}[s]
}

func TestFullDisk(t *testing.T) {
	fs := &disktest.Mem{}
	j := onDisk(fs)
	id, err := j.Begin(t.Context(), maxOp())
	if err != nil {
		t.Fatal(err)
	}
	before := fs.Files()[j.path()]
	fs.Limited, fs.FreeBytes, fs.ErrFull = true, 30, syscall.ENOSPC
	if err := j.Mark(t.Context(), id, Change{State: Written}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("on a full disk: %v, want ENOSPC", err)
	}
	if after := fs.Files()[j.path()]; after != before {
		t.Errorf("a refused record left %q behind", after[len(before):])
	}
	fs.Limited = false
	if err := j.Mark(t.Context(), id, Change{State: Written}); err != nil {
		t.Errorf("with space again: %v", err)
	}
}

func TestBounded(t *testing.T) {
	fs := &disktest.Mem{}
	j := New(fs, dir, Options{Now: fixedNow, MaxBytes: 10_000})
	first, err := j.Begin(t.Context(), maxOp())
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		id, err := j.Begin(t.Context(), maxOp())
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Mark(t.Context(), id, Change{State: Reverted}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(fs.Files()[j.path()]); n > 12_000 {
		t.Errorf("%d bytes", n)
	}
	log, _ := j.Read()
	if o := log.Op(first); o == nil || o.State != Planned || len(log.Ops) < 5 {
		t.Errorf("%d operations, the open one is %+v", len(log.Ops), o)
	}
}

// TestKeptSettingsStay: what can still be taken back is not crowded out by a
// year of evictions.
func TestKeptSettingsStay(t *testing.T) {
	j := New(&disktest.Mem{}, dir, Options{Now: fixedNow, MaxBytes: 10_000})
	kept, err := j.Begin(t.Context(), maxOp())
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Mark(t.Context(), kept, Change{State: Confirmed}); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		id, err := j.Begin(t.Context(), Op{Actor: "guard", Entries: &Entries{Action: "delete", Filter: "x"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Mark(t.Context(), id, Change{State: Confirmed}); err != nil {
			t.Fatal(err)
		}
	}
	if log, err := j.Read(); err != nil || log.Op(kept) == nil || len(log.Op(kept).Settings) == 0 {
		t.Errorf("what was kept is forgotten among %d operations: %v", len(log.Ops), err)
	}
}

func TestLaterFormatIsLeftAlone(t *testing.T) {
	fs := &disktest.Mem{}
	j := onDisk(fs)
	if _, err := j.Begin(t.Context(), maxOp()); err != nil {
		t.Fatal(err)
	}
	rec := []byte(`{"v":2,"id":"x","new":true}`)
	fs.Put(j.path(), fs.Files()[j.path()]+fmt.Sprintf("{\"crc\":%q,\"rec\":%s}\n", checksum(rec), rec))
	if log, err := j.Read(); err != nil || log.Newer != 1 || len(log.Ops) != 1 {
		t.Errorf("read: %+v, %v", log, err)
	}
	if _, err := j.Begin(t.Context(), maxOp()); !errors.Is(err, ErrNewer) {
		t.Errorf("write: %v, want ErrNewer", err)
	}
}

func TestSideFile(t *testing.T) {
	j := New(disk.OS{}, t.TempDir(), Options{})
	flow := ct.Flow{TimeoutSeconds: 431999, ID: 7}
	var id string
	err := j.Do(t.Context(), func(tx *Tx) error {
		id = tx.NewID()
		s, err := tx.Side(id)
		if err != nil {
			return err
		}
		for range 3 {
			if err := s.Add(NewSideEntry(&flow)); err != nil {
				return err
			}
		}
		if err := s.Close(); err != nil {
			return err
		}
		_, err = tx.Begin(Op{ID: id, Actor: "evict", Why: "idle",
			Entries: &Entries{Filter: "idle > 1d", Action: "delete", SideFile: s.Name(),
				Counts: map[string]uint64{"selected": 3}}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Mark(t.Context(), id, Change{State: Confirmed, Counts: map[string]uint64{"deleted": 2}}); err != nil {
		t.Fatal(err)
	}
	log, _ := j.Read()
	o := log.Op(id)
	if o.Entries.Counts["selected"] != 3 || o.Entries.Counts["deleted"] != 2 {
		t.Errorf("counts %v", o.Entries.Counts)
	}
	got, err := j.ReadSide(o)
	if err != nil || len(got) != 3 || got[0].TimeoutSeconds != 431999 {
		t.Errorf("side file: %v, %v", got, err)
	}
	o.Entries.SideFile = "../../etc/passwd"
	if _, err := j.ReadSide(o); err == nil {
		t.Error("a side file outside the state directory was read")
	}
}

// TestSideFilesAreBounded: old ones go, those of open operations stay.
func TestSideFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1_800_000_000, 0)
	j := New(disk.OS{}, dir, Options{Now: func() time.Time { now = now.Add(time.Second); return now }})
	var open *Op
	for i := range 40 {
		err := j.Do(t.Context(), func(tx *Tx) error {
			id := tx.NewID()
			s, err := tx.Side(id)
			if err != nil {
				return err
			}
			if err := s.Close(); err != nil {
				return err
			}
			if _, err = tx.Begin(Op{ID: id, Actor: "evict", Entries: &Entries{Action: "shorten", SideFile: s.Name()}}); err != nil || i == 3 {
				open = tx.Log().Op(id)
				return err
			}
			return tx.Mark(id, Change{State: Confirmed})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	names, err := disk.OS{}.ReadDir(filepath.Join(dir, sideDir))
	if err != nil || len(names) > maxSideFiles+1 {
		t.Errorf("%d side files, %v", len(names), err)
	}
	if _, err := j.ReadSide(open); err != nil {
		t.Errorf("the side file of an open operation: %v", err)
	}
}

func TestOneWriterAtATime(t *testing.T) {
	fs := disk.OS{}
	d := t.TempDir()
	held, err := fs.Lock(filepath.Join(d, lockName))
	if err != nil {
		t.Fatal(err)
	}
	j := New(fs, d, Options{LockWait: time.Millisecond})
	if _, err := j.Begin(t.Context(), maxOp()); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("while locked: %v, want ErrLocked", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for range 8 {
		go func() {
			_, err := New(fs, d, Options{LockWait: time.Minute}).Begin(context.Background(), maxOp())
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if log, err := j.Read(); err != nil || len(log.Ops) != 8 || log.Damaged+log.TornBytes > 0 {
		t.Errorf("after eight writers: %+v, %v", log, err)
	}
}

func FuzzParse(f *testing.F) {
	fs := &disktest.Mem{}
	j := onDisk(fs)
	id, err := j.Begin(f.Context(), maxOp())
	if err != nil {
		f.Fatal(err)
	}
	if err := j.Mark(f.Context(), id, Change{State: Written, Keys: []string{"a"}, Note: "n"}); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(fs.Files()[j.path()]), false)
	f.Add([]byte("{\"crc\":\"00000000\",\"rec\":{}}\n{\n\nnull"), false)
	f.Add([]byte(`{"v":1,"id":"a","op":{"settings":[{"key":"k"}]}}`+"\n"+
		`{"v":1,"id":"a","change":{"state":"written","counts":{"n":1},"data":{"k":"v"}}}`), true)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		if seal { // as records under a right checksum, which chance would not find
			var b bytes.Buffer
			for _, rec := range bytes.Split(data, []byte("\n")) {
				fmt.Fprintf(&b, "{\"crc\":%q,\"rec\":%s}\n", checksum(rec), rec)
			}
			data = b.Bytes()
		}
		log := Parse(data)
		for _, o := range log.Ops {
			if o == nil || o.ID == "" || !o.State.known() || log.Op(o.ID) != o {
				t.Fatalf("bad operation %+v", o)
			}
		}
		if log.good+int64(log.TornBytes) != int64(len(data)) {
			t.Fatalf("%d good and %d torn bytes of %d", log.good, log.TornBytes, len(data))
		}
		if log.Newer > 0 {
			return
		}
		// Whatever was there, a record written after it is read back.
		fs := &disktest.Mem{}
		fs.Put("/state/journal.jsonl", string(bytes.Clone(data)))
		j := onDisk(fs)
		id, err := j.Begin(t.Context(), maxOp())
		if err != nil {
			t.Fatal(err)
		}
		again, _ := j.Read()
		if again.Op(id) == nil || len(again.Ops) != len(log.Ops)+1 {
			t.Fatalf("lost: %d operations before, %d after", len(log.Ops), len(again.Ops))
		}
	})
}
