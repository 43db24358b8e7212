package tune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/disk"
	"github.com/ctwarden/ctwarden/internal/kernel/disk/disktest"
	"github.com/ctwarden/ctwarden/internal/notrack"
)

// dnsFlow is a flow that does without tracking.
const dnsFlow = "server udp 53"

const keyTimeWait = Prefix + "tcp_timeout_time_wait"

// box is a machine in memory: settings, a disk that can die, a clock.
type box struct {
	t        *testing.T
	disk     *disktest.Mem
	settings map[string]string
	readOnly map[string]bool
	refuse   map[string]error
	// onWrite runs after a write, as another process would.
	onWrite func(key string)
	count   int64
	boot    string
	now     time.Duration
	armed   map[string]time.Duration
	armErr  error
	// disarmErr is a dead-man that cannot be stopped.
	disarmErr error
	writes    []string
	noUnits   string
}

func newBox(t *testing.T) *box {
	return &box{t: t, disk: &disktest.Mem{}, boot: "boot-1", now: time.Hour, count: 1000,
		settings: maps.Clone(oldValues),
		readOnly: map[string]bool{}, refuse: map[string]error{}, armed: map[string]time.Duration{}}
}

func (b *box) Read(key string) (string, error) {
	v, ok := b.settings[key]
	if !ok {
		return "", fmt.Errorf("read %s: %w", key, fs.ErrNotExist)
	}
	return v, nil
}

func (b *box) Write(key, value string) (string, error) {
	if err := b.disk.Step("set %s=%s", key, value); err != nil {
		return "", err
	}
	if err := b.refuse[key]; err != nil {
		return "", err
	}
	if b.readOnly[key] {
		return "", fs.ErrPermission
	}
	b.settings[key] = value
	b.writes = append(b.writes, strings.TrimPrefix(key, Prefix)+"="+value)
	if b.onWrite != nil {
		b.onWrite(key)
	}
	return b.settings[key], nil
}

func (b *box) Writable(key string) (bool, error) { return !b.readOnly[key], nil }

func (b *box) Arm(id string, deadline time.Duration) (string, error) {
	if err := b.disk.Step("arm"); err != nil {
		return "", err
	}
	if b.armErr != nil {
		return "", b.armErr
	}
	b.armed[id] = deadline
	return "pid 1", nil
}

func (b *box) Disarm(id, _ string) error {
	delete(b.armed, id)
	return b.disarmErr
}

func (b *box) keeper() *Keeper {
	return &Keeper{Settings: b, NoUnits: b.noUnits, Files: disk.Files{FS: b.disk}, Deadman: b,
		Journal: journal.New(b.disk, "/state", journal.Options{LockWait: time.Millisecond,
			Now: func() time.Time { return time.Unix(1_790_000_000, 0) }}),
		Boot: b.boot, Netns: 7, Boottime: func() time.Duration { return b.now },
		HighestCount: func() (int64, error) { return b.count, nil }}
}

func (b *box) plan() *Plan {
	return &Plan{Schema: PlanSchema, Items: []Item{
		{Key: KeyBuckets, From: "65536", To: "131072"},
		{Key: KeyMax, From: "65536", To: "262144"},
		{Key: keyTimeWait, From: "120", To: "30"}}}
}

// untrack carries out the plan of ctwarden notrack.
func (b *box) untrack(trial time.Duration) error {
	p := &Plan{Items: []Item{{Key: notrack.Key, To: dnsFlow}}}
	_, err := b.keeper().Apply(context.Background(), p, ApplyOptions{Trial: trial})
	return err
}

func (b *box) mustUntrack(trial time.Duration) {
	b.t.Helper()
	if err := b.untrack(trial); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) apply(trial time.Duration) string {
	b.t.Helper()
	id, err := b.keeper().Apply(b.t.Context(), b.plan(), ApplyOptions{Trial: trial, Actor: "test", Why: "test"})
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

// put writes a file as somebody else would.
func (b *box) put(path, content string) {
	b.t.Helper()
	if err := (disk.Files{FS: b.disk}).WriteFile(path, []byte(content)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) op(id string) *journal.Op {
	b.t.Helper()
	log, err := b.keeper().Journal.Read()
	if err != nil {
		b.t.Fatal(err)
	}
	return log.Op(id)
}

var (
	oldValues = map[string]string{KeyBuckets: "65536", KeyMax: "65536", keyTimeWait: "120", Prefix + "udp_timeout": "30", notrack.Key: ""}
	newValues = map[string]string{KeyBuckets: "131072", KeyMax: "262144", keyTimeWait: "30", Prefix + "udp_timeout": "30", notrack.Key: ""}
	untracked = map[string]string{KeyBuckets: "65536", KeyMax: "65536", keyTimeWait: "120", Prefix + "udp_timeout": "30", notrack.Key: dnsFlow}
)

const wantFile = `# Written by ctwarden confirm.
# The keys exist only once nf_conntrack is loaded: see modules-load.d.
net.netfilter.nf_conntrack_buckets = 131072
net.netfilter.nf_conntrack_max = 262144
net.netfilter.nf_conntrack_tcp_timeout_time_wait = 30
`

func TestApplyOrderAndTrial(t *testing.T) {
	b := newBox(t)
	id := b.apply(10 * time.Minute)
	if want := []string{"buckets=131072", "max=262144", "tcp_timeout_time_wait=30"}; !slices.Equal(b.writes, want) {
		t.Errorf("written %v, want %v", b.writes, want)
	}
	if o := b.op(id); o.State != journal.Verified || o.Trial.DeadlineMillis != (70*time.Minute).Milliseconds() || o.Trial.Deadman != "pid 1" {
		t.Errorf("operation %+v, trial %+v", o, o.Trial)
	}
	// The dead-man was armed, on record, before the first value was written.
	calls := b.disk.Calls
	if arm, set := slices.Index(calls, "arm"), slices.IndexFunc(calls, func(c string) bool { return strings.HasPrefix(c, "set") }); arm < 0 || arm > set {
		t.Errorf("armed at step %d, first write at %d: %q", arm, set, calls)
	}
	for name := range b.disk.Files() {
		if strings.HasPrefix(name, "/etc") {
			t.Errorf("%s was written before the confirmation", name)
		}
	}
	if _, err := b.keeper().Apply(t.Context(), b.plan(), ApplyOptions{Trial: time.Minute}); !errors.Is(err, ErrOnTrial) {
		t.Errorf("a second trial: %v", err)
	}
	b.writes = nil
	b.now = 71 * time.Minute
	if left, err := b.keeper().Expire(t.Context(), id); left || err != nil {
		t.Errorf("expiry: left %v, %v", left, err)
	}
	if want := []string{"tcp_timeout_time_wait=120", "max=65536", "buckets=65536"}; !slices.Equal(b.writes, want) {
		t.Errorf("taken back %v, want %v", b.writes, want)
	}
	b.writes = nil
	if left, err := b.keeper().Expire(t.Context(), id); left || err != nil || len(b.writes) > 0 {
		t.Errorf("a second expiry: left %v, %v, wrote %v", left, err, b.writes)
	}
}

func TestConfirmAndRevert(t *testing.T) {
	b := newBox(t)
	id := b.apply(10 * time.Minute)
	op, err := b.keeper().Confirm(t.Context(), "")
	if err != nil || op.ID != id || op.State != journal.Confirmed {
		t.Fatalf("confirm: %+v, %v", op, err)
	}
	files := b.disk.Files()
	if files[SysctlPath] != wantFile || !strings.HasSuffix(files[ModulesLoadPath], "\nnf_conntrack\n") {
		t.Errorf("files: %q, %q", files[SysctlPath], files[ModulesLoadPath])
	}
	if len(b.armed) > 0 {
		t.Error("the dead-man is still armed")
	}
	b.now += 24 * time.Hour
	if left, err := b.keeper().Expire(t.Context(), id); left || err != nil || !maps.Equal(b.settings, newValues) {
		t.Errorf("a dead-man after the confirmation: %v %v %v", left, err, b.settings)
	}
	if op, err = b.keeper().Revert(t.Context(), "", "asked"); err != nil || op.State != journal.Reverted {
		t.Fatalf("revert: %+v, %v", op, err)
	}
	files = b.disk.Files()
	if _, ok := files[SysctlPath]; ok || !maps.Equal(b.settings, oldValues) {
		t.Errorf("after the revert: %v, file %q", b.settings, files[SysctlPath])
	}
	if _, err := b.keeper().Revert(t.Context(), "", "asked"); !errors.Is(err, ErrNothing) {
		t.Errorf("a second revert: %v", err)
	}
}

func TestConfirmMerges(t *testing.T) {
	b := newBox(t)
	b.apply(0)
	p := &Plan{Items: []Item{{Key: Prefix + "udp_timeout", To: "20"}, {Key: keyTimeWait, To: "60"}}}
	if _, err := b.keeper().Apply(t.Context(), p, ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	got := b.disk.Files()[SysctlPath]
	for _, want := range []string{"nf_conntrack_max = 262144", "udp_timeout = 20", "time_wait = 60"} {
		if !strings.Contains(got, want) {
			t.Errorf("the file lacks %q:\n%s", want, got)
		}
	}
}

// TestEveryDeath kills apply, confirm and revert at every call that changes
// anything: files, syncs, settings, the dead-man. What the next run finds is
// made whole: all old or all new, readable, and open to a revert.
func TestEveryDeath(t *testing.T) {
	for _, story := range []struct {
		name  string
		setUp func(b *box)
		run   func(b *box) error
	}{
		{"apply on trial", func(*box) {}, func(b *box) error {
			_, err := b.keeper().Apply(context.Background(), b.plan(), ApplyOptions{Trial: time.Minute})
			return err
		}},
		{"apply now", func(*box) {}, func(b *box) error {
			_, err := b.keeper().Apply(context.Background(), b.plan(), ApplyOptions{})
			return err
		}},
		{"confirm", func(b *box) { b.apply(time.Minute) }, func(b *box) error {
			_, err := b.keeper().Confirm(context.Background(), "")
			return err
		}},
		{"revert a trial", func(b *box) { b.apply(time.Minute) }, func(b *box) error {
			_, err := b.keeper().Revert(context.Background(), "", "asked")
			return err
		}},
		{"revert what was confirmed", func(b *box) { b.apply(0) }, func(b *box) error {
			_, err := b.keeper().Revert(context.Background(), "", "asked")
			return err
		}},
		{"notrack on trial", func(*box) {}, func(b *box) error { return b.untrack(time.Minute) }},
		{"notrack now", func(*box) {}, func(b *box) error { return b.untrack(0) }},
		{"confirm notrack", func(b *box) { b.mustUntrack(time.Minute) }, func(b *box) error {
			_, err := b.keeper().Confirm(context.Background(), "")
			return err
		}},
		{"revert confirmed notrack", func(b *box) { b.mustUntrack(0) }, func(b *box) error {
			_, err := b.keeper().Revert(context.Background(), "", "asked")
			return err
		}},
	} {
		t.Run(story.name, func(t *testing.T) {
			dry := newBox(t)
			story.setUp(dry)
			before := len(dry.disk.Calls)
			if err := story.run(dry); err != nil {
				t.Fatal(err)
			}
			points := len(dry.disk.Calls) - before
			t.Logf("%d fault points", points)
			if points < 5 {
				t.Fatalf("only %d fault points: %q", points, dry.disk.Calls[before:])
			}
			for at := 1; at <= points; at++ {
				for _, half := range []bool{false, true} {
					for _, power := range []bool{false, true} {
						crash(t, story.setUp, story.run, at, half, power)
					}
				}
			}
		})
	}
}

func crash(t *testing.T, setUp func(*box), run func(*box) error, at int, half, power bool) {
	b := newBox(t)
	setUp(b)
	b.disk.Calls = nil
	b.disk.DieAt, b.disk.Half = at, half
	if err := run(b); err == nil {
		t.Fatalf("death at %d was not noticed", at)
	}
	died := b.disk.Calls[len(b.disk.Calls)-1]
	b.disk.Restart(power)
	if power { // the kernel forgets; what boots is what the files say
		b.boot, b.now = "boot-2", time.Minute
		b.settings = maps.Clone(oldValues)
		loadFile(b)
	}
	where := fmt.Sprintf("death at %d (%s), half %v, power cut %v", at, died, half, power)
	wholeAfter(t, b, where)
}

// loadFile does at boot what systemd-sysctl does, and systemd with our unit.
func loadFile(b *box) {
	files := b.disk.Files()
	if files[RulesWantPath] != "" && strings.Contains(files[RulesUnitPath], "ExecStart=/usr/sbin/nft -f "+RulesPath) {
		b.settings[notrack.Key] = notrack.Value(notrack.SpecsOf(files[RulesPath]))
	}
	for line := range strings.Lines(b.disk.Files()[SysctlPath]) {
		if key, v, ok := strings.Cut(line, " = "); ok {
			b.settings[key] = strings.TrimSpace(v)
		}
	}
}

// wholeAfter lets the next run do its work and checks what it leaves.
func wholeAfter(t *testing.T, b *box, where string) {
	t.Helper()
	k := b.keeper()
	if err := k.do(t.Context(), func(*journal.Tx) error { return nil }); err != nil {
		t.Fatalf("%s: next run: %v", where, err)
	}
	isNew := maps.Equal(b.settings, newValues) || maps.Equal(b.settings, untracked)
	if !maps.Equal(b.settings, oldValues) && !isNew {
		t.Fatalf("%s: settings are neither old nor new: %v", where, b.settings)
	}
	files := b.disk.Files()
	sysctl, has := files[SysctlPath]
	if has && sysctl != wantFile {
		t.Fatalf("%s: half a file: %q", where, sysctl)
	}
	if _, module := files[ModulesLoadPath]; has && !module {
		t.Fatalf("%s: settings without the module", where)
	}
	rules, unit, want := files[RulesPath], files[RulesUnitPath], files[RulesWantPath]
	if whole := rules != "" && unit == rulesUnitText && want == rulesWantText; !whole && rules+unit+want != "" {
		t.Fatalf("%s: half of the files of untracked flows: %q, %q, %q", where, rules, unit, want)
	}
	log, err := k.Journal.Read()
	if err != nil || log.Damaged+log.TornBytes+log.Newer > 0 {
		t.Fatalf("%s: journal %+v, %v", where, log, err)
	}
	// A machine with new values knows how to go back.
	if isNew && b.boot == "boot-1" {
		if op, err := k.Revert(t.Context(), "", "test"); err != nil || op.State != journal.Reverted {
			t.Fatalf("%s: revert: %+v, %v", where, op, err)
		}
		if !maps.Equal(b.settings, oldValues) {
			t.Fatalf("%s: reverted to %v", where, b.settings)
		}
	}
}

// TestConfirmedFlowsAreVerified: what would keep the rules from the next boot
// is found.
func TestConfirmedFlowsAreVerified(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(b *box)
		want string // "" for nothing to say
	}{
		{"all there", func(*box) {}, ""},
		{"the unit is masked", func(b *box) { b.put(RulesUnitPath, "") }, RulesUnitPath},
		{"the boot no longer wants it", func(b *box) { b.put(RulesWantPath, "[Unit]\n") }, RulesWantPath},
		{"other rules in our file", func(b *box) {
			b.put(RulesPath, strings.ReplaceAll(rulesText(nil), "delete", "add")+`comment "server udp 53"`)
		}, RulesPath},
		{"the table is gone", func(b *box) { b.settings[notrack.Key] = "" }, "it is gone now"},
		{"no systemd", func(b *box) { b.noUnits = "no systemd" }, "no systemd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t)
			b.mustUntrack(0)
			tt.do(b)
			v, err := b.keeper().Verify(nil, nil)
			if err != nil || len(v.Settings) != 1 || len(v.Problems) > 0 {
				t.Fatalf("%+v, %v", v, err)
			}
			if got := v.Settings[0]; got.OK != (tt.want == "") || !strings.Contains(got.Why, tt.want) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestFlowsWithoutSystemd: the rules are kept in our file, and it is said that
// nothing loads them.
func TestFlowsWithoutSystemd(t *testing.T) {
	b := newBox(t)
	b.noUnits = "systemd does not run here"
	b.mustUntrack(time.Minute)
	k := b.keeper()
	var said strings.Builder
	k.Say = func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }
	if _, err := k.Confirm(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	files := b.disk.Files()
	if files[RulesPath] == "" || files[RulesUnitPath]+files[RulesWantPath] != "" || !strings.Contains(said.String(), "nothing loads it at boot") {
		t.Errorf("%v\n%s", files, said.String())
	}
	if _, err := k.Revert(t.Context(), "", "asked"); err != nil || b.disk.Files()[RulesPath] != "" {
		t.Errorf("%v, %v", b.disk.Files(), err)
	}
}

// TestRevertKeepsTheEarlier: of two confirmed operations on one key the later
// is taken back; what the earlier set stands, now and at the next boot.
func TestRevertKeepsTheEarlier(t *testing.T) {
	b := newBox(t)
	for _, to := range []string{"60", "30"} {
		if _, err := b.keeper().Apply(t.Context(), &Plan{Items: []Item{{Key: keyTimeWait, To: to}}}, ApplyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"60", ""} {
		if _, err := b.keeper().Revert(t.Context(), "", "asked"); err != nil {
			t.Fatal(err)
		}
		kept, err := b.keeper().kept()
		if err != nil || kept[keyTimeWait] != want || b.settings[keyTimeWait] != cmp.Or(want, "120") {
			t.Errorf("our file keeps %q, live is %s, want %q; %v", kept[keyTimeWait], b.settings[keyTimeWait], want, err)
		}
	}
}

// TestPowerCutInMidTrial: the kernel comes up with the old values, and nothing
// is replayed.
func TestPowerCutInMidTrial(t *testing.T) {
	b := newBox(t)
	id := b.apply(time.Hour)
	b.disk.Restart(true)
	b.boot, b.now, b.settings, b.writes = "boot-2", time.Second, maps.Clone(oldValues), nil
	if left, err := b.keeper().Expire(t.Context(), id); left || err != nil {
		t.Errorf("expiry after the restart: %v %v", left, err)
	}
	if o := b.op(id); o.State != journal.Void || len(b.writes) > 0 {
		t.Errorf("state %s, writes %v", o.State, b.writes)
	}
}

func TestFullTableDefersMax(t *testing.T) {
	b := newBox(t)
	id := b.apply(time.Minute)
	b.count = 60_000 // below the old max, above it with the margin
	b.now += time.Hour
	left, err := b.keeper().Expire(t.Context(), id)
	if !left || err != nil || b.settings[KeyMax] != "262144" || b.settings[KeyBuckets] != "131072" || b.settings[keyTimeWait] != "120" {
		t.Fatalf("left %v, %v: %v", left, err, b.settings)
	}
	if o := b.op(id); o.State != journal.Deferred || !strings.Contains(o.Setting(KeyMax).Note, "72000") {
		t.Errorf("operation %+v", o)
	}
	b.count = 54_613 // times 1.2 is 65,536
	if left, err = b.keeper().Expire(t.Context(), id); left || err != nil || !maps.Equal(b.settings, oldValues) {
		t.Errorf("drained: left %v, %v, %v", left, err, b.settings)
	}
}

func TestUnknownCountHoldsMax(t *testing.T) {
	b := newBox(t)
	id := b.apply(time.Minute)
	k := b.keeper()
	k.HighestCount = func() (int64, error) { return 0, errors.New("no") }
	if left, _ := k.Expire(t.Context(), id); !left || b.settings[KeyMax] != "262144" {
		t.Errorf("max came down to %s although the count is unknown", b.settings[KeyMax])
	}
}

func TestForeignWrites(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		b := newBox(t)
		b.settings[KeyMax] = "100000"
		if _, err := b.keeper().Apply(t.Context(), b.plan(), ApplyOptions{}); !errors.Is(err, ErrStale) || len(b.writes) > 0 {
			t.Errorf("error %v, writes %v", err, b.writes)
		}
	})
	t.Run("during apply", func(t *testing.T) {
		b := newBox(t)
		b.onWrite = func(key string) {
			if key == keyTimeWait {
				b.onWrite = nil
				b.settings[KeyMax] = "300000"
			}
		}
		if _, err := b.keeper().Apply(t.Context(), b.plan(), ApplyOptions{}); err == nil {
			t.Error("the lost race was not noticed")
		}
		if b.settings[KeyMax] != "300000" || b.settings[keyTimeWait] != "120" || b.settings[KeyBuckets] != "65536" {
			t.Errorf("settings %v: theirs must stay, ours go", b.settings)
		}
	})
	t.Run("during the trial", func(t *testing.T) {
		b := newBox(t)
		id := b.apply(time.Minute)
		b.settings[keyTimeWait] = "45"
		if _, err := b.keeper().Confirm(t.Context(), ""); !errors.Is(err, ErrStale) {
			t.Errorf("confirm: %v", err)
		}
		op, err := b.keeper().Revert(t.Context(), id, "asked")
		if err != nil || b.settings[keyTimeWait] != "45" || b.settings[KeyMax] != "65536" {
			t.Errorf("%v: %v", err, b.settings)
		}
		if op.Setting(keyTimeWait).State != journal.Foreign {
			t.Errorf("state %s", op.Setting(keyTimeWait).State)
		}
	})
	// While time_wait is taken back, which is the first, somebody writes that
	// one again, or another that is still to come.
	for _, raced := range []string{keyTimeWait, KeyMax} {
		t.Run("during the revert of "+raced, func(t *testing.T) {
			b := newBox(t)
			id := b.apply(time.Minute)
			b.onWrite = func(key string) {
				if key == keyTimeWait {
					b.onWrite = nil
					b.settings[raced] = "300001"
				}
			}
			op, err := b.keeper().Revert(t.Context(), id, "asked")
			if err != nil || op.Setting(raced).State != journal.Foreign {
				t.Fatalf("%+v, %v", op, err)
			}
			want := maps.Clone(oldValues)
			want[raced] = "300001"
			if !maps.Equal(b.settings, want) {
				t.Errorf("%v, want %v", b.settings, want)
			}
		})
	}
}

// TestNoMemoryForThePlan: a plan of a larger machine is refused whole; one that
// lowers is not.
func TestNoMemoryForThePlan(t *testing.T) {
	for _, tt := range []struct {
		key, to string
		want    error
	}{
		{KeyMax, "1048576", nil},
		{KeyMax, "2000000", nil},
		{KeyMax, "3000000", ErrMemory},
		{KeyMax, "60000", nil},
		{KeyBuckets, "134217728", ErrMemory},
		{KeyBuckets, "67108864", nil},
	} {
		b := newBox(t)
		k := b.keeper()
		k.Available = func() int64 { return 1 << 30 }
		p := &Plan{Items: []Item{{Key: keyTimeWait, To: "30"}, {Key: tt.key, To: tt.to}}}
		if _, err := k.Apply(t.Context(), p, ApplyOptions{}); !errors.Is(err, tt.want) {
			t.Errorf("%s = %s: %v, want %v", tt.key, tt.to, err, tt.want)
		}
		if tt.want != nil && len(b.writes) > 0 {
			t.Errorf("%s = %s: written %v", tt.key, tt.to, b.writes)
		}
	}
}

// TestStatusNamesWhoDrifted: of those that claim the key, the one whose value
// stands there.
func TestStatusNamesWhoDrifted(t *testing.T) {
	b := newBox(t)
	b.apply(0)
	who := claims{KeyMax: {{Who: "sysctl.d", Where: "/etc/sysctl.d/50.conf:1", Value: "1000"}, {Who: "ufw", Where: "/etc/ufw/sysctl.conf:3", Value: "65536"}}}
	for live, want := range map[string]string{"262144": "", "65536": "/etc/ufw/sysctl.conf:3 (ufw)", "70000": ""} {
		b.settings[KeyMax] = live
		st, err := b.keeper().Status(who)
		if err != nil || len(st.Operations) != 1 {
			t.Fatalf("%+v, %v", st, err)
		}
		for _, s := range st.Operations[0].Settings {
			if s.Key == KeyMax && (s.DriftedBy != want || s.Drifted != (live != "262144")) {
				t.Errorf("%s: %+v, want %q", live, s, want)
			}
		}
		if st.Found() != (live != "262144") {
			t.Errorf("%s: found %v", live, st.Found())
		}
	}
}

// TestOldKernelsHashsize: where the table's size has no setting, a module
// option keeps it, and goes with it.
func TestOldKernelsHashsize(t *testing.T) {
	b := newBox(t)
	delete(b.settings, KeyBuckets)
	b.settings[KeyHashsize] = "16384"
	p := &Plan{Items: []Item{{Key: KeyHashsize, From: "16384", To: "65536"}, {Key: KeyMax, From: "65536", To: "262144"}}}
	if _, err := b.keeper().Apply(t.Context(), p, ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	files := b.disk.Files()
	if !strings.HasSuffix(files[ModprobePath], "\noptions nf_conntrack hashsize=65536\n") || strings.Contains(files[ModprobePath], "\ninstall") {
		t.Errorf("modprobe.d: %q", files[ModprobePath])
	}
	for line := range strings.Lines(files[SysctlPath]) {
		if strings.Contains(line, "hashsize") && !strings.HasPrefix(line, "#") {
			t.Errorf("sysctl.d: %q", line)
		}
	}
	if v, err := b.keeper().Verify(nil, nil); err != nil || !v.OK() || len(v.Settings) != 2 {
		t.Errorf("verify: %+v, %v", v, err)
	}
	if _, err := b.keeper().Revert(t.Context(), "", "asked"); err != nil || b.settings[KeyHashsize] != "16384" {
		t.Errorf("%v: %v", err, b.settings)
	}
	if left, ok := b.disk.Files()[ModprobePath]; ok {
		t.Errorf("left behind: %q", left)
	}
}

func TestNothingHalfDone(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(b *box)
		want error
	}{
		{"the host's max", func(b *box) { b.readOnly[KeyMax] = true }, ErrHostsOnly},
		{"no dead-man", func(b *box) { b.armErr = errors.New("fork failed") }, ErrDeadman},
		{"refused by the kernel", func(b *box) { b.refuse[keyTimeWait] = syscall.EINVAL }, syscall.EINVAL},
		{"no such key", func(b *box) { delete(b.settings, keyTimeWait) }, fs.ErrNotExist},
		{"full disk", func(b *box) { b.disk.Limited, b.disk.ErrFull = true, syscall.ENOSPC }, syscall.ENOSPC},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t)
			tt.set(b)
			before := maps.Clone(b.settings)
			_, err := b.keeper().Apply(t.Context(), b.plan(), ApplyOptions{Trial: time.Minute})
			if !errors.Is(err, tt.want) || !maps.Equal(b.settings, before) {
				t.Errorf("error %v, settings %v", err, b.settings)
			}
			if len(b.armed) > 0 {
				t.Error("a dead-man was left behind")
			}
		})
	}
}

// TestFullDiskInMidTrial: the confirmation is refused and the trial goes on;
// the undo needs no space.
func TestFullDiskInMidTrial(t *testing.T) {
	b := newBox(t)
	id := b.apply(time.Minute)
	b.disk.Limited, b.disk.ErrFull = true, syscall.ENOSPC
	if _, err := b.keeper().Confirm(t.Context(), ""); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("confirm: %v", err)
	}
	b.now += time.Hour
	if _, err := b.keeper().Expire(t.Context(), id); !errors.Is(err, syscall.ENOSPC) || !maps.Equal(b.settings, oldValues) {
		t.Errorf("expiry: %v, %v", err, b.settings)
	}
	b.disk.Limited = false
	if err := b.keeper().do(t.Context(), func(*journal.Tx) error { return nil }); err != nil || b.op(id).State != journal.Reverted {
		t.Errorf("with space again: %v, %s", err, b.op(id).State)
	}
}

func TestRevertOnAFullDisk(t *testing.T) {
	b := newBox(t)
	b.apply(time.Minute)
	b.disk.Limited, b.disk.ErrFull = true, syscall.ENOSPC
	if _, err := b.keeper().Revert(t.Context(), "", "asked"); !errors.Is(err, syscall.ENOSPC) || !maps.Equal(b.settings, oldValues) {
		t.Errorf("revert: %v, %v", err, b.settings)
	}
}

func TestAnotherNamespaceIsLeftAlone(t *testing.T) {
	b := newBox(t)
	id := b.apply(time.Minute)
	k := b.keeper()
	k.Netns = 8
	if _, err := k.Revert(t.Context(), id, "asked"); !errors.Is(err, ErrNotHere) {
		t.Errorf("revert from another namespace: %v", err)
	}
	b.now += time.Hour
	if err := k.do(t.Context(), func(*journal.Tx) error { return nil }); err != nil || !maps.Equal(b.settings, newValues) {
		t.Errorf("%v: %v", err, b.settings)
	}
}

// clock moves the box's time as a dead-man waits.
type clock struct {
	b    *box
	tick func()
}

func (c clock) Until(ctx context.Context, t time.Duration) error {
	c.b.now = max(c.b.now, t)
	if c.tick != nil {
		c.tick()
	}
	return ctx.Err()
}

func TestGuardWaitsForTheTableToDrain(t *testing.T) {
	b := newBox(t)
	id := b.apply(time.Minute)
	b.count = 100_000
	c := clock{b, func() { b.count -= 1000 }}
	if err := b.keeper().Guard(t.Context(), id, c, nil); err != nil || !maps.Equal(b.settings, oldValues) {
		t.Errorf("%v: %v", err, b.settings)
	}
	if b.count > 54_613 {
		t.Errorf("max came down at a count of %d", b.count)
	}
}

// TestGuardStartsBeforeTheFirstWrite: as it is armed, everything is planned
// only, and the trial must still last until its deadline.
func TestGuardStartsBeforeTheFirstWrite(t *testing.T) {
	b := newBox(t)
	k := b.keeper()
	id, err := k.Journal.Begin(t.Context(), journal.Op{Boot: b.boot, Netns: 7,
		Settings: []journal.Setting{{Key: keyTimeWait, Before: "120", After: "30"}},
		Trial:    &journal.Trial{DeadlineMillis: (b.now + time.Minute).Milliseconds()}})
	if err != nil {
		t.Fatal(err)
	}
	b.settings[keyTimeWait] = "30"
	until := b.now + time.Minute
	c := clock{b, func() {
		if b.now < until && b.settings[keyTimeWait] != "30" {
			t.Fatalf("taken back %s early", until-b.now)
		}
	}}
	if err := k.Guard(t.Context(), id, c, nil); err != nil || b.now < until || b.settings[keyTimeWait] != "120" {
		t.Errorf("%v at %s: %v", err, b.now, b.settings)
	}
}

func TestGuardStopsAfterConfirm(t *testing.T) {
	b := newBox(t)
	id := b.apply(time.Hour)
	c := clock{b, func() {
		if _, err := b.keeper().Confirm(t.Context(), ""); err != nil && !errors.Is(err, ErrNothing) {
			t.Fatal(err)
		}
	}}
	started := b.now
	if err := b.keeper().Guard(t.Context(), id, c, nil); err != nil || b.now-started > time.Minute || !maps.Equal(b.settings, newValues) {
		t.Errorf("%v after %s: %v", err, b.now-started, b.settings)
	}
}

// TestEarlyRevert: what is to blame goes back, the rest stays on trial.
func TestEarlyRevert(t *testing.T) {
	for _, tt := range []struct {
		name string
		per  Health // a second
		free int64
		want map[string]string
	}{
		{"calm", Health{Invalid: 6, Resets: 2}, 50, newValues},
		{"resets", Health{Resets: 500}, 50, map[string]string{KeyBuckets: "131072", KeyMax: "262144", keyTimeWait: "120"}},
		{"invalid packets", Health{Invalid: 500}, 50, map[string]string{KeyBuckets: "131072", KeyMax: "262144", keyTimeWait: "120"}},
		{"memory", Health{}, 2, map[string]string{KeyBuckets: "65536", KeyMax: "65536", keyTimeWait: "30"}},
		{"refusals never lower max", Health{Refused: 100_000}, 50, newValues},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t)
			base := Baseline(Health{}, Health{At: 10 * time.Second, Invalid: 50, Resets: 20})
			id, err := b.keeper().Apply(t.Context(), b.plan(), ApplyOptions{Trial: time.Minute, Baseline: base})
			if err != nil {
				t.Fatal(err)
			}
			look := func() (Health, error) {
				s := uint64(b.now / time.Second)
				return Health{At: b.now, Invalid: s * tt.per.Invalid, Resets: s * tt.per.Resets,
					Refused: s * tt.per.Refused, AvailableBytes: tt.free, TotalBytes: 100}, nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c := clock{b, func() {
				if b.now >= time.Hour+40*time.Second {
					cancel()
				}
			}}
			if err := b.keeper().Guard(ctx, id, c, look); !errors.Is(err, context.Canceled) {
				t.Errorf("guard: %v", err)
			}
			for key, v := range tt.want {
				if b.settings[key] != v {
					t.Errorf("%s is %s, want %s", key, b.settings[key], v)
				}
			}
		})
	}
}

// TestFewBuckets: only the kernel's rounding passes for the same number. On a
// small machine the old and the new number lie close together.
func TestFewBuckets(t *testing.T) {
	b := newBox(t)
	b.settings[KeyBuckets] = "1024"
	p := &Plan{Items: []Item{{Key: KeyBuckets, From: "1024", To: "8192"}}}
	if _, err := b.keeper().Apply(t.Context(), p, ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	op, err := b.keeper().Revert(t.Context(), "", "asked for")
	if err != nil || b.settings[KeyBuckets] != "1024" {
		t.Errorf("%s buckets after a revert that is %s: %v", b.settings[KeyBuckets], op.State, err)
	}
	b.settings[KeyBuckets] = "8192"
	p = &Plan{Items: []Item{{Key: KeyBuckets, To: "4096"}}}
	if _, err := b.keeper().Apply(t.Context(), p, ApplyOptions{}); err != nil || b.settings[KeyBuckets] != "4096" {
		t.Errorf("%s buckets, asked for 4096: %v", b.settings[KeyBuckets], err)
	}
	b.onWrite = func(string) { b.settings[KeyBuckets] = "5120" } // 5000 in whole pages
	p = &Plan{Items: []Item{{Key: KeyBuckets, To: "5000"}}}
	if _, err := b.keeper().Apply(t.Context(), p, ApplyOptions{Trial: time.Hour}); err != nil {
		t.Errorf("a rounded number is refused: %v", err)
	}
}

// TestNumbersOfNamespacesChange: after a restart, with another kernel perhaps,
// the namespace in which the system boots has another number and is the same,
// and a container has the number of an earlier one and is another.
func TestNumbersOfNamespacesChange(t *testing.T) {
	b := newBox(t)
	b.apply(0)
	b.settings, b.boot, b.now = maps.Clone(oldValues), "boot-2", time.Minute
	loadFile(b)
	k := b.keeper()
	k.Netns = 9
	b.settings[keyTimeWait] = "60"
	if st, err := k.Status(nil); err != nil || len(st.Operations) != 1 || !st.Operations[0].Drifted {
		t.Errorf("%+v, %v", st, err)
	}
	b.settings[keyTimeWait] = "30"
	if op, err := k.Revert(t.Context(), "", "asked for"); err != nil || op.State != journal.Reverted || !maps.Equal(b.settings, oldValues) {
		t.Errorf("%+v, %v, %v", op, err, b.settings)
	}
	if text, ok := b.disk.Files()[SysctlPath]; ok {
		t.Errorf("the file is still there:\n%s", text)
	}

	b = newBox(t)
	inside := func() *Keeper {
		k := b.keeper()
		k.NoFiles = "a container"
		return k
	}
	p := &Plan{Items: []Item{{Key: keyTimeWait, To: "30"}}}
	if _, err := inside().Apply(t.Context(), p, ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	b.settings, b.boot = maps.Clone(newValues), "boot-2"
	if st, err := inside().Status(nil); err != nil || len(st.Operations) != 1 || !strings.Contains(st.Operations[0].Means, "restarted") {
		t.Errorf("%+v, %v", st, err)
	}
	if op, err := inside().Revert(t.Context(), "", "asked for"); !errors.Is(err, ErrNothing) || !maps.Equal(b.settings, newValues) {
		t.Errorf("%+v, %v, %v", op, err, b.settings)
	}
}

// TestConfirmIsFinishedAtHome: what a killed confirmation left is not finished
// from where no file can be written.
func TestConfirmIsFinishedAtHome(t *testing.T) {
	b := newBox(t)
	b.apply(time.Minute)
	b.disk.Calls, b.disk.DieAt = nil, 5 // the announcement is durable, the files are not
	if op, err := b.keeper().Confirm(t.Context(), ""); err == nil || b.op0().Data[dataConfirming] == "" {
		t.Fatalf("%+v, %v, %q", op, err, b.disk.Calls)
	}
	k := b.keeper()
	k.Netns, k.NoFiles = 8, "a container"
	if op, err := k.Revert(t.Context(), "", "asked for"); !errors.Is(err, ErrNothing) {
		t.Errorf("%+v, %v", op, err)
	}
	if op := b.op0(); op.State != journal.Verified {
		t.Errorf("it is %s, and no file is written", op.State)
	}
}

// op0 restarts the machine and returns the first operation.
func (b *box) op0() *journal.Op {
	b.t.Helper()
	b.disk.Restart(false)
	log, err := b.keeper().Journal.Read()
	if err != nil || len(log.Ops) == 0 {
		b.t.Fatal(log, err)
	}
	return log.Ops[0]
}

// TestEntriesAreNotReverted: an eviction is no change of settings, and its
// record stays as it is.
func TestEntriesAreNotReverted(t *testing.T) {
	b := newBox(t)
	id, err := b.keeper().Journal.Begin(t.Context(), journal.Op{Actor: "evict", Boot: b.boot, Netns: 7, Entries: &journal.Entries{Action: "delete"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.keeper().Journal.Mark(t.Context(), id, journal.Change{State: journal.Confirmed}); err != nil {
		t.Fatal(err)
	}
	if op, err := b.keeper().Revert(t.Context(), id, "asked for"); !errors.Is(err, ErrEntries) {
		t.Errorf("%+v, %v", op, err)
	}
	if o := b.op(id); len(o.Data) > 0 {
		t.Errorf("its record became %+v", o)
	}
}

// TestJournalLostInMidTrial: the dead-man remembers what it guards, and does
// not take back what was confirmed before the journal went.
func TestJournalLostInMidTrial(t *testing.T) {
	for name, want := range map[string]map[string]string{"on trial": oldValues, "confirmed": newValues} {
		b := newBox(t)
		id := b.apply(time.Minute)
		gone := false
		c := clock{b, func() {
			if gone {
				return
			}
			gone = true
			if name == "confirmed" {
				if _, err := b.keeper().Confirm(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			b.put("/state/journal.jsonl", "")
		}}
		err := b.keeper().Guard(t.Context(), id, c, nil)
		if err != nil || !maps.Equal(b.settings, want) || b.now < time.Hour+time.Minute {
			t.Errorf("%s: %v after %s: %v", name, err, b.now-time.Hour, b.settings)
		}
	}
}

// TestJournalLostOnAFullTable: max is held then, too.
func TestJournalLostOnAFullTable(t *testing.T) {
	b := newBox(t)
	id := b.apply(time.Minute)
	b.count = 200_000
	var held map[string]string
	c := clock{b, func() {
		b.put("/state/journal.jsonl", "")
		if b.now > time.Hour+3*time.Minute {
			held, b.count = maps.Clone(b.settings), 1000
		}
	}}
	err := b.keeper().Guard(t.Context(), id, c, nil)
	if err != nil || !maps.Equal(b.settings, oldValues) || held[KeyMax] != newValues[KeyMax] || held[KeyBuckets] != newValues[KeyBuckets] || held[keyTimeWait] != "120" {
		t.Errorf("%v: held %v, then %v", err, held, b.settings)
	}
}

// TestDeadmanThatCannotBeStopped: what is confirmed is confirmed.
func TestDeadmanThatCannotBeStopped(t *testing.T) {
	b := newBox(t)
	b.disarmErr = errors.New("systemctl: connection refused")
	b.apply(time.Minute)
	if op, err := b.keeper().Confirm(t.Context(), ""); err != nil || op.State != journal.Confirmed {
		t.Errorf("%+v, %v", op, err)
	}
	if op, err := b.keeper().Revert(t.Context(), "", "asked"); err != nil || op.State != journal.Reverted {
		t.Errorf("%+v, %v", op, err)
	}
}

// TestVerifyMissesOurFile: without it nothing is kept, and that is found.
func TestVerifyMissesOurFile(t *testing.T) {
	b := newBox(t)
	b.apply(0)
	if err := (disk.Files{FS: b.disk}).RemoveFile(SysctlPath); err != nil {
		t.Fatal(err)
	}
	v, err := b.keeper().Verify(nil, nil)
	if err != nil || v.OK() || len(v.Settings) != 3 {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := b.keeper().Revert(t.Context(), "", "asked"); err != nil {
		t.Fatal(err)
	}
	if v, err := b.keeper().Verify(nil, nil); err != nil || !v.OK() || len(v.Settings) > 0 {
		t.Errorf("after the revert: %+v, %v", v, err)
	}
}

// TestMoreRoomWhileMaxIsHeld: the table that keeps an old limit from coming back
// is the one that needs a higher one. What is held waits for the new trial.
func TestMoreRoomWhileMaxIsHeld(t *testing.T) {
	for _, confirm := range []bool{true, false} {
		b := newBox(t)
		first := b.apply(time.Minute)
		b.count = 200_000
		if op, err := b.keeper().Revert(t.Context(), "", "asked"); err != nil || op.State != journal.Deferred {
			t.Fatalf("%+v, %v", op, err)
		}
		p := &Plan{Items: []Item{{Key: KeyMax, From: "262144", To: "524288"}}}
		id, err := b.keeper().Apply(t.Context(), p, ApplyOptions{Trial: time.Hour})
		if err != nil || b.settings[KeyMax] != "524288" {
			t.Fatalf("max %s: %v", b.settings[KeyMax], err)
		}
		b.count = 1000
		if left, err := b.keeper().Expire(t.Context(), first); !left || err != nil || b.settings[KeyBuckets] != "131072" {
			t.Errorf("during the second trial: left %v, %v, %v", left, err, b.settings)
		}
		want, settled := maps.Clone(oldValues), journal.Reverted
		if confirm {
			want[KeyMax], want[KeyBuckets], settled = "524288", "131072", journal.Foreign
			_, err = b.keeper().Confirm(t.Context(), "")
		} else {
			_, err = b.keeper().Revert(t.Context(), id, "asked")
		}
		if err != nil {
			t.Fatal(err)
		}
		if left, err := b.keeper().Expire(t.Context(), first); left || err != nil || !maps.Equal(b.settings, want) {
			t.Errorf("confirm %v: left %v, %v, %v", confirm, left, err, b.settings)
		}
		if o := b.op(first); o.Setting(KeyMax).State != settled {
			t.Errorf("confirm %v: the first is %+v", confirm, o)
		}
	}
}
