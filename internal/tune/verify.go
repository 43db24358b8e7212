package tune

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"strings"
	"text/tabwriter"

	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/notrack"
)

// VerifySchema names the JSON form of a [Verification].
const VerifySchema = "ctwarden.verify/1"

// Boot says what the next boot will give a setting.
type Boot interface {
	// AtBoot returns the value after the next boot, "" for the kernel's default,
	// and where it comes from.
	AtBoot(key string) (value, from string)
}

// Verification compares what should be with what is, what the files say and
// what the next boot will give.
type Verification struct {
	Settings []Verified `json:"settings"`
	// Problems are files that are missing and the like.
	Problems []string `json:"problems,omitempty"`
}

// Verified is one setting.
type Verified struct {
	Key    string `json:"key"`
	Want   string `json:"want"`
	Live   string `json:"live,omitempty"`
	File   string `json:"file,omitempty"`    // what our file sets
	AtBoot string `json:"at_boot,omitempty"` // what the next boot gives
	From   string `json:"at_boot_from,omitempty"`
	OK     bool   `json:"ok"`
	Why    string `json:"why,omitempty"`
}

// Verify compares the machine with our files, or with a plan if p is not nil.
// boot may be nil.
func (k *Keeper) Verify(p *Plan, boot Boot) (*Verification, error) {
	kept, err := k.kept()
	if err != nil {
		return nil, err
	}
	should, err := k.confirmed()
	if err != nil {
		return nil, err
	}
	maps.Copy(should, kept)
	want := ordered(should)
	if p != nil {
		want = p.Items
	}
	v := &Verification{Settings: []Verified{}}
	for _, it := range want {
		v.Settings = append(v.Settings, k.verifyOne(it, kept, boot))
	}
	delete(should, notrack.Key) // its table needs no setting to be there
	if _, err := k.Files.ReadFile(ModulesLoadPath); errors.Is(err, fs.ErrNotExist) && len(should) > 0 {
		v.Problems = append(v.Problems, ModulesLoadPath+" is missing: at boot the settings may come before the module and be lost")
	}
	return v, nil
}

// confirmed are the settings that were confirmed here, by the journal: a file
// of ours may have gone. Whoever may not read the journal goes by the files.
func (k *Keeper) confirmed() (map[string]string, error) {
	should := map[string]string{}
	if k.NoFiles != "" {
		return should, nil
	}
	log, err := k.Journal.Read()
	if errors.Is(err, fs.ErrPermission) {
		return should, nil
	}
	if err != nil {
		return nil, err
	}
	for _, o := range log.Ops {
		for _, s := range o.Settings {
			if k.here(o) && s.State == journal.Confirmed && s.After != "" {
				should[s.Key] = s.After
			}
		}
	}
	return should, nil
}

func (k *Keeper) verifyOne(it Item, kept map[string]string, boot Boot) Verified {
	r := Verified{Key: it.Key, Want: it.To, File: kept[it.Key], OK: true}
	fault := func(format string, args ...any) {
		r.OK = false
		if r.Why != "" {
			r.Why += "; "
		}
		r.Why += fmt.Sprintf(format, args...)
	}
	live, err := k.Settings.Read(it.Key)
	r.Live = live
	switch {
	case err != nil:
		fault("not there now: %v", err)
	case live == "" && it.To != "":
		fault("it is gone now")
	case !k.sameValue(it.Key, it.To, live):
		fault("it is %s now", live)
	}
	if !k.sameValue(it.Key, it.To, r.File) {
		fault("no file of ours keeps it")
	}
	switch {
	case it.Key == notrack.Key:
		r.AtBoot, r.From = k.rulesAtBoot(r.File)
	case boot == nil:
		return r
	default:
		r.AtBoot, r.From = boot.AtBoot(it.Key)
	}
	switch {
	case r.AtBoot == "" && it.Key == notrack.Key:
		fault("the next boot does not load the rules: %s", r.From)
	case r.AtBoot == "":
		fault("the next boot gives the kernel's default (%s)", r.From)
	case !k.sameValue(it.Key, it.To, r.AtBoot):
		fault("the next boot gives %s (%s)", r.AtBoot, r.From)
	}
	return r
}

// OK reports whether everything is as it should be.
func (v *Verification) OK() bool {
	for _, s := range v.Settings {
		if !s.OK {
			return false
		}
	}
	return len(v.Problems) == 0
}

// Text writes the verification for a person.
func (v *Verification) Text(w io.Writer) error {
	switch {
	case len(v.Settings) == 0 && len(v.Problems) == 0:
		_, err := fmt.Fprintln(w, "Nothing is kept by ctwarden, so there is nothing to verify.")
		return err
	case v.OK() && len(v.Settings) == 1:
		fmt.Fprintln(w, "1 setting stands as it should, now and at the next boot.")
	case v.OK():
		fmt.Fprintf(w, "%d settings stand as they should, now and at the next boot.\n", len(v.Settings))
	default:
		fmt.Fprintln(w, "Not everything stands as it should.")
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range v.Settings {
		mark := "ok"
		if !s.OK {
			mark = "!"
		}
		fmt.Fprintf(tw, "%s\t%s\twant %s\tnow %s\tboot %s\t%s\n", mark, strings.TrimPrefix(s.Key, Prefix),
			s.Want, orUnknown(s.Live), orUnknown(s.AtBoot), s.Why)
	}
	err := tw.Flush()
	for _, p := range v.Problems {
		_, err = fmt.Fprintf(w, "! %s\n", p)
	}
	return err
}
