package tune

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/ctwarden/ctwarden/internal/notrack"
)

// Paths of our own files that bring untracked flows back at boot. The drop-in
// makes the boot want the unit, so it is written last and removed first:
// without it the other two do nothing.
const (
	RulesPath     = "/etc/ctwarden/notrack.nft"
	RulesUnit     = "ctwarden-notrack.service"
	RulesUnitPath = "/etc/systemd/system/" + RulesUnit
	RulesWantPath = "/etc/systemd/system/sysinit.target.d/ctwarden-notrack.conf"
)

// rulesUnitText orders the rules before any interface is up, and after the
// distribution's own rules, whose file begins with "flush ruleset". A restart
// or reload of those brings ours back too.
const rulesUnitText = `# Written by ctwarden confirm; "ctwarden revert" removes it.
[Unit]
Description=Untracked flows of ctwarden
Documentation=man:nft(8)
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target
After=nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
ConditionPathExists=` + RulesPath + `

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f ` + RulesPath + `
ExecReload=/usr/sbin/nft -f ` + RulesPath + `
`

const rulesWantText = `# Written by ctwarden confirm; "ctwarden revert" removes it.
[Unit]
Wants=` + RulesUnit + `
`

func rulesText(specs []notrack.Spec) string {
	return "# Written by ctwarden confirm; loaded at boot by " + RulesUnit + ".\n" + notrack.NFT(specs)
}

// keepRules brings the files of untracked flows in line with a value of
// [notrack.Key]; "" removes them.
func (k *Keeper) keepRules(value string) error {
	if value == "" {
		for _, path := range []string{RulesWantPath, RulesUnitPath, RulesPath} {
			if err := k.remove(path); err != nil {
				return err
			}
		}
		return nil
	}
	specs, err := notrack.ParseValue(value)
	if err != nil {
		return err
	}
	if err := k.replace(RulesPath, rulesText(specs)); err != nil {
		return err
	}
	if k.NoUnits != "" {
		k.say("%s is written, but nothing loads it at boot: %s. Have `nft -f %s` run there before the network is up", RulesPath, k.NoUnits, RulesPath)
		return nil
	}
	if err := k.replace(RulesUnitPath, rulesUnitText); err != nil {
		return err
	}
	return k.replace(RulesWantPath, rulesWantText)
}

// keptRules reads which flows our file makes untracked.
func (k *Keeper) keptRules() (string, error) {
	data, err := k.Files.ReadFile(RulesPath)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return notrack.Value(notrack.SpecsOf(string(data))), nil
}

// rulesAtBoot says what the next boot gives our table, and why it gives
// nothing.
func (k *Keeper) rulesAtBoot(kept string) (value, from string) {
	if kept == "" {
		return "", "no file of ours keeps it"
	}
	if k.NoUnits != "" {
		return "", "nothing of ours loads " + RulesPath + ": " + k.NoUnits
	}
	specs, err := notrack.ParseValue(kept)
	if err != nil {
		return "", RulesPath + " cannot be read"
	}
	for _, f := range []struct{ path, want string }{
		{RulesPath, rulesText(specs)}, {RulesUnitPath, rulesUnitText}, {RulesWantPath, rulesWantText},
	} {
		data, err := k.Files.ReadFile(f.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", f.path + " is missing"
		case err != nil:
			return "", err.Error()
		case string(data) != f.want:
			return "", fmt.Sprintf("%s is not as ctwarden wrote it", f.path)
		}
	}
	return kept, RulesUnitPath
}
