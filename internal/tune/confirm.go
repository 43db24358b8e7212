package tune

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/notrack"
)

// Paths of our own permanent files. No other file is ever written.
const (
	SysctlPath      = "/etc/sysctl.d/90-ctwarden.conf"
	ModulesLoadPath = "/etc/modules-load.d/ctwarden.conf"
	ModprobePath    = "/etc/modprobe.d/ctwarden.conf"
)

const modulesLoadText = "# Written by ctwarden: the settings in sysctl.d exist only once the module is loaded.\nnf_conntrack\n"

// dataConfirming marks an operation whose files may be half written: whoever
// comes next completes them.
const dataConfirming = "confirming"

// Confirm ends a trial for good and writes the files that bring the settings
// back at the next boot. If the files cannot be written the trial goes on. An
// id of "" means the trial that runs.
func (k *Keeper) Confirm(ctx context.Context, id string) (*journal.Op, error) {
	var op *journal.Op
	err := k.do(ctx, func(tx *journal.Tx) error {
		if id == "" {
			t := k.trialOf(tx.Log())
			if t == nil {
				return fmt.Errorf("no trial is running: %w", ErrNothing)
			}
			id = t.ID
		}
		o, err := k.mine(tx, id)
		if err != nil {
			return err
		}
		op = o
		if err := k.confirmable(o); err != nil {
			return err
		}
		return k.confirm(tx, o)
	})
	if err == nil {
		k.dismiss(op)
	}
	return op, err
}

// dismiss stops the dead-man of an operation that is closed. If it cannot be
// stopped the journal tells it that nothing is left to do.
func (k *Keeper) dismiss(op *journal.Op) {
	if err := k.disarm(op); err != nil {
		k.say("%s: its dead-man could not be stopped and will find nothing to do: %v", op.ID, err)
	}
}

// confirm announces the files, writes them and closes the operation. From the
// announcement on a crash is completed forward; an error takes it back.
func (k *Keeper) confirm(tx *journal.Tx, o *journal.Op) error {
	if err := tx.Note(o.ID, map[string]string{dataConfirming: "1"}); err != nil {
		return err
	}
	if err := k.finishConfirm(tx, o); err != nil {
		return errors.Join(err, tx.Note(o.ID, map[string]string{dataConfirming: ""}))
	}
	return nil
}

// confirmable refuses what is over, held, or no longer stands on the machine.
func (k *Keeper) confirmable(o *journal.Op) error {
	if len(standing(o)) == 0 {
		return fmt.Errorf("%s is %s: %w", o.ID, o.State, ErrNothing)
	}
	for _, s := range o.Settings {
		if s.State != journal.Verified {
			continue
		}
		live, err := k.Settings.Read(s.Key)
		if err != nil {
			return err
		}
		if !k.sameValue(s.Key, s.After, live) {
			return fmt.Errorf("%s is %s, not %s: somebody else has written it; revert the rest or plan again: %w", s.Key, live, s.After, ErrStale)
		}
	}
	return nil
}

// standing are the settings of an operation that are in force.
func standing(o *journal.Op) []string {
	var keys []string
	for _, s := range o.Settings {
		if s.State == journal.Verified {
			keys = append(keys, s.Key)
		}
	}
	return keys
}

// finishConfirm writes the files and closes the operation. It can be repeated.
func (k *Keeper) finishConfirm(tx *journal.Tx, o *journal.Op) error {
	keys := standing(o)
	set := map[string]string{}
	for _, s := range o.Settings {
		if slices.Contains(keys, s.Key) {
			set[s.Key] = s.After
		}
	}
	if err := k.keepFiles(set, nil); err != nil {
		return err
	}
	if err := k.overtake(tx, o); err != nil {
		return err
	}
	return tx.Mark(o.ID, journal.Change{State: journal.Confirmed, Keys: keys, Data: map[string]string{dataConfirming: ""}})
}

// overtake closes what earlier operations still hold of the settings that are
// now confirmed, and of the buckets that a max of those needs.
func (k *Keeper) overtake(tx *journal.Tx, o *journal.Op) error {
	var errs []error
	for _, other := range tx.Log().Open() {
		var keys []string
		for _, s := range other.Settings {
			needed := o.Setting(s.Key) != nil || o.Setting(KeyMax) != nil && (s.Key == KeyBuckets || s.Key == KeyHashsize)
			if s.State == journal.Deferred && needed {
				keys = append(keys, s.Key)
			}
		}
		if other.ID != o.ID && k.here(other) && len(keys) > 0 {
			errs = append(errs, tx.Mark(other.ID, journal.Change{State: journal.Foreign, Keys: keys, Note: o.ID + " has taken its place"}))
		}
	}
	return errors.Join(errs...)
}

// unkeep takes an operation's settings out of our files, unless a later one
// has set them to something else. What an earlier one keeps comes back.
func (k *Keeper) unkeep(log *journal.Log, o *journal.Op) error {
	set, drop := map[string]string{}, map[string]string{}
	for _, s := range o.Settings {
		drop[s.Key] = s.After
	}
	for _, earlier := range log.Ops {
		if earlier.ID == o.ID {
			break
		}
		if earlier.State != journal.Confirmed || !k.here(earlier) {
			continue
		}
		for _, s := range earlier.Settings {
			if _, ours := drop[s.Key]; ours && s.State == journal.Confirmed && s.After == o.Setting(s.Key).Before {
				set[s.Key] = s.After
			}
		}
	}
	return k.keepFiles(set, drop)
}

// keepFiles brings our files in line: set is added, drop removed where the
// value is the one named. Files with nothing in them are removed.
func (k *Keeper) keepFiles(set, drop map[string]string) error {
	if k.NoFiles != "" {
		k.say("no file is written: %s", k.NoFiles)
		return nil
	}
	kept, err := k.kept()
	if err != nil {
		return err
	}
	for key, v := range drop {
		if kept[key] != v {
			delete(set, key)
			continue
		}
		delete(kept, key)
	}
	maps.Copy(kept, set)
	if err := k.keepRules(kept[notrack.Key]); err != nil {
		return err
	}
	delete(kept, notrack.Key)
	items := ordered(kept)
	if err := k.keepModprobe(kept[KeyHashsize]); err != nil {
		return err
	}
	if len(items) == 0 {
		return errors.Join(k.remove(ModulesLoadPath), k.remove(SysctlPath))
	}
	// The module first: with it alone nothing changes, without it the settings
	// are lost at boot.
	if err := k.replace(ModulesLoadPath, modulesLoadText); err != nil {
		return err
	}
	return k.replace(SysctlPath, SysctlFile(items, "confirm"))
}

// keepModprobe serves kernels whose buckets cannot be set by sysctl. At load
// the kernel makes max 8 times it; sysctl.d sets max afterwards.
func (k *Keeper) keepModprobe(hashsize string) error {
	if hashsize == "" {
		return k.remove(ModprobePath)
	}
	return k.replace(ModprobePath, "# Written by ctwarden: this kernel has no sysctl for the hash table's size.\noptions nf_conntrack hashsize="+hashsize+"\n")
}

func (k *Keeper) replace(path, content string) error {
	old, err := k.Files.ReadFile(path)
	if err == nil && string(old) == content {
		return nil
	}
	if err := k.Files.WriteFile(path, []byte(content)); err != nil {
		return err
	}
	k.say("%s: written", path)
	return nil
}

// remove deletes a file of ours. It is asked for even where the file is gone:
// its name may not be off the disk yet.
func (k *Keeper) remove(path string) error {
	_, there := k.Files.ReadFile(path)
	if err := k.Files.RemoveFile(path); err != nil {
		return err
	}
	if there == nil {
		k.say("%s: removed", path)
	}
	return nil
}

// kept reads what our files set now.
func (k *Keeper) kept() (map[string]string, error) {
	kept := map[string]string{}
	data, err := k.Files.ReadFile(SysctlPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if ok && !strings.HasPrefix(key, "#") && !strings.HasPrefix(key, ";") {
			kept[key] = value
		}
	}
	data, err = k.Files.ReadFile(ModprobePath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "options nf_conntrack hashsize="); ok {
			kept[KeyHashsize] = v
		}
	}
	rules, err := k.keptRules()
	if rules != "" {
		kept[notrack.Key] = rules
	}
	return kept, err
}

// ordered lists settings as they are to be written: buckets, max, the rest by
// name.
func ordered(kept map[string]string) []Item {
	var items []Item
	for key, v := range kept {
		items = append(items, Item{Key: key, To: v})
	}
	rank := func(key string) int {
		switch key {
		case KeyBuckets, KeyHashsize:
			return 0
		case KeyMax:
			return 1
		}
		return 2
	}
	slices.SortFunc(items, func(a, b Item) int {
		if d := rank(a.Key) - rank(b.Key); d != 0 {
			return d
		}
		return strings.Compare(a.Key, b.Key)
	})
	return items
}
